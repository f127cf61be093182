"""What a restore may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import NamespaceParameters
from memory.settings import NAMESPACE_PATTERN, Settings


class Parameters(NamespaceParameters):
    """Which snapshot to restore, and into which namespace."""

    namespace: str = Field(
        default_factory=lambda: Settings().namespace,
        pattern=f"^{NAMESPACE_PATTERN.pattern}$",
        description="Name of the memory to restore into; nothing may be in it.",
    )
    snapshot: str = Field(
        description="Folder of the snapshot: under the folder of backups, the home, or one of COINSWARM_DATA_ROOTS."
    )
    dry_run: bool = Field(
        default=False, description="Only verify the snapshot and look whether it could be restored there."
    )
