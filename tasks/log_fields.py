"""What the log lines of a task are about, by its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from inspect import Signature, signature
from typing import Any, Protocol, runtime_checkable

from memory.logs import log_context
from memory.window import Window

_BY_NAME = ("namespace", "run_id")
"""Parameters that are what they are called."""


@runtime_checkable
class Logged(Protocol):
    """An argument that knows what work with it is about."""

    def log_fields(self) -> Mapping[str, str]:
        """Some of `memory.logs.FIELDS`."""
        ...


class TaskFields:
    """Log fields of the calls of one task: its name, and what its arguments tell."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = function.__name__
        self._signature: Signature = signature(function)

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Within this block, lines are about a call."""
        fields = {"task": self._name}
        try:
            arguments = self._signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            return log_context(**fields)  # Wrong arguments: the call itself says so.
        for name, value in arguments.items():
            if isinstance(value, Logged):
                fields |= value.log_fields()
            elif name in _BY_NAME and isinstance(value, str):
                fields[name] = value
            elif isinstance(value, Window):
                fields["window"] = value.name
        regime = arguments.get("regime")
        if isinstance(regime, str):
            fields["partition"] = f"{fields['partition']}-{regime}" if "partition" in fields else regime
        return log_context(**fields)
