"""A window's experiences as arrays: distinct states, and what every agent did in them.

Several agents act in one state, and several runs may replay it: the state is (product, time) within an encoder and a
source. Only one of its records' vectors is read, that of the first by memory id; by construction all agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from memory.errors import StoreUnavailableError
from memory.records import SOURCES, to_ms
from memory.store.codec import SIDE_SIGNS, Body, unpack_body, unpack_vectors
from memory.store.episodic import EpisodicStore
from memory.store.indexes import IndexSchema
from memory.store.keys import EpisodicKey, Keys
from memory.store.scan import PAGE_SIZE, Reader, select
from memory.tables import ExperienceTable, Floats, Ints, StateTable, WindowData
from memory.window import Window

READ_ATTEMPTS = 3
READ_PAUSE_S = 0.3
"""Between attempts: time for the server to drop records that expired while they were read."""


class OpenMemory(Protocol):
    """What is needed of an open memory: `memory.MemoryConnection` has it."""

    @property
    def episodic(self) -> EpisodicStore: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def keys(self) -> Keys: ...


class _Record:
    """One experience on its way into the tables."""

    __slots__ = ("body", "key", "known_ms", "raw_key", "recorded_ms")

    def __init__(self, raw_key: bytes, key: EpisodicKey, body: Body, known_ms: int, recorded_ms: int) -> None:
        self.raw_key = raw_key
        self.key = key
        self.body = body
        self.known_ms = known_ms
        self.recorded_ms = recorded_ms


async def read_window_data(
    mem: OpenMemory, window: Window, *, page_size: int = PAGE_SIZE
) -> dict[tuple[str, str], WindowData]:
    """Everything that a window holds, by (encoder id, source); empty where nothing was recorded.

    The same records give the same tables, in whatever order they were recorded. About 60 microseconds a record;
    searches beside it stay quick, because pages are small.

    Raises
    ------
    StoreUnavailableError
        Redis went away, or the window changed under the reader's eyes three times.
    """
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return await _read(mem, window, page_size)
        except StoreUnavailableError:
            if attempt == READ_ATTEMPTS:
                raise
            await asyncio.sleep(READ_PAUSE_S)
    raise AssertionError("unreachable")


async def _read(mem: OpenMemory, window: Window, page_size: int) -> dict[tuple[str, str], WindowData]:
    selection = select(start_ms=to_ms(window.start), end_ms=to_ms(window.end))
    tables: dict[tuple[str, str], WindowData] = {}
    for schema in await mem.episodic.schemas():
        by_source: dict[int, list[_Record]] = {}
        async for rows in mem.reader.rows(schema, selection, page_size=page_size):
            for row in rows:
                body = unpack_body(row.body)
                record = _Record(row.key, mem.keys.parse_episodic(row.key), body, row.known_ms, row.recorded_ms)
                by_source.setdefault(body.source, []).append(record)
        for source, records in sorted(by_source.items()):
            encoder_id = schema.encoder_id
            tables[encoder_id, SOURCES[source]] = WindowData(
                states=await _states(mem.reader, schema, encoder_id, SOURCES[source], records),
                experiences=_experiences(encoder_id, SOURCES[source], records),
            )
    return tables


async def _states(
    reader: Reader, schema: IndexSchema, encoder_id: str, source: str, records: Sequence[_Record]
) -> StateTable:
    chosen: dict[tuple[str, int], _Record] = {}
    known: dict[tuple[str, int], int] = {}
    recorded: dict[tuple[str, int], int] = {}
    for record in records:
        state = (record.key.product_id, record.key.timestamp_ms)
        first = chosen.get(state)
        if first is None:
            chosen[state], known[state], recorded[state] = record, record.known_ms, record.recorded_ms
            continue
        if record.key.memory_id < first.key.memory_id:
            chosen[state] = record
        # A state is known as soon as one of its experiences is.
        known[state] = min(known[state], record.known_ms)
        recorded[state] = min(recorded[state], record.recorded_ms)
    order = sorted(chosen)
    first_records = [chosen[state] for state in order]
    packed = await reader.fetch([record.raw_key for record in first_records], schema.vector_field)
    if None in packed:
        raise StoreUnavailableError(
            "experiences were removed while their window was read.", remedy="Read the window again."
        )
    products = tuple(sorted({product for product, _ in order}))
    product_codes = {product: code for code, product in enumerate(products)}
    names, features = await _features(reader, first_records)
    return StateTable(
        encoder_id=encoder_id,
        source=source,
        feature_names=names,
        products=products,
        product=_ints([product_codes[product] for product, _ in order]),
        timestamp_ms=_ints([time for _, time in order]),
        known_at_ms=_ints([known[state] for state in order]),
        recorded_at_ms=_ints([recorded[state] for state in order]),
        vectors=unpack_vectors([value for value in packed if value is not None], schema.vector_type, schema.dimension),
        features=features,
        price=_floats([record.body.price for record in first_records]),
        spread=_floats([record.body.spread for record in first_records]),
        regime=_ints([record.body.regime for record in first_records]),
    )


async def _features(reader: Reader, records: Sequence[_Record]) -> tuple[tuple[str, ...], Floats]:
    """All names that occur, sorted, and the values by row; NaN where a record lacks a feature."""
    by_schema: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        by_schema.setdefault(record.body.feature_schema, []).append(position)
    names_by_schema = {schema_id: await reader.feature_names(schema_id) for schema_id in by_schema}
    names = tuple(sorted({name for own in names_by_schema.values() for name in own}))
    columns = {name: column for column, name in enumerate(names)}
    values = np.full((len(records), len(names)), np.nan)
    for schema_id, positions in by_schema.items():
        own = names_by_schema[schema_id]
        packed = b"".join(records[position].body.features for position in positions)
        block = np.frombuffer(packed, dtype="<f8").reshape(len(positions), len(own))
        values[np.ix_(positions, [columns[name] for name in own])] = block
    return names, values


def _experiences(encoder_id: str, source: str, records: Sequence[_Record]) -> ExperienceTable:
    order = sorted(
        records,
        key=lambda record: (
            record.key.agent_id,
            record.key.product_id,
            record.key.timestamp_ms,
            record.body.step,
            record.body.run_id,
        ),
    )
    bodies = [record.body for record in order]
    agents, agent = _codes([record.key.agent_id for record in order])
    products, product = _codes([record.key.product_id for record in order])
    runs, run = _codes([body.run_id for body in bodies])

    def ints(value: Callable[[Body], int]) -> Ints:
        return _ints([value(body) for body in bodies])

    def floats(value: Callable[[Body], float | None]) -> Floats:
        return _floats([value(body) for body in bodies])

    return ExperienceTable(
        encoder_id=encoder_id,
        source=source,
        agents=agents,
        products=products,
        runs=runs,
        agent=agent,
        product=product,
        run=run,
        timestamp_ms=_ints([record.key.timestamp_ms for record in order]),
        known_at_ms=_ints([record.known_ms for record in order]),
        recorded_at_ms=_ints([record.recorded_ms for record in order]),
        step=ints(lambda body: body.step),
        regime=ints(lambda body: body.regime),
        side=ints(lambda body: SIDE_SIGNS[body.side]),
        size=floats(lambda body: body.size),
        reward=floats(lambda body: body.reward),
        gross_return=floats(lambda body: body.gross_return),
        cost=floats(lambda body: body.cost),
        position_before=floats(lambda body: body.position_before),
        position_after=floats(lambda body: body.position_after),
        confidence=floats(lambda body: body.confidence),
        quality=floats(lambda body: body.quality),
        terminal=np.array([body.terminal for body in bodies], dtype=bool),
    )


def _codes(values: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    names = tuple(sorted(set(values)))
    codes = {name: code for code, name in enumerate(names)}
    return names, _ints([codes[value] for value in values])


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _floats(values: Sequence[Any]) -> Floats:
    """Numbers, NaN where there is none."""
    return np.array(values, dtype=np.float64)
