"""Concurrent questions share round trips: no timer, no waiting for the slowest, nobody else's failure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from memory.errors import StoreUnavailableError
from memory.records import Vector
from memory.retrieval.arguments import check_count, check_number
from memory.retrieval.hits import Hit
from memory.retrieval.pipelined import MAX_IN_FLIGHT, PipelinedLink
from memory.retrieval.ranking import SIMILARITY, PostFilter, RelevanceWeights
from memory.retrieval.routed import Answer, Gate, Question, RoutedRetrieval

if TYPE_CHECKING:
    from memory.connection import MemoryConnection

CONNECTIONS = 2
"""One carries any number of callers; with two, callers go on over the other while a broken one is replaced."""
LONGEST_DEADLINE_S = 86_400.0
"""Of one question: a day; whoever has no deadline gives none."""


@dataclass(slots=True)
class BatchingFigures:
    """What a `BatchedMemoryRetrieval` has done so far.

    Attributes
    ----------
    asked
        Questions.
    sent
        Commands sent for them.
    shared
        Commands that were not sent, because an equal one left at the same moment.
    in_flight, waiting
        Commands whose answers are outstanding; callers in line for a place among them.
    """

    asked: int
    sent: int
    shared: int
    in_flight: int
    waiting: int


class BatchedMemoryRetrieval(RoutedRetrieval):
    """Answers the questions of many concurrent callers over a few connections.

    Questions asked in one turn of the event loop leave in one write, and equal ones among them are searched once, each
    caller getting records of its own. An answer is handed over when it comes; nobody waits for another's. A question
    that has left is never joined, so what a caller has written before it asks is always seen.

    It has all the questions of `MemoryRetrievalService`, and `retrieve_async`, which takes a deadline.

    * A caller that is cancelled, or whose question the server refuses, affects itself only. Cancelled while it still
      waits in line, its question is never sent.
    * Where a connection breaks, the questions in flight on it are asked again within their deadlines, as all reads are.
    * At most `max_in_flight` commands are under way; further callers wait in line, first come, first served.

    Parameters
    ----------
    mem
        An open memory.
    connections
        Connections that all callers share.
    max_in_flight
        Commands that may be under way at once.

    Notes
    -----
    ``benchmarks/batching.py`` compares it with pools, on one machine and over links with latency.
    """

    def __init__(
        self, mem: MemoryConnection, *, connections: int = CONNECTIONS, max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        connections = check_count(connections, "connections")
        max_in_flight = check_count(max_in_flight, "max_in_flight")
        self._link = PipelinedLink(
            mem.link._url, connections=connections, max_in_flight=max_in_flight, timeout_s=mem.link.timeout_s
        )
        self._service = mem.over(self._link).retrieval
        self._gate = Gate("BatchedMemoryRetrieval")

    # --- life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> BatchedMemoryRetrieval:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        StoreUnavailableError
            Nothing answers within the deadline, or this was closed.
        """
        self._gate.check()
        await self._link.open()

    async def close(self, timeout_s: float | None = None) -> None:
        """Refuse new questions, wait for those in flight, and disconnect.

        Parameters
        ----------
        timeout_s
            How long to wait, in seconds; by default the link's deadline. What is not answered by then fails with
            StoreUnavailableError.
        """
        try:
            await self._gate.shut(self._link.timeout_s if timeout_s is None else timeout_s)
        finally:
            await self._link.close()

    def at(self, as_of: datetime) -> BatchedMemoryRetrieval:
        """The same, locked to what was known at a time; it shares the connections, and is closed with them."""
        locked = object.__new__(BatchedMemoryRetrieval)
        locked._link, locked._gate = self._link, self._gate
        locked._service = self._service.at(as_of)
        return locked

    # --- questions -------------------------------------------------------------------------------------------

    async def retrieve_async(
        self,
        state_vector: Vector,
        agent_id: str | None = None,
        product_id: str | None = None,
        regime: str | None = None,
        market_phase: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime | None = None,
        exclude_agent_id: str | None = None,
        min_reward: float | None = None,
        top_k: int = 10,
        ranking: str = SIMILARITY,
        post_filter: PostFilter[Hit] | None = None,
        weights: RelevanceWeights | None = None,
        with_next_state: bool = False,
        *,
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """As `retrieve_similar_experiences`, with a deadline of this caller's own.

        Parameters
        ----------
        timeout_s
            Deadline in seconds, waiting in line and retries included; by default the link's, for each command.

        Raises
        ------
        InvalidQueryError, EncoderError
            As `MemoryRetrievalService.retrieve_similar_experiences`; `timeout_s` is no number of seconds.
        StoreUnavailableError
            No whole answer within the deadline, or this was closed.
        """
        if timeout_s is not None:
            timeout_s = check_number(timeout_s, "timeout_s", 0.0, LONGEST_DEADLINE_S)
        asked = self.retrieve_similar_experiences(
            state_vector,
            agent_id,
            product_id,
            regime,
            market_phase,
            since,
            until,
            as_of,
            exclude_agent_id,
            min_reward,
            top_k,
            ranking,
            post_filter,
            weights,
            with_next_state,
        )
        if timeout_s is None:
            return await asked
        try:
            async with asyncio.timeout(timeout_s):
                return await asked
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"no answer from Redis at {self._link.address} within {timeout_s:g} s.",
                remedy="Check that it is not overloaded, or raise timeout_s.",
            ) from error

    @property
    def figures(self) -> BatchingFigures:
        """What was done so far, and what is under way."""
        link = self._link
        return BatchingFigures(self._gate.entered, link.sent, link.shared, link.in_flight, link.waiting)

    async def _ask(self, question: Question[Answer]) -> Answer:
        with self._gate:
            return await question(self._service)
