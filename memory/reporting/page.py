"""What all pages share: how templates are read, and how a page comes into a folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """Templates of this room; everything is escaped, and a name that is not there is an error."""
    return Environment(
        loader=PackageLoader("memory.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(page: str, folder: Path, name: str) -> Path:
    """Write a page into a folder, which is made where it is missing, replacing an earlier one in one step.

    Returns
    -------
    Path
        The file. A reader sees the old page or the new one, never a part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        path = folder / name
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return path
