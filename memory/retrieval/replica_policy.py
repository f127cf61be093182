"""What is chosen about reads over replicas, and what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool

from memory.errors import InvalidQueryError
from memory.retrieval.arguments import check_count, check_flag, check_number
from memory.secrets import redacted

SHORTEST_S, LONGEST_S = 1e-3, 86_400.0
"""Of times that are chosen: a millisecond is less than a look at a server takes, and nobody waits longer than a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPolicy:
    """How reads are spread over replicas, and which of them may answer.

    Attributes
    ----------
    max_lag_s
        A replica answers only while it provably holds everything that was written up to this many seconds ago.
    max_lag_bytes
        It answers only while it is at most this many bytes of the primary's writes behind; no such limit where None.
    check_interval_s
        Pause between looks at a server. The bound on the lag cannot be proven tighter than about twice this.
    hang_s
        A replica that leaves a question unanswered for this long is left out, and the question is asked elsewhere.
        Searches that take longer are answered by the primary only.
    choice
        ``two_choices`` takes the better of two replicas at random, by questions in flight times mean time to answer;
        ``least_in_flight`` takes the one with the fewest questions in flight.
    connections
        Connections to each replica, shared by all questions.
    fall_back_to_primary
        Where no replica may answer, the primary does; else StoreUnavailableError.
    reads_without_primary
        While the primary is down, replicas that were within the lag when it was last seen go on answering, and so does
        one that took over from it. Until it is back, nothing bounds how old their answers are.
    """

    max_lag_s: float = 1.0
    max_lag_bytes: int | None = None
    check_interval_s: float = 0.2
    hang_s: float = 0.5
    choice: Literal["two_choices", "least_in_flight"] = "two_choices"
    connections: int = 2
    fall_back_to_primary: bool = True
    reads_without_primary: bool = True

    def __post_init__(self) -> None:
        for name in ("max_lag_s", "check_interval_s", "hang_s"):
            check_number(getattr(self, name), name, SHORTEST_S, LONGEST_S)
        check_count(self.connections, "connections")
        if self.max_lag_bytes is not None:
            check_count(self.max_lag_bytes, "max_lag_bytes", 0)
        for name in ("fall_back_to_primary", "reads_without_primary"):
            check_flag(getattr(self, name), name)
        if self.max_lag_s < 2 * self.check_interval_s:
            raise InvalidQueryError(
                f"max_lag_s is {self.max_lag_s:g}, which looks every {self.check_interval_s:g} s cannot prove.",
                remedy="Give at least twice check_interval_s.",
                argument="max_lag_s",
            )
        if self.choice not in ("two_choices", "least_in_flight"):
            raise InvalidQueryError(
                f"choice is {self.choice!r}.", remedy="Use two_choices or least_in_flight.", argument="choice"
            )


def check_replica_urls(value: Any, name: str = "replica_urls") -> tuple[str, ...]:
    """URLs of replicas, or InvalidQueryError; nothing is sent."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidQueryError(
            f"{name} is {type(value).__name__}, not a sequence of URLs.",
            remedy="Pass a list, such as ['redis://replica:6379'].",
            argument=name,
        )
    return tuple(_replica_url(url, name) for url in value)


def _replica_url(url: Any, name: str) -> str:
    remedy = "Write it as redis://host:6379, rediss://host:6379 or unix:///path/to/redis.sock."
    if not isinstance(url, str):
        raise InvalidQueryError(f"{name} holds {type(url).__name__}, not a URL.", remedy=remedy, argument=name)
    try:
        shown = repr(redacted(url)[:200])
        urlsplit(url).port  # noqa: B018 - ValueError where it is none.
        database = BlockingConnectionPool.from_url(url).connection_kwargs.get("db") or 0
    except ValueError:  # What it says may hold a part of the password.
        raise InvalidQueryError(f"{name} holds a URL that cannot be read.", remedy=remedy, argument=name) from None
    if database:
        raise InvalidQueryError(
            f"{name} holds {shown}: it names database {database}, and search indexes database 0 only.",
            remedy="Leave the database out of the URL.",
            argument=name,
        )
    return url


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server as `LoadBalancedMemoryRetrieval.describe` shows it.

    Attributes
    ----------
    address
        Where it is, without user and password.
    role
        primary or replica.
    serving
        Whether it may answer now.
    trouble
        Why not; empty where it may.
    incomplete
        Indexes that it does not hold whole yet; questions that need them are answered elsewhere.
    lag_bytes, lag_s
        How far it was behind when last looked at, and the age that its data provably does not exceed; None where
        unknown.
    in_flight, reads, failures
        Questions under way, answered, and asked elsewhere instead.
    share
        Share of all answers that it gave.
    latency_s
        Mean time to answer, recent questions weighing more.
    """

    address: str
    role: str
    serving: bool
    trouble: str
    incomplete: tuple[str, ...]
    lag_bytes: int | None
    lag_s: float | None
    in_flight: int
    reads: int
    failures: int
    share: float
    latency_s: float
