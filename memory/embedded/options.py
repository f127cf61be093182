"""What can be chosen about the embedded servers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields

#: Redis may take this share of the machine's memory; the rest is for the agents, the jobs and Postgres.
_DEFAULT_REDIS_SHARE = 0.5


def _default_redis_maxmemory() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _DEFAULT_REDIS_SHARE)


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """Settings of the embedded servers. The first session of a home decides; they hold until its servers stop."""

    redis_maxmemory_bytes: int = 0
    """Where Redis stops accepting writes; nothing is ever evicted. 0 stands for half of the machine's memory."""
    search_timeout_ms: int = 2_000
    """A search that takes longer fails: a partial answer is never returned as a full one."""
    postgres_shared_buffers_mb: int = 64
    """Postgres' own cache. The ledger of a year is small, so this suits a laptop."""
    prefect_port: int | None = None
    """Port of the Prefect server on 127.0.0.1; None takes the one used last time, else a free one."""
    linger_s: float = 0.0
    """How long the servers stay after their last user has left."""

    def __post_init__(self) -> None:
        for name in ("redis_maxmemory_bytes", "search_timeout_ms", "postgres_shared_buffers_mb", "linger_s"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} must not be negative, not {value!r}.")

    @property
    def redis_maxmemory(self) -> int:
        """The limit in bytes that is in force."""
        return self.redis_maxmemory_bytes or _default_redis_maxmemory()

    def to_json(self) -> str:
        """Return the options as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EmbeddedOptions:
        """Return the options that :meth:`to_json` wrote; names that are unknown here are ignored."""
        content = json.loads(text)
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})
