"""What a comparison may be told."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from flows.parameters import NamespaceParameters


class Parameters(NamespaceParameters):
    """What to compare."""

    digest: bool = Field(
        default=False,
        description="Read every field in Redis and every byte of the archive, and give the digests of ledger and "
        "Redis; else only lists, stamps and names are compared.",
    )
    as_of: dt.datetime | None = Field(default=None, description="Compare with what was known at this UTC time.")
    into: str | None = Field(
        default=None, description="Compare another namespace that was rebuilt from this one's ledger."
    )
    limit: int = Field(default=50, ge=0, description="Differences to list; all are counted.")
