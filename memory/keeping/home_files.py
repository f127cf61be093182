"""Files of a home that may go: reports, logs, what trainings and evaluations left, results of tasks.

Collecting looks and changes nothing; ages are those of the last writing. A file that is gone already is no error.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from memory.keeping.errors import KeepingError

_RESULT_BEGIN_BYTES = 4096
"""More than the metadata of a result takes."""
_NIGHT = r"\d{4}-\d{2}-\d{2}"


def old_reports(folder: Path, namespace: str, before_s: float) -> list[Path]:
    """Nightly reports of a namespace that were written before a time, without the newest night's.

    Parameters
    ----------
    before_s
        Seconds since 1970.
    """
    name = re.compile(rf"nightly-{re.escape(namespace)}-{_NIGHT}\.html")
    nights = sorted(path for path in _children(folder) if name.fullmatch(path.name) and path.is_file())
    return [path for path in nights[:-1] if _touched(path) < before_s]


def old_logs(folder: Path, before_s: float) -> list[Path]:
    """Logs that were put aside (`redis.log.1`) and not written since a time; a log that is in use stays."""
    return [path for path in _children(folder) if ".log." in path.name and path.is_file() and _touched(path) < before_s]


def old_checkpoints(folder: Path, before_s: float) -> list[Path]:
    """What trainings save to go on from (`training-*.pt`), where nobody did since a time."""
    return [path for path in _children(folder) if path.name.startswith("training-") and _touched(path) < before_s]


def unknown_policies(folder: Path, known: Collection[str], before_s: float) -> list[Path]:
    """Policies written before a time whose file name the ledger does not know: their run died before it said so."""
    return [
        path
        for path in _children(folder)
        if path.is_file()
        and not path.name.startswith("training-")
        and path.name not in known
        and _touched(path) < before_s
    ]


def old_evaluations(folder: Path, before_s: float) -> list[Path]:
    """Folders of staged results in which nothing was written since a time, without the one that was touched last."""
    touched = sorted((_latest(path), path) for path in _children(folder) if path.is_dir())
    return [path for when, path in touched[:-1] if when < before_s]


def old_results(folder: Path, before_s: float) -> list[Path]:
    """Results of Prefect that were kept before a time; whatever else lies in the folder is left alone.

    The folder is a setting, and may be one in which a person keeps other things: so each file is looked into.
    """
    return [path for path in _files(folder) if _touched(path) < before_s and _is_result(path)]


def _is_result(path: Path) -> bool:
    """Whether a file begins as Prefect writes results: a JSON object, with the version of Prefect in its metadata."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(_RESULT_BEGIN_BYTES)
    except FileNotFoundError:
        return False
    return begin.startswith(b'{"metadata":{') and b'"prefect_version":' in begin


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that files and folders hold."""
    return sum(_size(file) for path in paths for file in ([path] if path.is_file() else _files(path)))


def remove(paths: Iterable[Path], root: Path) -> int:
    """Remove files and folders under a root; returns how many were there. What is gone already is passed over.

    Raises
    ------
    KeepingError
        A path leads out of the root, or cannot be removed.
    """
    removed = 0
    for path in paths:
        if root.resolve() not in path.resolve().parents:
            raise KeepingError(f"{path} does not lie under {root}.", remedy="Remove it by hand.")
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KeepingError(
                f"{path} cannot be removed: {error.strerror}.", remedy="Check the rights on it, then run again."
            ) from error
        removed += 1
    return removed


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _touched(path: Path) -> float:
    """When a file was written last, seconds since 1970; of one that is gone, a time that no age reaches."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _latest(folder: Path) -> float:
    return max(_touched(path) for path in [folder, *_files(folder)])
