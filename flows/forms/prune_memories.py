"""What pruning may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import WindowParameters


class Parameters(WindowParameters):
    """What to prune."""

    dry_run: bool = Field(default=False, description="Only say what would go.")
