"""What backups, restores and drills came to, in a form that people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memory.ledger.migrations import HEAD
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
        notes=[*missing_notes(result["missing"]), *schema_notes(result["ledger_schema"])],
        tables=(Table("ledger", "Rows of the ledger", _rows(result["ledger"], "table")),),
    )


def drill_failure(snapshot: str, cut: str, problem: str, left: str | None) -> RunSummary:
    """Why a snapshot could not be restored, and what is left of the attempt, in words; None where nothing is."""
    rest = "All that the drill had restored was dropped again." if left is None else left
    return RunSummary(
        title="The snapshot could not be restored",
        read={"snapshot": snapshot, "as of": cut},
        notes=(problem, rest, "Until a drill ends well, do not count on this snapshot; older ones may be whole."),
    )


def missing_notes(missing: Sequence[str]) -> list[str]:
    """A sentence about files of the archive that were not there when the snapshot was taken."""
    if not missing:
        return []
    return [
        f"{len(missing)} files of the archive, such as {missing[0]}, were missing or damaged when the snapshot was "
        "taken: their windows cannot be learned again."
    ]


def schema_notes(ledger_schema: str) -> list[str]:
    """A sentence about a snapshot's ledger where it is of an older schema."""
    if ledger_schema == HEAD:
        return []
    return [f"The ledger in the snapshot is of schema {ledger_schema}: restoring brings it to schema {HEAD}."]


def _rows(counts: Mapping[str, int], name: str) -> list[dict[str, Any]]:
    return [{name: key, "rows": count} for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
