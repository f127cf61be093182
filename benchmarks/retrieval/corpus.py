"""What is asked, and what the right answers are: queries near remembered states, and the exact nearest memories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from benchmarks.retrieval.data import Batch, Floats, Ints
from memory.records import REGIMES, from_ms, to_ms

NUDGE = 0.05
"""Length of the random vector that is added to a remembered state to make a query that was never recorded; as in
`memory.retrieval.measure`."""
TOP_K = 10
TRUTH_MARGIN = 4
"""Candidates that are scored again in double precision, as a multiple of the results wanted."""
TIE = 1e-6
"""Similarities closer than this are equal: either is a right answer."""
_TIME_BITS = 44
"""Room for milliseconds since 1970 in the code of a memory."""

Scope = tuple[str, str | None, str | None]
"""Agent, product and regime, or an agent alone."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question: the nearest `top_k` of an agent, maybe of a product and regime, known at a time (milliseconds)."""

    vector: Floats
    agent_id: str
    product_id: str | None
    regime: str | None
    as_of_ms: int | None
    top_k: int = TOP_K

    @property
    def scope(self) -> Scope:
        """Where it looks."""
        return self.agent_id, self.product_id, self.regime

    @property
    def as_of(self) -> datetime | None:
        """The time as a datetime."""
        return None if self.as_of_ms is None else from_ms(self.as_of_ms)


@dataclass(slots=True)
class CorpusBuilder:
    """Collects the columns of memories while they are loaded; 1 KB a state and 50 bytes a memory.

    Parameters
    ----------
    shared_states
        Whether all agents met the same states, which are then held once.
    """

    shared_states: bool
    _agents: dict[str, int] = field(default_factory=dict)
    _products: dict[str, int] = field(default_factory=dict)
    _states: dict[tuple[str | None, str, int], int] = field(default_factory=dict)
    _vectors: list[Floats] = field(default_factory=list)
    _tables: list[Ints] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        """Take the next memories in."""
        fresh: list[Floats] = []
        rows = np.empty((len(batch.records), 6), dtype=np.int64)
        for row, record in zip(rows, batch.records, strict=True):
            time_ms = to_ms(record.timestamp)
            name = (None if self.shared_states else record.agent_id, record.product_id, time_ms)
            state = self._states.get(name)
            if state is None:
                state = self._states[name] = len(self._states)
                fresh.append(record.state_vector)
            row[:] = (
                state,
                self._agents.setdefault(record.agent_id, len(self._agents)),
                self._products.setdefault(record.product_id, len(self._products)),
                REGIMES.index(record.regime),
                time_ms,
                to_ms(record.known_at or record.timestamp),
            )
        if fresh:
            self._vectors.append(np.stack(fresh))
        self._tables.append(rows)

    def build(self) -> Corpus:
        """The columns of all that was added."""
        columns = np.concatenate(self._tables).T
        return Corpus(
            list(self._agents),
            list(self._products),
            np.concatenate(self._vectors),
            *(np.ascontiguousarray(column) for column in columns),
        )


class Corpus:
    """Columns of all memories, for choosing queries and for the exact answers.

    Attributes
    ----------
    agents, products
        Names; `agent` and `product` count in them, `regime` in `REGIMES`.
    vectors, state
        Distinct states, shape (states, 256), and the state of each memory.
    timestamp_ms, known_ms
        When each memory's decision was taken, and when it was known.
    """

    def __init__(
        self,
        agents: list[str],
        products: list[str],
        vectors: Floats,
        state: Ints,
        agent: Ints,
        product: Ints,
        regime: Ints,
        timestamp_ms: Ints,
        known_ms: Ints,
    ) -> None:
        self.agents, self.products, self.vectors = agents, products, vectors
        self.state, self.agent, self.product, self.regime = state, agent, product, regime
        self.timestamp_ms, self.known_ms = timestamp_ms, known_ms
        codes = ((agent * len(products) + product) << _TIME_BITS) + timestamp_ms
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    def __len__(self) -> int:
        return len(self.state)

    def number(self, agent_id: str, product_id: str, timestamp: datetime) -> int:
        """Number of the memory of an agent, product and time.

        Raises
        ------
        LookupError
            There is none.
        """
        agent, product = self.agents.index(agent_id), self.products.index(product_id)
        code = ((agent * len(self.products) + product) << _TIME_BITS) + to_ms(timestamp)
        position = int(np.searchsorted(self._codes, code))
        if position >= len(self) or self._codes[position] != code:
            raise LookupError(f"{agent_id}, {product_id}, {timestamp.isoformat()} was answered, and never recorded.")
        return int(self._order[position])

    def scope(self, agent_id: str, product_id: str | None, regime: str | None) -> Ints:
        """Numbers of the memories of an agent, maybe of a product and regime, in order of recording."""
        chosen = self.agent == self.agents.index(agent_id)
        if product_id is not None:
            chosen &= self.product == self.products.index(product_id)
        if regime is not None:
            chosen &= self.regime == REGIMES.index(regime)
        return np.flatnonzero(chosen)

    def largest_scopes(self, wanted: int | None = None) -> list[tuple[Scope, int]]:
        """The largest scopes of an agent, product and regime, with their sizes, largest first; all where None."""
        code = (self.agent * len(self.products) + self.product) * len(REGIMES) + self.regime
        codes, sizes = np.unique(code, return_counts=True)
        found: list[tuple[Scope, int]] = []
        for position in np.argsort(-sizes, kind="stable")[:wanted].tolist():
            rest, regime = divmod(int(codes[position]), len(REGIMES))
            agent, product = divmod(rest, len(self.products))
            found.append(((self.agents[agent], self.products[product], REGIMES[regime]), int(sizes[position])))
        return found

    def known_at_share(self, share: float) -> int:
        """The time (milliseconds) at which that share of the memories was known."""
        return int(np.quantile(self.known_ms, share, method="lower"))

    def queries(
        self,
        count: int,
        *,
        by_agent_only: bool = False,
        as_of_ms: int | None = None,
        scopes: Sequence[Scope] | None = None,
        seed: int = 0,
    ) -> list[Query]:
        """Queries near random memories (of some scopes), and equal to none. Same seed, same memories and vectors."""
        generator = np.random.default_rng(seed)
        rows = None if scopes is None else np.concatenate([self.scope(*scope) for scope in scopes])
        picked = generator.integers(0, len(self) if rows is None else len(rows), count)
        numbers = picked if rows is None else rows[picked]
        asked = []
        for number in numbers.tolist():
            vector = self.vectors[self.state[number]]
            step = generator.standard_normal(len(vector))
            moved = vector + NUDGE * step / np.linalg.norm(step)
            asked.append(
                Query(
                    vector=(moved / np.linalg.norm(moved)).astype(np.float32),
                    agent_id=self.agents[self.agent[number]],
                    product_id=None if by_agent_only else self.products[self.product[number]],
                    regime=None if by_agent_only else REGIMES[self.regime[number]],
                    as_of_ms=as_of_ms,
                )
            )
        return asked

    def recall(self, query: Query, answer: Sequence[int]) -> float:
        """Share of the true nearest that an answer holds; memories as near as the last of them count.

        Raises
        ------
        AssertionError
            The answer holds a memory that lies outside the question's scope, or was not known at its time.
        """
        rows = self.scope(*query.scope)
        if query.as_of_ms is not None:
            rows = rows[self.known_ms[rows] <= query.as_of_ms]
        distinct = np.unique(np.asarray(answer, dtype=np.int64))
        if not np.isin(distinct, rows, assume_unique=True).all():
            raise AssertionError(f"an answer lies outside what was asked for: {query.scope} as of {query.as_of}")
        wanted = min(query.top_k, len(rows))
        if not wanted:
            return 1.0
        if 2 * len(rows) > len(self.vectors):
            rough = (self.vectors @ query.vector)[self.state[rows]]
        else:
            rough = self.vectors[self.state[rows]] @ query.vector
        kept = min(TRUTH_MARGIN * wanted, len(rows))
        nearest = rows[np.argpartition(-rough, kept - 1)[:kept]]
        target = query.vector.astype(np.float64)
        least = np.sort(self.vectors[self.state[nearest]].astype(np.float64) @ target)[-wanted]
        near = self.vectors[self.state[distinct]].astype(np.float64) @ target
        return min(int((near >= least - TIE).sum()), wanted) / wanted
