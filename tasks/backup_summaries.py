"""What backups, restores and drills came to, in a form that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory.reporting.artifacts import RunSummary, Table

Result = Mapping[str, Any]
_MB = 1_000_000


def backup_summary(result: Result) -> RunSummary:
    """What a snapshot holds, and where it lies."""
    return RunSummary(
        title=f"A snapshot as of {result['cut']} was written and read back",
        read={f"keys: {name}": count for name, count in result["redis"].items()},
        changed={
            "snapshot": result["snapshot"],
            "megabytes": round(result["bytes"] / _MB, 1),
            "files": result["files"],
            "rows of the ledger": sum(result["ledger"].values()),
        },
        dropped={"older snapshots": len(result["dropped"])},
        notes=missing_notes(result["missing"]),
        tables=(Table("ledger", "Rows of the ledger", _rows(result["ledger"], "table")),),
    )


def restore_summary(result: Result, title: str) -> RunSummary:
    """What was restored and compared; of a dry run, what would be."""
    return RunSummary(
        title=title,
        read={
            "snapshot": result["snapshot"],
            "as of": result["cut"],
            "megabytes": round(result["bytes"] / _MB, 1),
        },
        changed={f"keys: {name}": count for name, count in result["redis"].items()},
        dropped={"keys that had expired": result.get("expired", 0)},
        notes=missing_notes(result["missing"]),
        tables=(Table("ledger", "Rows of the ledger", _rows(result["ledger"], "table")),),
    )


def missing_notes(missing: Sequence[str]) -> list[str]:
    """A sentence about files of the archive that were not there when the snapshot was taken."""
    if not missing:
        return []
    return [
        f"{len(missing)} files of the archive, such as {missing[0]}, were missing or damaged when the snapshot was "
        "taken: their windows cannot be learned again."
    ]


def _rows(counts: Mapping[str, int], name: str) -> list[dict[str, Any]]:
    return [{name: key, "rows": count} for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
