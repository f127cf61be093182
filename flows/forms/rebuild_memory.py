"""What a rebuild may be told."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from flows.parameters import NamespaceParameters
from memory.settings import NAMESPACE_PATTERN


class Parameters(NamespaceParameters):
    """What to rebuild, and where."""

    as_of: dt.datetime | None = Field(
        default=None,
        description="UTC time: what was known then, and nothing later. In place, agents know no more than that until "
        "the next consolidation publishes.",
    )
    into: str | None = Field(
        default=None,
        pattern=f"^{NAMESPACE_PATTERN.pattern}$",
        description="Another namespace, with no knowledge or experiences of its own, to rebuild into; in place where "
        "empty. There, all of the past is kept.",
    )
    lines: list[str] | None = Field(default=None, description="Knowledge lines to rebuild; all where empty.")
    limit: int = Field(default=50, ge=0, description="Differences to list, should there be some in the end.")
