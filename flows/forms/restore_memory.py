"""What a restore may be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from flows.parameters import NamespaceParameters
from memory.settings import NAMESPACE_PATTERN


class Parameters(NamespaceParameters):
    """Which snapshot to restore, and into which namespace."""

    namespace: str = Field(
        default="",
        pattern=f"^({NAMESPACE_PATTERN.pattern})?$",
        description="Name of the memory to restore into; nothing may be in it. The snapshot's own where empty.",
    )
    snapshot: str = Field(
        description="Folder of the snapshot: under the folder of backups, the home, or one of COINSWARM_DATA_ROOTS."
    )
    dry_run: bool = Field(
        default=False, description="Only verify the snapshot and look whether it could be restored there."
    )

    def check_inputs(self) -> None:
        """Raises SnapshotError where the folder is none of a snapshot."""
        from memory.backup.manifest import read_manifest

        read_manifest(Path(self.snapshot).expanduser())

    @property
    def label(self) -> str:
        """What the run is named after: where it goes, or the snapshot's folder where that is not said."""
        return self.namespace or Path(self.snapshot).name
