"""Real Redis with search, real Postgres and, where wanted, a Prefect server, started from wheels for one machine.

``with open_session(home) as session`` is all that a user needs; ``session.endpoints`` says where the servers are. One
detached supervisor per home owns them and stops them, cleanly, when the last session has ended.
"""

from memory.embedded.checks import check_configured, check_database, check_redis
from memory.embedded.options import EmbeddedOptions
from memory.embedded.session import (
    Endpoints,
    HomeStatus,
    ServerStatus,
    Session,
    home_status,
    open_session,
    prefect_environment,
)
from memory.embedded.wheels import check_platform

__all__ = [
    "EmbeddedOptions",
    "Endpoints",
    "HomeStatus",
    "ServerStatus",
    "Session",
    "check_configured",
    "check_database",
    "check_platform",
    "check_redis",
    "home_status",
    "open_session",
    "prefect_environment",
]
