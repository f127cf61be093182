"""Similar experiences: KNN searches whose answers are exact, whatever is filtered where.

The scope (agent, product, regime, phase) is filtered by the server: a tag each, next to free. The other limits (as of,
span, reward, another agent's) are checked here, on rows fetched a little deeper than k, since the server takes
milliseconds over a range; see `memory.retrieval.depth`. Rows come in order of distance, so the k nearest that a
question admits are known once a row has come that is further away than the k-th of them. Where that takes too many
rows, the server filters after all.

Equal distances are ordered by memory id, at the cut as well: all rows as far away as the k-th are fetched before it is
chosen among them, up to MOST_EQUALS of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import ResponseError

from memory.records import Vector
from memory.retrieval.context import QuestionContext
from memory.retrieval.depth import EQUALS_OF_AGENTS, most_rows
from memory.retrieval.hits import Hit
from memory.retrieval.query import EVERYTHING, Bounds, Filter, check_vector
from memory.retrieval.ranking import Relevance
from memory.store.answers import check_complete
from memory.store.codec import Body, pack_vector, unpack_body, unpack_experience, unpack_vector
from memory.store.collection import Collection
from memory.store.encoders import EncoderRecord
from memory.store.indexes import IndexSchema
from memory.store.keys import EpisodicKey
from memory.store.layout import SearchTarget
from memory.store.link import Command
from memory.store.scan import missing_index

MOST_EQUALS = 2000
"""Rows beyond the k-th among which ties are broken; of more that are equally far away, the server picks."""

Attributes = dict[bytes, Any]
_Answer = TypeVar("_Answer")


class Found(NamedTuple):
    """A row that a question admits."""

    distance: float
    memory_id: str
    key: EpisodicKey
    body: Body
    attributes: Attributes


class ExperienceSearch:
    """Finds the experiences nearest to a state.

    Parameters
    ----------
    collection
        Where to look; by default among what each agent lived through.
    """

    def __init__(self, context: QuestionContext, collection: Collection | None = None) -> None:
        self._context = context
        self._collection = collection or context.episodic.collection
        self._returned = (*self._collection.returned, "distance")

    async def nearest(
        self, state_vector: Vector, bounds: Bounds, as_of: datetime | None, top_k: int, *, with_next_state: bool = False
    ) -> list[Hit]:
        """The nearest experiences within checked bounds, nearest first, ties by memory id.

        One round trip, and rarely a second one: where more rows than expected had to be left out.
        """

        async def answer(schema: IndexSchema, vector: Vector) -> list[Hit]:
            return await self._answer(schema, vector, bounds, top_k, with_next_state=with_next_state)

        hits = await self._checked(state_vector, as_of, answer)
        return [] if hits is None else hits

    async def most_relevant(
        self,
        state_vector: Vector,
        bounds: Bounds,
        as_of: datetime | None,
        top_k: int,
        relevance: Relevance,
        *,
        with_next_state: bool = False,
    ) -> list[Hit] | None:
        """The most relevant experiences where the cache of this process holds them; None where the nearest must do."""
        near = self._context.near
        if near is None or self._collection is not self._context.episodic.collection:
            return None

        async def answer(schema: IndexSchema, vector: Vector) -> list[Hit] | None:
            return await near.most_relevant(schema, vector, bounds, top_k, relevance, with_next_state=with_next_state)

        return await self._checked(state_vector, as_of, answer)

    async def _checked(
        self, state_vector: Vector, as_of: datetime | None, answer: Callable[[IndexSchema, Vector], Awaitable[_Answer]]
    ) -> _Answer | None:
        """An answer to a vector that was checked, in an encoder that could be known; None where nothing is recorded."""
        context = self._context
        if not context.indexes.at_hand(self._collection.family, context.encoder_id):
            check_vector(state_vector, "state_vector", None)  # All that can be known of it before anything is sent.
        encoder_id = context.encoder_id or await context.encoder()
        schema = None if encoder_id is None else await self._collection.schema(encoder_id)
        if encoder_id is None or schema is None:
            await context.check_state(state_vector)
            return None
        state_vector = check_vector(state_vector, "state_vector", schema.dimension)
        # Whether an encoder is registered that was not so far is asked beside the question, not before it.
        lookup: asyncio.Task[EncoderRecord | None] | None = None
        if as_of is not None:
            if encoder_id in context.registered:
                await context.encoders.check_as_of(encoder_id, as_of)
            else:
                lookup = asyncio.create_task(context.encoders.get(encoder_id))
        try:
            answered = await answer(schema, state_vector)
        except BaseException:
            if lookup is not None:
                lookup.cancel()
            raise
        if as_of is not None and lookup is not None and await lookup is not None:
            context.registered.add(encoder_id)
            await context.encoders.check_as_of(encoder_id, as_of)
        return answered

    async def _answer(
        self, schema: IndexSchema, state_vector: Vector, bounds: Bounds, top_k: int, *, with_next_state: bool
    ) -> list[Hit]:
        """From the cache of this process where it holds what is asked about, else from the server."""
        context = self._context
        if context.near is not None and self._collection is context.episodic.collection:
            held = await context.near.nearest(schema, state_vector, bounds, top_k, with_next_state=with_next_state)
            if held is not None:
                return held
        found, schema = await self._found_in_current(schema, state_vector, bounds, top_k)
        following: list[Vector | None] | None = None
        if with_next_state:
            following = await context.episodic.next_vectors(
                [item.key for item in found], [item.body for item in found], schema
            )
        return await self._hits(found, following, schema, bounds.as_of_ms)

    async def _found_in_current(
        self, schema: IndexSchema, state_vector: Vector, bounds: Bounds, top_k: int
    ) -> tuple[list[Found], IndexSchema]:
        """What was found, and in which schema: the index may have been replaced since this client last looked."""
        try:
            return await self._search(schema, state_vector, bounds, top_k), schema
        except ResponseError as error:
            self._context.indexes.partitions.forget(schema)
            current = await self._collection.current_schema(schema.encoder_id)
            if current is None:
                return [], schema  # The memory was emptied.
            if current == schema:
                raise missing_index(error, schema) from error
        try:
            return await self._search(current, state_vector, bounds, top_k), current
        except ResponseError as error:
            raise missing_index(error, current) from error

    # --- fetching --------------------------------------------------------------------------------------------

    async def _search(self, schema: IndexSchema, state_vector: Vector, bounds: Bounds, top_k: int) -> list[Found]:
        """The nearest that the question admits, in order."""
        if bounds.exclude_agent_id is not None and bounds.exclude_agent_id == bounds.agent_id:
            return []
        vector = pack_vector(state_vector, schema.vector_type)
        limits = bounds.limits
        one_agent = bounds.agent_id is not None
        depth = self._context.depths.of(limits, one_agent, bounds.as_of_ms)
        filtered_rows = top_k + 1 + (0 if one_agent else EQUALS_OF_AGENTS)
        here, few = not limits or depth.shallow, False
        if here:
            condition, rows_wanted = bounds.scope(), depth.rows(top_k)
        else:
            few = depth.few()
            condition, rows_wanted = bounds.filter(few=few), filtered_rows
            depth.fade()
        while True:
            asked_at = time.perf_counter()
            rows, nearest_unseen = await self._rows(schema, condition, vector, bounds, rows_wanted)
            if not here:
                depth.took(few, time.perf_counter() - asked_at)
            found, looked_at = self._admitted(rows, bounds, top_k, check=here and limits != 0)
            if nearest_unseen is None:
                break  # There are no more.
            if len(found) >= top_k and found[top_k - 1].distance < nearest_unseen:
                if here:
                    depth.learn(top_k, looked_at)
                break
            if rows_wanted - top_k >= MOST_EQUALS and len(found) >= top_k:
                break
            if len(found) >= top_k:
                rows_wanted *= 2  # The k-th is as far away as rows that have not come.
                continue
            expected = 1.5 * top_k * len(rows) / max(len(found), 1)
            rows_wanted = max(math.ceil(expected), 2 * rows_wanted)
            if here and limits:
                depth.learn(top_k, expected / 1.5)
                if rows_wanted > most_rows(top_k):
                    here, few, rows_wanted = False, depth.few(), filtered_rows
                    condition = bounds.filter(few=few)
        found.sort(key=_order)
        return found[:top_k]

    async def _rows(
        self, schema: IndexSchema, condition: Filter, vector: bytes, bounds: Bounds, wanted: int
    ) -> tuple[list[tuple[float, dict[bytes, Any]]], float | None]:
        """The nearest rows, in order, and a distance that all others have at least; None where there are no others."""
        context = self._context
        indexes = context.indexes
        targets = indexes.targets(schema, bounds.agent_id, bounds.product_id)
        probe = indexes.partitions.probe(schema, bounds.agent_id, bounds.product_id)
        if probe is None and len(targets) == 1:
            answers = [await context.link.execute(*self._command(targets[0], condition, vector, wanted))]
        else:
            commands = [self._command(target, condition, vector, wanted) for target in targets]
            if probe is None:
                answers = await context.link.pipeline(commands)
            else:
                *answers, size = await context.link.pipeline([*commands, probe])
                more = await indexes.missed(schema, bounds.agent_id, bounds.product_id, size)
                if more:
                    answers += await context.link.pipeline(
                        [self._command(target, condition, vector, wanted) for target in more]
                    )
                    targets = (*targets, *more)
        rows: list[tuple[float, dict[bytes, Any]]] = []
        nearest_unseen: float | None = None
        for target, answer in zip(targets, answers, strict=True):
            results = check_complete(answer)[b"results"]
            if len(results) < wanted and condition is not EVERYTHING and target.exact_clause != target.clause:
                # A walk through a graph may end early; comparing all shows whether there are no more.
                again = self._command(target, condition, vector, wanted, target.exact_clause)
                results = check_complete(await context.link.execute(*again))[b"results"]
            # What expired since the index was asked has no attributes.
            found = [(float(row[b"extra_attributes"][b"distance"]), row) for row in results if row[b"extra_attributes"]]
            if len(results) >= wanted:
                last = found[-1][0] if found else 0.0
                nearest_unseen = last if nearest_unseen is None else min(last, nearest_unseen)
            rows = [*rows, *found] if rows else found
        if len(targets) > 1:
            rows.sort(key=_distance)
        return rows, nearest_unseen

    def _command(
        self, target: SearchTarget, condition: Filter, vector: bytes, wanted: int, clause: str | None = None
    ) -> Command:
        parameters = condition.parameters
        how = "" if condition is EVERYTHING else target.clause if clause is None else clause
        returned = self._returned
        return (
            "FT.SEARCH",
            target.index,
            f"{condition.text}=>[KNN $k @{target.vector_attribute} $vector{how} AS distance]",
            "RETURN",
            len(returned) + 1,
            *returned,
            target.vector_attribute,
            "SORTBY",
            "distance",
            "LIMIT",
            0,
            wanted,
            "PARAMS",
            len(parameters) + 4,
            "k",
            wanted,
            "vector",
            vector,
            *parameters,
            "TIMEOUT",
            int(self._context.link.timeout_s * 1000),
            "DIALECT",
            2,
        )

    def _admitted(
        self, rows: Sequence[tuple[float, dict[bytes, Any]]], bounds: Bounds, top_k: int, *, check: bool
    ) -> tuple[list[Found], int]:
        """The rows that a question admits, up to the last one as near as the k-th, and how many were looked at."""
        found: list[Found] = []
        furthest = math.inf
        looked_at = 0
        identify = self._collection.identify
        latest = bounds.as_of_ms if check else None
        for distance, row in rows:
            if distance > furthest:
                break
            looked_at += 1
            attributes = row[b"extra_attributes"]
            packed = attributes.get(b"body")
            if packed is None:
                continue  # Expired since the index was asked.
            known_ms = int(attributes[b"known_at"])
            if latest is not None and known_ms > latest:
                continue
            key = identify(row[b"id"], attributes)
            body = unpack_body(packed)
            if check and not bounds.admits(key, body, known_ms):
                continue
            found.append(Found(distance, key.memory_id, key, body, attributes))
            if len(found) == top_k:
                furthest = distance
        return found, looked_at

    # --- answering -------------------------------------------------------------------------------------------

    async def _hits(
        self,
        found: Sequence[Found],
        following: Sequence[Vector | None] | None,
        schema: IndexSchema,
        as_of_ms: int | None,
    ) -> list[Hit]:
        vector_name = schema.vector_attribute.encode()
        vector_type = schema.vector_type
        names: dict[str, tuple[str, ...]] = {}
        hits = []
        for position, (distance, _, key, body, attributes) in enumerate(found):
            layout = body.feature_schema
            if layout not in names:
                names[layout] = await self._context.reader.feature_names(layout)
            memory = unpack_experience(
                key,
                body,
                unpack_vector(attributes[vector_name], vector_type),
                int(attributes[b"known_at"]),
                int(attributes[b"recorded_at"]),
                names[layout],
                None if following is None else following[position],
                as_of_ms,
            )
            memory.encoder_id = schema.encoder_id
            similarity = 1.0 - distance
            hits.append(Hit(memory, distance, similarity, {"similarity": similarity}))
        return hits


def _order(item: Found) -> tuple[float, str]:
    return item.distance, item.memory_id


def _distance(row: tuple[float, dict[bytes, Any]]) -> float:
    return row[0]
