"""Secrets stay out of what people and programs read: logs, errors, reports, artifacts.

Passwords come in URLs, from the environment or from files (`memory.settings`). The settings make each of them known
here when they are read; `mask` takes them out of any text, together with whatever looks like a password in a URL.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

MASK = "***"
SHORTEST_KNOWN = 6
"""Shorter passwords are masked inside URLs only: elsewhere they are too likely to be a part of some word."""
PASSWORD_OPTIONS = frozenset({"password", "pgpassword", "sslpassword", "ssl_password", "sentinel_password"})
"""Options of a URL, or variables of a client, that hold a secret."""
PASSWORD_VARIABLES = ("PREFECT_API_AUTH_STRING",)
"""Variables that hold USER:PASSWORD."""
SHORTEST_PATH = 16
"""Of a secret URL the path is masked by itself where it is as long as this: shorter ones are names that others have."""

_STORES = r"(?:rediss?(?:\+sentinel)?|unix|postgres(?:ql)?(?:\+\w+)?)"
# A password that should have been percent-encoded may hold anything: up to the last @ of the word, all of it is taken.
_STORE_PASSWORD = re.compile(rf"(?i)\b({_STORES}://[^\s:@/?#\"']*):[^\s\"']*@")
_URL_PASSWORD = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:@/?#\"']*):[^\s@/?#\"']+@")
# As URLs and libpq's settings have it, bare or quoted, and as a mapping of such options is shown.
_NAMES = "|".join(sorted(PASSWORD_OPTIONS))
_OPTION = re.compile(rf"(?i)\b({_NAMES})(\s*=\s*)(?!\*\*\*)('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&\"']+)")
_ENTRY = re.compile(rf"(?i)([\"'](?:{_NAMES})[\"']\s*:\s*[\"'])(?!\*\*\*)[^\"']+(?=[\"'])")

_known: set[str] = set()
_lock = threading.Lock()


def remember(secret: str | SecretStr) -> None:
    """Make a secret known, so that `mask` takes it out: a password, or a URL with one.

    Of the URL of a store its passwords are secret, any other one (a webhook's, whose path is its password) as a whole.
    """
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    if re.match(rf"(?i){_STORES}://", text) is None:
        _keep({text, *_secret_path(text)})
    remember_url(text)


def remember_environment() -> None:
    """As `remember`, for what variables of other programs hold in this process: the password of the Prefect server."""
    for variable in PASSWORD_VARIABLES:
        secret = os.environ.get(variable, "")
        _keep({secret, secret.partition(":")[2]})


def remember_url(url: str) -> None:
    """As `remember`, for a URL of which only the passwords are secret, or a list of such."""
    for each in re.split(r"(?i),(?=\s*[a-z][a-z0-9+.-]*://)", url):
        _keep(_passwords(each))


def _keep(found: set[str]) -> None:
    with _lock:
        _known.update(value for value in found | {unquote(value) for value in found} if len(value) >= SHORTEST_KNOWN)


def mask(text: str) -> str:
    """The text with `***` in place of known secrets and of passwords in URLs. About 10 microseconds for a line."""
    with _lock:
        known = sorted(_known, key=len, reverse=True)
    for secret in known:
        if secret in text:
            text = text.replace(secret, MASK)
    if "://" in text:
        text = _STORE_PASSWORD.sub(rf"\1:{MASK}@", text)
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    if "=" in text:
        text = _OPTION.sub(rf"\1\2{MASK}", text)
    if "assword" in text.lower():
        text = _ENTRY.sub(rf"\1{MASK}", text)
    return text


def redacted(url: str) -> str:
    """The URL fit for a message: passwords in it, in its options too, become ``***``; a broken URL loses all up to its
    last @."""
    return mask(url)


def hide_secrets(error: BaseException) -> None:
    """Take secrets out of what an error says, and out of the errors that it came from: others will show them.

    Arguments, notes and fields of text are masked; any other argument that shows a secret becomes its masked text.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        shown = tuple(_masked(part) for part in one.args)
        if any(after is not before for after, before in zip(shown, one.args, strict=True)):
            one.args = shown
        if isinstance(one, OSError):
            for name in ("filename", "filename2"):
                if (path := getattr(one, name)) is not None:
                    setattr(one, name, _masked(path))
        fields = vars(one)
        fields |= {name: _masked(value) for name, value in fields.items() if isinstance(value, str)}
        if "__notes__" in fields:
            fields["__notes__"] = [_masked(note) for note in fields["__notes__"]]
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def _masked(part: Any) -> Any:
    """The part itself where it shows no secret."""
    if isinstance(part, BaseException):
        return part
    text = part if isinstance(part, str) else repr(part)
    masked = mask(text)
    return part if masked == text else masked


def print_masked(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback on stderr, without secrets: to be put into ``sys.excepthook``."""
    sys.stderr.write(mask("".join(traceback.format_exception(kind, error, trace))))


class SecretFilter(logging.Filter):
    """Takes secrets out of log records: message, arguments and traceback. To be put on handlers.

    A record is masked once for all handlers: its message is formatted here.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Part of logging: masks the record, and lets it pass."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Arguments that do not fit: logging would show them on stderr as they are.
            message = f"{record.msg} with {record.args!r}, which do not fit"
            record.msg, record.args = message, ()
        masked = mask(message)
        if masked != message:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _TRACEBACKS.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = mask(record.exc_text)
        return True


_TRACEBACKS = logging.Formatter()


def _secret_path(url: str) -> set[str]:
    """Path and query of a URL that is a secret as a whole: clients show its host in other letters than it was given."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return set()
    rest = url.partition(parts.netloc)[2] if parts.netloc else ""
    return {rest} if len(rest) >= SHORTEST_PATH else set()


def _passwords(url: str) -> set[str]:
    """What is secret in the URL of a store, as it is written."""
    found = {match for match in re.findall(r"(?i)\b[a-z0-9+.-]+://[^:@/?#]*:(.*)@", url) if match}
    try:
        options = parse_qsl(urlsplit(url).query)
    except ValueError:
        return found  # Not to be read as a URL; the password before its last @ is known all the same.
    return found | {value for name, value in options if name in PASSWORD_OPTIONS}
