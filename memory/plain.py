"""Plain data: what messages and traces carry for programs, and what MessagePack and JSON both hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from memory.errors import InvalidRecordError

MAX_DEPTH = 16
"""Levels of nesting."""
_LEAST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1


def plain_mapping(values: Any, field: str) -> dict[str, Any]:
    """A mapping as plain data, copied: what its owner changes afterwards is not in the copy.

    Text, finite numbers, integers of 64 bits, booleans, None, and lists and mappings by text of them; numpy's numbers
    become Python's, tuples lists.

    Raises
    ------
    InvalidRecordError
        Names the value within `field` that is something else.
    """
    if not isinstance(values, Mapping):
        raise InvalidRecordError(
            f"{field} is {type(values).__name__}.", remedy="Use a mapping of names to values.", field=field
        )
    plain: dict[str, Any] = _plain(values, field, field, MAX_DEPTH)
    return plain


def _plain(value: Any, name: str, field: str, depth: int) -> Any:
    if isinstance(value, np.bool_ | np.integer | np.floating):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, name, field)
    if isinstance(value, int):
        if not _LEAST_INTEGER <= value <= _LARGEST_INTEGER:
            raise InvalidRecordError(f"{name} is beyond 64 bits.", remedy="Write it as text.", field=field)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRecordError(f"{name} is {value}.", remedy="Use finite numbers.", field=field)
        return float(value)
    if depth > 0 and isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InvalidRecordError(
                f"{name} has names that are no text.", remedy="Name the values by text.", field=field
            )
        return {
            _text(key, name, field): _plain(item, f"{name}[{key}]", field, depth - 1) for key, item in value.items()
        }
    if depth > 0 and isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{position}]", field, depth - 1) for position, item in enumerate(value)]
    problem = f"nested more than {MAX_DEPTH} deep" if depth == 0 else type(value).__name__
    raise InvalidRecordError(
        f"{name} is {problem}.",
        remedy="Use text, finite numbers, booleans, None, and lists and mappings of them.",
        field=field,
    )


def _text(value: str, name: str, field: str) -> str:
    """A plain string that UTF-8 can hold."""
    plain = str.__str__(value)
    if not plain.isascii():
        try:
            plain.encode()
        except UnicodeEncodeError as error:
            raise InvalidRecordError(
                f"{name} cannot be written down: {error}.", remedy="Use text that UTF-8 can hold.", field=field
            ) from error
    return plain
