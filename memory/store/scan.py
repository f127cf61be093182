"""Reading many experiences: through a cursor, in small pages, so that searches stay quick meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from memory.commands import command
from memory.errors import AccessDeniedError, StoreUnavailableError
from memory.records import Vector
from memory.store.answers import check_complete
from memory.store.codec import decode_names, unpack_vector
from memory.store.indexes import IndexSchema
from memory.store.keys import Keys, namespace_of
from memory.store.link import RedisLink

PAGE_SIZE = 100
"""Rows a page: searches beside it keep a p99 under 1 ms; with pages of 10,000 it is 45 ms."""
CURSOR_IDLE_MS = 120_000
FETCH_SIZE = 200
"""Commands of one round trip where single fields are fetched."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which experiences: a query and its parameters."""

    query: str = "*"
    parameters: tuple[Any, ...] = ()

    def clause(self) -> list[Any]:
        """The end of a search command."""
        parameters = ["PARAMS", len(self.parameters), *self.parameters] if self.parameters else []
        return [*parameters, "DIALECT", 2]


def select(
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    known_until_ms: int | None = None,
    recorded_after_ms: int | None = None,
    tags: Sequence[str] = (),
) -> Selection:
    """Experiences decided in [start, end), known at a time, recorded after a time, that carry all the tags.

    Values go through parameters: they are never parsed as a query. As-of is a negated range, which costs a fifth of
    the positive one.
    """
    parts: list[str] = []
    parameters: list[Any] = []
    for number, tag in enumerate(tags):
        parts.append(f"@scope:{{$tag{number}}}")
        parameters += [f"tag{number}", tag]
    if start_ms is not None or end_ms is not None:
        low = "-inf" if start_ms is None else "$start"
        high = "+inf" if end_ms is None else "($end"
        parts.append(f"@timestamp:[{low} {high}]")
        parameters += [] if start_ms is None else ["start", start_ms]
        parameters += [] if end_ms is None else ["end", end_ms]
    if known_until_ms is not None:
        parts.append("-@known_at:[($known +inf]")
        parameters += ["known", known_until_ms]
    if recorded_after_ms is not None:
        parts.append("@recorded_at:[($recorded +inf]")
        parameters += ["recorded", recorded_after_ms]
    return Selection(" ".join(parts) or "*", tuple(parameters))


class Row(NamedTuple):
    """A stored experience, undecoded."""

    key: bytes
    body: bytes
    known_ms: int
    recorded_ms: int


class Reader:
    """Reads stored experiences, and what they refer to."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._names: dict[str, tuple[str, ...]] = {"": ()}

    async def count(self, schema: IndexSchema, selection: Selection) -> int:
        """Number of experiences selected; the server walks through them, 40 ns each."""
        try:
            answer = await self._link.execute(
                "FT.SEARCH", schema.name, selection.query, "LIMIT", 0, 0, *selection.clause()
            )
        except ResponseError as error:
            raise missing_index(error, schema) from error
        return int(check_complete(answer)[b"total_results"])

    async def whole(self, schema: IndexSchema) -> int:
        """Number of all experiences in an index, as it says itself: 0.2 ms, where `count` walks through all of them."""
        try:
            return int((await self._link.execute("FT.INFO", schema.name))[b"num_docs"])
        except ResponseError as error:
            raise missing_index(error, schema) from error

    async def pages(
        self, schema: IndexSchema, selection: Selection, *, fields: Sequence[str], page_size: int = PAGE_SIZE
    ) -> AsyncIterator[list[dict[bytes, Any]]]:
        """Fields (and ``__key``) of the selected experiences, page by page, in no order.

        Raises
        ------
        StoreUnavailableError
            A page got lost, or fewer rows came than there are. What was read so far must be dropped; read again.
        """
        expected = await self.count(schema, selection)
        rows = 0
        cursor = 0
        try:
            answer, cursor = await self._link.execute(
                *("FT.AGGREGATE", schema.name, selection.query, "LOAD", len(fields) + 1, "@__key"),
                *(f"@{field}" for field in fields),
                *("WITHCURSOR", "COUNT", page_size, "MAXIDLE", CURSOR_IDLE_MS),
                *selection.clause(),
            )
            while True:
                page = [row[b"extra_attributes"] for row in check_complete(answer)[b"results"]]
                # A record that expired between the index and here has no fields left.
                page = [row for row in page if len(row) > len(fields)]
                rows += len(page)
                if page:
                    yield page
                if not cursor:
                    break
                # Sent twice, it would skip a page.
                answer, cursor = await self._link.execute(
                    "FT.CURSOR", "READ", schema.name, cursor, "COUNT", page_size, retry=False
                )
        except ResponseError as error:
            cursor = 0
            if "ursor" not in str(error):
                raise missing_index(error, schema) from error
            raise StoreUnavailableError(
                f"reading {schema.name} was interrupted: {error}.", remedy="Read the window again."
            ) from error
        finally:
            if cursor:
                await self._drop_cursor(schema, cursor)
        if rows < expected and rows < await self.count(schema, selection):
            raise StoreUnavailableError(
                f"{schema.name} gave {rows} of {expected} experiences.", remedy="Read the window again."
            )

    async def rows(
        self, schema: IndexSchema, selection: Selection, *, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[list[Row]]:
        """The selected experiences, undecoded and without vectors, page by page, in no order."""
        fields = ("body", "known_at", "recorded_at")
        async for page in self.pages(schema, selection, fields=fields, page_size=page_size):
            yield [Row(row[b"__key"], row[b"body"], int(row[b"known_at"]), int(row[b"recorded_at"])) for row in page]

    async def fetch(self, keys: Sequence[bytes | str], field: str) -> list[bytes | None]:
        """One field of each of some records, in order; None where a record or the field is missing."""
        values: list[bytes | None] = []
        for start in range(0, len(keys), FETCH_SIZE):
            values += await self._link.pipeline([("HGET", key, field) for key in keys[start : start + FETCH_SIZE]])
        return values

    async def vectors(self, schema: IndexSchema, keys: Sequence[bytes | str]) -> list[Vector | None]:
        """Vectors of some records, in order; None where a record is missing."""
        return [
            None if packed is None else unpack_vector(packed, schema.vector_type)
            for packed in await self.fetch(keys, schema.vector_field)
        ]

    async def feature_names(self, schema_id: str) -> tuple[str, ...]:
        """Names of a set of features. Cached."""
        names = self._names.get(schema_id)
        if names is None:
            packed = await self._link.execute("GET", self._keys.feature_schema(schema_id))
            if packed is None:
                raise StoreUnavailableError(
                    f"the names of feature schema {schema_id} are missing from Redis.",
                    remedy="Restore the memory from a backup: its records cannot be read without them.",
                )
            names = self._names[schema_id] = decode_names(packed)
        return names

    async def _drop_cursor(self, schema: IndexSchema, cursor: int) -> None:
        try:
            await self._link.execute("FT.CURSOR", "DEL", schema.name, cursor)
        except (ResponseError, AccessDeniedError, StoreUnavailableError):
            # It is gone already, or the server is: cursors end by themselves when they are idle.
            return


def missing_index(error: ResponseError, schema: IndexSchema) -> Exception:
    """The error to raise for a search that the server refused."""
    again = command("run reindex_memory", namespace_of(schema.name))
    remedy = f"Build it again: {again}, or mem.indexes.restore; what is stored is safe."
    return lost_index(error, schema.name, remedy)


def lost_index(error: ResponseError, name: str, remedy: str) -> Exception:
    """The error to raise for a search that the server refused, with how to have a lost index built again."""
    if "no such index" in str(error).lower() or "unknown index" in str(error).lower():
        return StoreUnavailableError(f"the index {name} is missing.", remedy=remedy)
    return error
