"""A window's experiences as arrays: distinct states, and what every agent did in them.

Several agents act in one state, and several runs may replay it: the state is (product, time) within an encoder and a
source. Only one of its records' vectors is read, that of the first by memory id; by construction all agree.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from memory.errors import StoreUnavailableError
from memory.records import SOURCES, to_ms
from memory.store.codec import SIDE_SIGNS, Body, unpack_body, unpack_vectors
from memory.store.episodic import EpisodicStore
from memory.store.indexes import IndexSchema
from memory.store.keys import EpisodicKey, Keys, scope_tag, source_tag
from memory.store.scan import PAGE_SIZE, Reader, Selection, select
from memory.tables import ORIGIN_DTYPE, ExperienceTable, Floats, Ints, StateTable, WindowData
from memory.window import Window

READ_ATTEMPTS = 3
READ_PAUSE_S = 0.3
"""Between attempts: time for the server to drop records that expired while they were read."""
PART_ROWS = 20_000
"""Experiences of a part of a window, about: 2 KB each while they are read. Those of one product and hour stay together.
"""
_HOUR_MS = 3_600_000


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

    The same records give the same tables, in whatever order they were recorded. About 60 microseconds and 2 KB a
    record; searches beside it stay quick, because pages are small. `window_parts` reads the same in little memory.

    Raises
    ------
    StoreUnavailableError
        Redis went away, or the window changed under the reader's eyes three times.
    """
    tables: dict[tuple[str, str], WindowData] = {}
    for schema in await mem.episodic.schemas():
        for source in SOURCES:
            stretch = _Stretch(source, None, to_ms(window.start), to_ms(window.end))
            part = await _read_surely(mem, schema, stretch, page_size)
            if part is not None:
                tables[schema.encoder_id, source] = part
    return tables


async def window_parts(
    mem: OpenMemory, window: Window, *, part_rows: int = PART_ROWS, page_size: int = PAGE_SIZE
) -> AsyncIterator[WindowData]:
    """Everything that a window holds, part by part: by encoder, source, product and time, in this order.

    The parts of one encoder and source come one after the other, products by name, times ascending, and all records of
    a state lie in one part: put together they are what `read_window_data` gives, whatever the size of the parts.
    About 70 microseconds a record, and the memory of one part.

    Parameters
    ----------
    part_rows
        Experiences of one product that are read at a time, unless a single hour holds more.

    Raises
    ------
    StoreUnavailableError
        As `read_window_data`; parts that were given stay good, but the window has to be read again from the beginning.
    """
    start_ms, end_ms = to_ms(window.start), to_ms(window.end)
    for schema in await mem.episodic.schemas():
        for source in SOURCES:
            for stretch in await _stretches(mem, schema, source, start_ms, end_ms, part_rows, page_size):
                part = await _read_surely(mem, schema, stretch, page_size)
                if part is not None:
                    yield part


class _Stretch(NamedTuple):
    """Experiences of a source, of one product or all, decided in [start, end)."""

    source: str
    product_id: str | None
    start_ms: int
    end_ms: int

    def selection(self) -> Selection:
        scope = scope_tag(product_id=self.product_id)
        tags = [source_tag(self.source), *([] if scope is None else [scope])]
        return select(start_ms=self.start_ms, end_ms=self.end_ms, tags=tags)


async def _stretches(
    mem: OpenMemory, schema: IndexSchema, source: str, start_ms: int, end_ms: int, part_rows: int, page_size: int
) -> list[_Stretch]:
    """Cut a window into stretches of about `part_rows` experiences, by the keys of all of them."""
    everything = _Stretch(source, None, start_ms, end_ms)
    for attempt in range(1, READ_ATTEMPTS + 1):
        counts: Counter[tuple[str, int]] = Counter()
        try:
            async for page in mem.reader.pages(schema, everything.selection(), fields=(), page_size=page_size):
                keys = [mem.keys.parse_episodic(row[b"__key"]) for row in page]
                counts.update((key.product_id, (key.timestamp_ms - start_ms) // _HOUR_MS) for key in keys)
            break
        except StoreUnavailableError:
            if attempt == READ_ATTEMPTS:
                raise
            await asyncio.sleep(READ_PAUSE_S)
    stretches: list[_Stretch] = []
    for product_id in sorted({product for product, _ in counts}):
        begin, rows = start_ms, 0
        for hour in sorted(hour for product, hour in counts if product == product_id):
            of_hour = counts[product_id, hour]
            if rows and rows + of_hour > part_rows:
                stretches.append(_Stretch(source, product_id, begin, start_ms + hour * _HOUR_MS))
                begin, rows = start_ms + hour * _HOUR_MS, 0
            rows += of_hour
        stretches.append(_Stretch(source, product_id, begin, end_ms))
    return stretches


async def _read_surely(mem: OpenMemory, schema: IndexSchema, stretch: _Stretch, page_size: int) -> WindowData | None:
    """What a stretch holds, None where that is nothing; again where it changed while it was read."""
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return await _read(mem, schema, stretch, page_size)
        except StoreUnavailableError:
            if attempt == READ_ATTEMPTS:
                raise
            await asyncio.sleep(READ_PAUSE_S)
    raise AssertionError("unreachable")


async def _read(mem: OpenMemory, schema: IndexSchema, stretch: _Stretch, page_size: int) -> WindowData | None:
    records: list[_Record] = []
    async for rows in mem.reader.rows(schema, stretch.selection(), page_size=page_size):
        for row in rows:
            key = mem.keys.parse_episodic(row.key)
            records.append(_Record(row.key, key, unpack_body(row.body), row.known_ms, row.recorded_ms))
    if not records:
        return None
    return WindowData(
        states=await _states(mem.reader, schema, schema.encoder_id, stretch.source, records),
        experiences=_experiences(schema.encoder_id, stretch.source, records),
    )


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
        origin=np.array([record.key.memory_id.encode() for record in first_records], dtype=ORIGIN_DTYPE),
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
