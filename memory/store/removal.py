"""Removing experiences: first what is to go is collected, then it goes; a dry run ends after the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory.store.fence import Fence
from memory.store.indexes import IndexSchema
from memory.store.scan import Reader, Selection

DELETE_SIZE = 500


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """Experiences removed, or those that a dry run would remove."""

    experiences: int
    dry_run: bool


async def remove_selected(
    reader: Reader,
    fence: Fence,
    schemas: Sequence[IndexSchema],
    selection: Selection,
    *,
    token: int | None,
    dry_run: bool,
    beside: Callable[[bytes], str] | None = None,
) -> ForgetReport:
    """Remove the selected experiences, earliest decision first, so that none goes while one before it stays.

    `beside` names the key that goes together with an experience's; it need not exist.

    Raises
    ------
    FencedOutError
        `token` was overtaken: nothing more is removed.
    """
    doomed: dict[bytes, int] = {}
    for schema in schemas:
        async for page in reader.pages(schema, selection, fields=("timestamp",)):
            doomed |= {row[b"__key"]: int(row[b"timestamp"]) for row in page}
    if not dry_run:
        ordered = sorted(doomed, key=lambda key: (doomed[key], key))
        for start in range(0, len(ordered), DELETE_SIZE):
            keys = ordered[start : start + DELETE_SIZE]
            going = [("UNLINK", *keys)]
            if beside is not None:
                going.append(("UNLINK", *(beside(key) for key in keys)))
            await fence.write(going, token)
    return ForgetReport(len(doomed), dry_run)
