"""Raw experiences on the wire: what agents put into their inbox, and what a dead letter keeps.

A raw experience holds fields of `EpisodicMemory` by name. The vectors may be absent: then `features` (and
`next_features`) are encoded when the inbox is drained. Nothing is validated here beyond what it takes to write it
down; `to_experience` says which field is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.records import Action, EpisodicMemory, Side
from memory.validation import validate_timestamp

RawExperience = Mapping[str, Any]

NEXT_FEATURES = "next_features"
"""Extra field of a raw experience: the features of the next state, to be encoded like those of the state."""

_ARRAY_CODE = 1
_ARRAY_KINDS = "fiu"
_FIELDS = {item.name: item for item in fields(EpisodicMemory)}
_REQUIRED = tuple(
    item.name for item in fields(EpisodicMemory) if item.default is MISSING and item.default_factory is MISSING
)
_TIMES = ("timestamp", "known_at", "recorded_at", "return_known_at")
_VECTORS = ("state_vector", "next_state_vector")


def pack_raw(experience: EpisodicMemory | RawExperience, *, lenient: bool = False) -> bytes:
    """An experience as bytes.

    Parameters
    ----------
    experience
        An EpisodicMemory, or its fields by name.
    lenient
        Write what cannot be written as its ``repr`` instead of refusing it: for dead letters.

    Raises
    ------
    InvalidRecordError
        A field holds something that cannot be written down.
    """
    if isinstance(experience, EpisodicMemory):
        content = {name: getattr(experience, name) for name in _FIELDS}
    elif isinstance(experience, Mapping):
        content = dict(experience)
    elif lenient:
        content = {"experience": experience}
    else:
        raise _wrong_kind("experience", experience, "an EpisodicMemory, or fields of one by name")
    problem = ""
    try:
        return msgspec.msgpack.encode(content, enc_hook=_write_lenient if lenient else _write)
    except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError) as error:
        problem = str(error)
    if lenient:
        return msgspec.msgpack.encode({_shown(name): _shown(value) for name, value in content.items()})
    raise InvalidRecordError(
        f"the experience cannot be written down: {problem}.",
        remedy="Use strings, numbers, booleans, aware datetimes, numpy arrays, Actions, and dicts of them.",
        field="experience",
    )


def unpack_raw(packed: bytes) -> dict[str, Any]:
    """Fields of a raw experience, by name; InvalidRecordError where the bytes are none."""
    try:
        content = msgspec.msgpack.decode(packed, ext_hook=_read_extension)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise InvalidRecordError(
            f"the entry is no experience: {error}.",
            remedy="Write to the inbox with mem.inbox.append.",
            field="experience",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InvalidRecordError(
            f"the entry is {type(content).__name__}, not the fields of an experience by name.",
            remedy="Write to the inbox with mem.inbox.append.",
            field="experience",
        )
    return content


def to_experience(content: RawExperience) -> EpisodicMemory:
    """The experience that the fields describe, not yet validated.

    Raises
    ------
    InvalidRecordError
        A field is unknown, missing or of the wrong kind.
    """
    values = {name: value for name, value in content.items() if name != NEXT_FEATURES}
    for name in values:
        if name not in _FIELDS:
            raise InvalidRecordError(
                f"{name!r} is not a field of an experience.",
                remedy=f"Use {', '.join(_FIELDS)}.",
                field=str(name),
            )
    for name in _REQUIRED:
        if values.get(name) is None:
            raise InvalidRecordError(f"{name} is missing.", remedy="Give it a value.", field=name)
    for name in _TIMES:
        if values.get(name) is not None:
            values[name] = _to_time(values[name], name)
    for name in _VECTORS:
        if isinstance(values.get(name), list | tuple):
            values[name] = _to_vector(values[name], name)
    values["action"] = to_action(values["action"], "action")
    others = values.get("other_agent_actions", {})
    features = values.get("features", {})
    patterns = values.get("pattern_ids", ())
    if not isinstance(others, Mapping):
        raise _wrong_kind("other_agent_actions", others, "a mapping of agents to actions")
    if not isinstance(features, Mapping):
        raise _wrong_kind("features", features, "a mapping of names to numbers")
    if not isinstance(patterns, list | tuple):
        raise _wrong_kind("pattern_ids", patterns, "a list of ids")
    values["other_agent_actions"] = {
        agent: to_action(action, f"other_agent_actions[{agent}]") for agent, action in others.items()
    }
    values["features"] = dict(features)
    values["pattern_ids"] = tuple(patterns)
    for name in ("memory_id", "market_phase", "encoder_id"):
        if values.get(name, "") is None:
            values[name] = ""
    if not isinstance(values.get("terminal", False), bool):
        raise _wrong_kind("terminal", values["terminal"], "True or False")
    return EpisodicMemory(**values)


def to_action(value: Any, name: str) -> Action:
    """The action that a value describes: an Action, {"side": ..., "size": ...} or [side, size]."""
    if isinstance(value, Action):
        return value
    if isinstance(value, Mapping) and "side" in value and not set(value) - {"side", "size"}:
        side, size = value["side"], value.get("size", 1.0)
    elif isinstance(value, list | tuple) and len(value) == 2:
        side, size = value
    else:
        raise _wrong_kind(name, value, 'an Action, or {"side": "BUY", "size": 0.5}')
    try:
        return Action(Side(side), size)
    except ValueError as error:
        raise InvalidRecordError(
            f"{name} has side {side!r}, which is not known.", remedy="Use BUY, SELL or HOLD.", field=name
        ) from error


def _to_time(value: Any, name: str) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidRecordError(
                f"{name} {value!r} is no ISO 8601 time.", remedy="Use 2021-06-17T00:00:00+00:00.", field=name
            ) from error
    return validate_timestamp(value, name)


def _to_vector(value: Any, name: str) -> Any:
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _wrong_kind(name, value, "an array of numbers") from error


def _wrong_kind(name: str, value: Any, wanted: str) -> InvalidRecordError:
    return InvalidRecordError(f"{name} is {type(value).__name__}, not {wanted}.", remedy="Correct it.", field=name)


def _write(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in _ARRAY_KINDS:
        plain = np.ascontiguousarray(value)
        return msgspec.msgpack.Ext(
            _ARRAY_CODE, msgspec.msgpack.encode((plain.dtype.str, list(value.shape), plain.tobytes()))
        )
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} is no kind of value that is known here")


def _write_lenient(value: Any) -> Any:
    try:
        return _write(value)
    except NotImplementedError:
        return _shown(value)


def _shown(value: Any) -> str:
    """What can be said of any value, as text that UTF-8 holds."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - what a value says of itself is its own code
        text = f"{type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text.encode(errors="backslashreplace").decode()


def _read_extension(code: int, content: memoryview) -> Any:
    if code != _ARRAY_CODE:
        raise ValueError(f"extension {code} is not known")
    name, shape, packed = msgspec.msgpack.decode(content, type=tuple[str, list[int], bytes])
    dtype = np.dtype(name)
    if dtype.kind not in _ARRAY_KINDS:
        raise ValueError(f"arrays of {name} are not known")
    return np.frombuffer(packed, dtype=dtype).reshape(shape)
