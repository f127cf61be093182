"""What a drill may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import NamespaceParameters


class Parameters(NamespaceParameters):
    """Of which memory to try a snapshot."""

    snapshot: str | None = Field(
        default=None,
        description="Folder of the snapshot; the newest one under COINSWARM_BACKUP_URL where empty.",
    )
