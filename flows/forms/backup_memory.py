"""What a backup may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import NamespaceParameters


class Parameters(NamespaceParameters):
    """Which memory to write a snapshot of, and where to."""

    to: str | None = Field(
        default=None,
        description="Folder that snapshots are written to, in one of the memory's name; COINSWARM_BACKUP_URL where "
        "empty. Under the home, or one of COINSWARM_DATA_ROOTS.",
    )
    keep: int | None = Field(
        default=None, ge=1, description="Snapshots of this memory to keep there; COINSWARM_BACKUP_KEEP where empty."
    )
