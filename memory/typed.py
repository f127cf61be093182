"""Reading typed content, safe between threads.

When msgspec first meets a dataclass or Struct it reads the annotations of its fields, and threads that do so at the
same time for the same type crash the process (seen with msgspec 0.22). So what is read into such a type goes through a
decoder that is built here, once and by one thread at a time; what is built may be used by all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

Content = TypeVar("Content")
Hook = Callable[[type, Any], Any]

_building = threading.RLock()
_json: dict[Any, Any] = {}
_msgpack: dict[Any, Any] = {}


def json_as(kind: type[Content], content: bytes | str) -> Content:
    """JSON as an object of a type; msgspec.ValidationError where it does not hold one."""
    decoded: Content = _json_decoder(kind).decode(content)
    return decoded


def msgpack_as(kind: type[Content], content: bytes | memoryview, hook: Hook | None = None) -> Content:
    """MessagePack as an object of a type; a type is always read with the same hook. Errors as of `json_as`."""
    decoder = _msgpack.get(kind)
    if decoder is None:
        with _building:
            decoder = _msgpack[kind] = msgspec.msgpack.Decoder(kind, dec_hook=hook)
    decoded: Content = decoder.decode(content)
    return decoded


def convert_to(kind: type[Content], content: Any, *, strict: bool = True, hook: Hook | None = None) -> Content:
    """Plain content as an object of a type; errors as of `json_as`."""
    _json_decoder(kind, hook)
    return msgspec.convert(content, kind, strict=strict, dec_hook=hook)


def _json_decoder(kind: Any, hook: Hook | None = None) -> Any:
    decoder = _json.get(kind)
    if decoder is None:
        with _building:
            decoder = _json[kind] = msgspec.json.Decoder(kind, dec_hook=hook)
    return decoder
