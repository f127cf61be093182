#!/usr/bin/env python
"""Entry point of the project's image: passwords from files into the environment, then the command in its place.

Prefect takes its secrets from the environment only, and a URL holds a password in its middle. So, before the command:

* ``NAME_PASSWORD_FILE`` puts the content of a file as the password into the URL in ``NAME``;
* ``PREFECT_..._FILE`` becomes ``PREFECT_...`` with the content of the file, but for Prefect's own settings of that end;
* ``COINSWARM_..._FILE`` is read by the program itself.

A file that may be empty and is, counts as none: there are no alerts, or the Prefect server asks for no password.

Called by another name, it becomes the program of that name elsewhere in PATH: so `docker exec`, which knows no entry
point, reaches the command line with its secrets. Nothing secret is an argument, and nothing is written anywhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

PASSWORD = "_PASSWORD_FILE"  # noqa: S105  # the end of a variable's name
FILE = "_FILE"
PREFECTS_OWN = frozenset({"PREFECT_API_SSL_CERT_FILE"})
"""Settings of Prefect that are a path, and no secret."""
MAY_BE_EMPTY = frozenset({"COINSWARM_WEBHOOK_URL_FILE", "PREFECT_API_AUTH_STRING_FILE"})
EX_CONFIG = 78


class SecretError(Exception):
    """A secret that is not there, with what to do about it."""


def secret(variable: str, path: str) -> str:
    """The one line in a file.

    Raises
    ------
    SecretError
        The file cannot be read, is empty, or holds several lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SecretError(f"{variable} names {path}, which cannot be read: {reason}") from error
    if len(text.splitlines()) != 1:
        raise SecretError(f"{variable} names {path}, which must hold the secret as one line")
    return text


def is_blank(path: str) -> bool:
    """Whether a file is there and holds nothing; what is wrong with any other one, its reader says."""
    try:
        return not Path(path).read_bytes().strip()
    except OSError:
        return False


def with_password(url: str, password: str) -> str:
    """The URL with a password in it; user, host and all else stay."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    user = quote(unquote(parts.username or ""), safe="")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def filled(environment: dict[str, str]) -> dict[str, str]:
    """The environment with the secrets that it names.

    Raises
    ------
    SecretError
        One of them is not there.
    """
    found = dict(environment)
    for name, path in environment.items():
        if name in MAY_BE_EMPTY and is_blank(path):
            del found[name]
        elif name.endswith(PASSWORD):
            target = name.removesuffix(PASSWORD)
            if target not in environment:
                raise SecretError(f"{name} is set, and {target}, the URL that it belongs to, is not")
            found[target] = with_password(environment[target], secret(name, path))
            del found[name]
        elif name.startswith("PREFECT_") and name.endswith(FILE) and name not in PREFECTS_OWN:
            target = name.removesuffix(FILE)
            if environment.get(target):
                raise SecretError(f"{name} and {target} are both set: unset one of them")
            found[target] = secret(name, path)
            del found[name]
    return found


def asked(arguments: list[str], path: str) -> list[str]:
    """The command that arguments, this program's own name first, ask for; empty where there is none.

    Parameters
    ----------
    arguments
        As `sys.argv` has them.
    path
        Folders of programs, as PATH has them.
    """
    called = Path(arguments[0])
    if called.name == Path(__file__).resolve().name:
        return arguments[1:]
    own = called.parent.resolve()
    others = os.pathsep.join(folder for folder in path.split(os.pathsep) if Path(folder).resolve() != own)
    return [shutil.which(called.name, path=others) or called.name, *arguments[1:]]


def main() -> None:
    """Become the command."""
    command = asked(sys.argv, os.environ.get("PATH", os.defpath))
    if not command:
        sys.exit("coinswarm: the container was given no command")
    try:
        environment = filled(dict(os.environ))
    except SecretError as error:
        remedy = "Make Compose's with deployments/compose/make-secrets; put those of a work pool where it mounts them."
        print(f"coinswarm: {error}. {remedy}", file=sys.stderr)
        sys.exit(EX_CONFIG)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606  # that is its purpose
    except FileNotFoundError:
        sys.exit(f"coinswarm: there is no program {command[0]} in this image")


if __name__ == "__main__":
    main()
