"""numpy on the partition: what the arithmetic alone costs, in the process that asks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.retrieval.contestant import Ask, Loaded, Memories, ThreadContestant
from benchmarks.retrieval.corpus import Query, Scope
from benchmarks.retrieval.data import Floats, Ints


class NumpyFloor(ThreadContestant):
    """One matrix product over the rows of the scope, which lie together.

    Parameters
    ----------
    scopes
        Scopes that are held; every agent+product+regime and every agent where None.
    """

    name = "numpy on the partition"
    returns = "numbers and similarities, no record"

    def __init__(self, scopes: Sequence[Scope] | None = None) -> None:
        self._scopes = scopes
        self._parts: dict[Scope, tuple[Floats, Ints, Ints]] = {}

    @property
    def configuration(self) -> str:
        """How it is set up."""
        return "a float32 matrix for each scope, rows in the order in which they became known; exact; BLAS"

    async def load(self, memories: Memories) -> Loaded:
        """Gather the rows of each scope."""
        corpus, scopes = memories.corpus, self._scopes
        if scopes is None:
            scopes = [scope for scope, _ in corpus.largest_scopes()] + [(agent, None, None) for agent in corpus.agents]
        begun = time.perf_counter()
        held = 0
        for scope in scopes:
            numbers = corpus.scope(*scope)
            numbers = numbers[np.argsort(corpus.known_ms[numbers], kind="stable")]
            self._parts[scope] = corpus.vectors[corpus.state[numbers]], numbers, corpus.known_ms[numbers]
            held += sum(array.nbytes for array in self._parts[scope])
        return Loaded(time.perf_counter() - begun, held / len(corpus), "arrays of the scopes held; no record")

    @contextmanager
    def session(self) -> Iterator[Ask]:
        """Threads share the arrays."""
        parts = self._parts

        def ask(query: Query) -> Any:
            matrix, numbers, known = parts[query.agent_id, query.product_id, query.regime]
            if query.as_of_ms is not None:
                matrix = matrix[: int(np.searchsorted(known, query.as_of_ms, side="right"))]
            similarity = matrix @ query.vector
            wanted = min(query.top_k, len(similarity))
            if not wanted:
                return similarity, numbers[:0]
            nearest = np.argpartition(similarity, -wanted)[-wanted:]
            nearest = nearest[np.argsort(-similarity[nearest])]
            return similarity[nearest], numbers[nearest]

        yield ask

    def numbers(self, answer: Any) -> Sequence[int]:
        """The second half of the answer."""
        found: list[int] = answer[1].tolist()
        return found

    async def close(self) -> None:
        """Let the arrays go."""
        self._parts.clear()
