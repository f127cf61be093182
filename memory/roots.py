"""Paths that come from outside: they stay under the folders that the configuration names.

A flow's parameters can be set by whoever has the password of the Prefect server. That must not become a way to read or
write any file that the worker's user may: so flows look at every path they are given here. The owner's own commands
say beforehand which paths they mean (`trust`).
"""

from __future__ import annotations

import os
from pathlib import Path

from memory.embedded.home import Home
from memory.errors import CoinswarmError
from memory.settings import Settings

__all__ = ["PathOutsideRootsError", "checked_path", "reading_roots", "trust", "writing_roots"]

PACKAGE_DATA = (Path(__file__).resolve().parents[1] / "agents" / "data",)
"""What is shipped: sample markets and encoders."""
CREDENTIALS = "acl"
"""Folder of the home that holds the passwords of Redis users."""
ROOTS_VARIABLE = "COINSWARM_DATA_ROOTS"
_WILDCARDS = frozenset("*?[")


class PathOutsideRootsError(CoinswarmError, ValueError):
    """A path that lies under none of the configured folders, or among the embedded servers' own files."""


def writing_roots(settings: Settings) -> tuple[Path, ...]:
    """Folders under which flows may write: the home, and what the setting `data_roots` adds."""
    return (settings.home, *settings.data_roots)


def reading_roots(settings: Settings) -> tuple[Path, ...]:
    """Folders under which flows may read: as `writing_roots`, the market history and what is shipped."""
    history = () if settings.history is None else (settings.history,)
    return (*writing_roots(settings), *history, *PACKAGE_DATA)


def checked_path(
    path: str | os.PathLike[str], settings: Settings, *, what: str, writing: bool = False, pattern: bool = False
) -> Path:
    """The absolute path, free of symbolic links, where it lies under a configured folder.

    Parameters
    ----------
    path
        A file or folder, which need not exist.
    what
        What the path is, for the error: "the parameter market".
    writing
        Whether it is to be written.
    pattern
        Whether it may be a glob, of which the part before the first wildcard is checked: its caller looks at each path
        that it finds as well.

    Raises
    ------
    PathOutsideRootsError
        It leads elsewhere (links and ``..`` are followed first), or to the files of the home's embedded servers.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise PathOutsideRootsError(f"{what} {text!r} is no path.", remedy="Leave the null characters out.")
    try:
        fixed, wild = _split(text) if pattern else (Path(text).expanduser(), ())
        resolved = fixed.resolve()
    except (OSError, RuntimeError) as error:  # A loop of links, a name that is too long, a user who is not there.
        raise PathOutsideRootsError(
            f"{what} {text!r} cannot be followed ({error}).", remedy="Name the file or folder itself."
        ) from error
    if ".." in wild:
        raise PathOutsideRootsError(
            f"{what} {text!r} goes up behind a wildcard.", remedy="Write '..' before the first wildcard, or not at all."
        )
    roots = writing_roots(settings) if writing else reading_roots(settings)
    if not any(resolved.is_relative_to(root.expanduser().resolve()) for root in roots):
        raise PathOutsideRootsError(
            f"{what} {text!r} leads to {resolved}, outside of the folders that flows may "
            f"{'write to' if writing else 'read'} ({', '.join(map(str, roots))}).",
            remedy=f"Put it under one of them, or add its folder to {ROOTS_VARIABLE} where the flows run.",
        )
    private = next((folder for folder in _private_folders(settings) if resolved.is_relative_to(folder)), None)
    if private is not None:
        raise PathOutsideRootsError(
            f"{what} {text!r} leads into {private}, which belongs to the servers.", remedy="Choose another folder."
        )
    return resolved.joinpath(*wild)


def trust(path: str | os.PathLike[str]) -> None:
    """Let this process and its children use a path that its owner names: it is added to COINSWARM_DATA_ROOTS.

    For commands, which may read and write what their user may; `Settings` that are made afterwards hold it.
    """
    resolved = str(_split(os.fspath(path))[0].resolve())
    known = [root for root in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if root]
    if resolved not in known:
        os.environ[ROOTS_VARIABLE] = os.pathsep.join([*known, resolved])


def _split(text: str) -> tuple[Path, tuple[str, ...]]:
    """What stands before the first part with a wildcard, and the parts from there on."""
    parts = Path(text).expanduser().parts
    wild = next((place for place, part in enumerate(parts) if not _WILDCARDS.isdisjoint(part)), len(parts))
    return Path(*parts[:wild]), parts[wild:]


def _private_folders(settings: Settings) -> tuple[Path, ...]:
    """Folders of the home that are the servers' own, or hold passwords."""
    home = Home.at(settings.home)
    return (home.redis_data, home.postgres_data.parent, home.prefect_data, home.locks, home.directory / CREDENTIALS)
