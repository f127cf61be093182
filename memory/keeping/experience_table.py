"""Experiences and decision traces as Arrow tables that any tool reads, and back without loss.

One row an experience; times are UTC milliseconds, returns and costs fractions of notional, prices in the product's
quote currency. Columns that hold lists are `state_vector` (float32), `features` (float64, in the order of the names
that the manifest gives for the row's `feature_schema`), `pattern_ids` and `other_agents`. The next state is the state
of `next_memory_id` where that record lies in the same row group, else `next_state_vector`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memory.decisions import DecisionTrace
from memory.feature_values import FeatureValues
from memory.records import Action, EpisodicMemory, Side
from memory.store.codec import FeatureSchema
from memory.store.decisions import pack_trace, unpack_trace

_TIME = pa.timestamp("ms", tz="UTC")
_NUMBERS = (
    "price",
    "spread",
    "gross_return",
    "cost",
    "position_before",
    "position_after",
    "cumulative_return",
    "quality",
)
"""Optional numbers of an experience."""

EXPERIENCE_SCHEMA = pa.schema(
    [
        pa.field("memory_id", pa.string(), nullable=False),
        pa.field("timestamp", _TIME, nullable=False),
        pa.field("agent_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("size", pa.float64(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("regime", pa.string(), nullable=False),
        pa.field("market_phase", pa.string(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in _NUMBERS),
        pa.field("terminal", pa.bool_(), nullable=False),
        pa.field("known_at", _TIME, nullable=False),
        pa.field("recorded_at", _TIME),
        pa.field("return_known_at", _TIME),
        pa.field("source", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("encoder_id", pa.string(), nullable=False),
        pa.field("feature_schema", pa.string(), nullable=False),
        pa.field("features", pa.list_(pa.float64()), nullable=False),
        pa.field("state_vector", pa.list_(pa.float32()), nullable=False),
        pa.field("next_memory_id", pa.string()),
        pa.field("next_state_vector", pa.list_(pa.float32())),
        pa.field("pattern_ids", pa.list_(pa.string()), nullable=False),
        pa.field(
            "other_agents",
            pa.list_(pa.struct([("agent_id", pa.string()), ("action", pa.string()), ("size", pa.float64())])),
            nullable=False,
        ),
    ]
)
"""Columns of a file of experiences."""

TRACE_SCHEMA = pa.schema(
    [
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("timestamp", _TIME, nullable=False),
        pa.field("agent_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("size", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("memories_read", pa.list_(pa.string()), nullable=False),
        pa.field("patterns_read", pa.list_(pa.string()), nullable=False),
        pa.field("trace", pa.binary(), nullable=False),
    ]
)
"""Columns of a file of decision traces; `trace` is all of it as it is stored (MessagePack)."""

_PLAIN = ("memory_id", "agent_id", "product_id", "regime", "market_phase", "source", "run_id", "step", "encoder_id")
_TIMES = ("known_at", "recorded_at", "return_known_at")


def in_order(experiences: Sequence[EpisodicMemory]) -> list[EpisodicMemory]:
    """Experiences as they are written: those of one agent, product and run follow each other, by time and step."""
    return sorted(
        experiences,
        key=lambda item: (item.agent_id, item.product_id, item.source, item.run_id, item.timestamp, item.step),
    )


def experiences_to_arrow(experiences: Sequence[EpisodicMemory]) -> pa.Table:
    """One row an experience, in the order given (see `in_order`); about 25 microseconds a row."""
    following = [_follower(experiences, position) for position in range(len(experiences))]
    names = [tuple(item.features) for item in experiences]
    schema_of = {some: FeatureSchema.of(some) if some else FeatureSchema("", ()) for some in set(names)}
    schemas = [schema_of[some] for some in names]
    columns: dict[str, Any] = {
        "timestamp": [item.timestamp for item in experiences],
        "action": [item.action.side.value for item in experiences],
        "size": [float(item.action.size) for item in experiences],
        "reward": [float(item.reward) for item in experiences],
        "confidence": [float(item.confidence) for item in experiences],
        "terminal": [item.terminal for item in experiences],
        "feature_schema": [schema.schema_id for schema in schemas],
        "features": _lists(
            [
                np.array([item.features[name] for name in schema.names])
                for item, schema in zip(experiences, schemas, strict=True)
            ],
            pa.float64(),
        ),
        "state_vector": _lists([item.state_vector for item in experiences], pa.float32()),
        "next_memory_id": following,
        "next_state_vector": _lists(
            [
                item.next_state_vector if found is None else None
                for item, found in zip(experiences, following, strict=True)
            ],
            pa.float32(),
        ),
        "pattern_ids": [list(item.pattern_ids) for item in experiences],
        "other_agents": [
            [
                {"agent_id": agent, "action": action.side.value, "size": float(action.size)}
                for agent, action in item.other_agent_actions.items()
            ]
            for item in experiences
        ],
    }
    for name in _PLAIN + _TIMES + _NUMBERS:
        columns[name] = [getattr(item, name) for item in experiences]
    arrays = [pa.array(columns[field.name], type=field.type) for field in EXPERIENCE_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=EXPERIENCE_SCHEMA)


def experiences_from_arrow(
    table: pa.Table, feature_schemas: Mapping[str, Sequence[str]], *, agent_id: str | None = None
) -> list[EpisodicMemory]:
    """The experiences of a row group, next states resolved within it.

    Parameters
    ----------
    table
        What `experiences_to_arrow` made, or rows of it that hold all that they refer to.
    feature_schemas
        Names of features by the id of their schema.
    agent_id
        Give all of them to this agent: their runs are then named after the one that lived through them, so that none
        can be taken for what this agent lived through in the same run, and their ids are derived anew.

    Raises
    ------
    KeyError
        A row refers to a schema or record that is not there.
    """
    values = {field.name: table.column(field.name) for field in EXPERIENCE_SCHEMA}
    plain = {
        name: column.to_pylist()
        for name, column in values.items()
        if name not in ("features", "state_vector", "next_state_vector")
    }
    vectors = _arrays(values["state_vector"])
    features = _arrays(values["features"])
    following = _arrays(values["next_state_vector"])
    row_of = {memory_id: row for row, memory_id in enumerate(plain["memory_id"])}
    names = {schema: tuple(some) for schema, some in feature_schemas.items()} | {"": ()}
    found = []
    for row in range(table.num_rows):
        value = {name: column[row] for name, column in plain.items()}
        next_id = value["next_memory_id"]
        memory = EpisodicMemory(
            **{name: value[name] for name in (*_PLAIN, *_NUMBERS, "known_at", "return_known_at")},
            timestamp=value["timestamp"],
            action=Action(Side(value["action"]), value["size"]),
            reward=value["reward"],
            confidence=value["confidence"],
            terminal=value["terminal"],
            state_vector=vectors[row],
            next_state_vector=following[row] if next_id is None else vectors[row_of[next_id]],
            features=FeatureValues(names[value["feature_schema"]], features[row].astype("<f8").tobytes()),
            pattern_ids=tuple(value["pattern_ids"]),
            other_agent_actions={
                other["agent_id"]: Action(Side(other["action"]), other["size"]) for other in value["other_agents"]
            },
        )
        if agent_id is not None and agent_id != memory.agent_id:
            memory.run_id = f"{memory.run_id}.{memory.agent_id}"
            memory.agent_id, memory.memory_id = agent_id, ""
        found.append(memory)
    return found


def traces_to_arrow(traces: Sequence[DecisionTrace]) -> pa.Table:
    """One row a decision trace."""
    columns: dict[str, Any] = {
        "decision_id": [trace.decision_id for trace in traces],
        "timestamp": [trace.timestamp for trace in traces],
        "agent_id": [trace.agent_id for trace in traces],
        "product_id": [trace.product_id for trace in traces],
        "policy": [trace.policy for trace in traces],
        "action": [trace.action.side.value for trace in traces],
        "size": [float(trace.action.size) for trace in traces],
        "confidence": [float(trace.confidence) for trace in traces],
        "memories_read": [[read.memory_id for read in (*trace.own, *trace.shared)] for trace in traces],
        "patterns_read": [[read.memory_id for read in trace.patterns] for trace in traces],
        "trace": [pack_trace(trace) for trace in traces],
    }
    return pa.Table.from_arrays(
        [pa.array(columns[field.name], type=field.type) for field in TRACE_SCHEMA], schema=TRACE_SCHEMA
    )


def traces_from_arrow(table: pa.Table) -> list[DecisionTrace]:
    """The traces of a table; StoreUnavailableError where one is of another version."""
    return [unpack_trace(packed) for packed in table.column("trace").to_pylist()]


def _follower(experiences: Sequence[EpisodicMemory], position: int) -> str | None:
    """Id of the record after one where that holds its next state."""
    item = experiences[position]
    if item.next_state_vector is None or position + 1 == len(experiences):
        return None
    after = experiences[position + 1]
    same = (item.agent_id, item.product_id, item.source, item.run_id) == (
        *(after.agent_id, after.product_id),
        *(after.source, after.run_id),
    )
    return after.memory_id if same and np.array_equal(item.next_state_vector, after.state_vector) else None


def _lists(rows: Sequence[npt.NDArray[Any] | None], kind: pa.DataType) -> pa.Array:
    """Rows of numbers as one array of lists; null where a row is None."""
    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    held = [row for row in rows if row is not None]
    flat = np.concatenate(held) if held else np.zeros(0)
    missing = pa.array([row is None for row in rows], type=pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat).cast(kind), mask=missing)


def _arrays(column: pa.ChunkedArray) -> list[Any]:
    """Rows of a column of lists as arrays, views of the column; None where a row is null."""
    found: list[Any] = []
    for chunk in column.chunks:
        flat, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        missing = chunk.is_null().to_numpy(zero_copy_only=False)
        found += [None if missing[row] else flat[offsets[row] : offsets[row + 1]] for row in range(len(chunk))]
    return found
