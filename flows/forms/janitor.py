"""What the janitor may be told."""

from __future__ import annotations

from pydantic import Field

from flows.parameters import NamespaceParameters


class Parameters(NamespaceParameters):
    """What to keep is said by the settings `keep_...`."""

    dry_run: bool = Field(default=False, description="Only say what would go.")
