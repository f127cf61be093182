"""What lies where in a namespace's part of Redis, in which order it is read, and what names the namespace inside.

Whatever has a prefix that is not listed here is read all the same, as `OTHER`: nothing is forgotten in a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from memory.backup.rows import HASH, SET, STRING, KeyRow
from memory.store.decisions import trace_of_line


class Section(StrEnum):
    """Keys that are read together."""

    ACCESS = "access"
    MAILBOXES = "mailboxes"
    STREAMS = "streams"
    EPISODIC = "episodic"
    SHARED = "shared"
    DECISIONS = "decisions"
    SEMANTIC = "semantic"
    ENCODERS = "encoders"
    OTHER = "other"


BEFORE = (Section.ACCESS, Section.MAILBOXES)
"""Read before the cut, since nothing in them says when it was written: what readers did after it is not in them."""
AT = (Section.STREAMS,)
"""Read at the cut, while no inbox is drained: an entry is there, or the experience that it became."""
AFTER = (Section.SEMANTIC, Section.EPISODIC, Section.SHARED, Section.DECISIONS, Section.ENCODERS, Section.OTHER)
"""Read after the cut: they say when they were recorded, or do not change while the namespace is held.

Encoders and names of features come last, so that all that records refer to is among them.
"""

PREFIXES: Mapping[str, Section | None] = {
    "access:": Section.ACCESS,
    "mailbox:": Section.MAILBOXES,
    "mailbox_leases:": Section.MAILBOXES,
    "inbox:": Section.STREAMS,
    "messages:": Section.STREAMS,
    "message_ids:": Section.STREAMS,
    "message_senders:": Section.STREAMS,
    "dead_letters": Section.STREAMS,
    "dead_letter_digests": Section.STREAMS,
    "episodic:": Section.EPISODIC,
    "shared_episodic:": Section.SHARED,
    "decision:": Section.DECISIONS,
    "semantic:": Section.SEMANTIC,
    "semantic_manifest:": Section.SEMANTIC,
    "semantic_publications:": Section.SEMANTIC,
    "semantic_windows:": Section.SEMANTIC,
    "semantic_stamp:": Section.SEMANTIC,
    "current_line": Section.SEMANTIC,
    "line_history:": Section.SEMANTIC,
    "memory_aliases:": Section.SEMANTIC,
    "encoder:": Section.ENCODERS,
    "encoders": Section.ENCODERS,
    "current_encoder": Section.ENCODERS,
    "feature_schema:": Section.ENCODERS,
    "index_": Section.ENCODERS,
    # Of the moment, and of this server: documents under way, who may write, what waits for the disk, a restore.
    "semantic_staged:": None,
    "fence": None,
    "on_disk": None,
    "restoring": None,
}
"""Where keys belong by how their names begin; None for those that are no part of a snapshot."""

_PATTERNS: Mapping[Section, tuple[str, ...]] = {
    Section.ACCESS: ("access:*",),
    Section.MAILBOXES: ("mailbox*",),
    Section.STREAMS: ("inbox:*", "message*", "dead_letters", "dead_letter_digests"),
    Section.EPISODIC: ("episodic:*",),
    Section.SHARED: ("shared_episodic:*",),
    Section.DECISIONS: ("decision:*",),
    Section.SEMANTIC: ("semantic*", "line_history:*", "memory_aliases:*", "current_line"),
    Section.ENCODERS: ("encoder:*", "feature_schema:*", "index_*", "encoders", "current_encoder"),
    Section.OTHER: ("*",),
}

BULK = (Section.EPISODIC, Section.SHARED, Section.DECISIONS)
"""Sections of as many keys as there are experiences."""
SEMANTIC_DOCUMENTS = "semantic:"
LINE_VALUES = ("current_line", "line_history:")
"""Hashes whose values are names of lines."""
KEY_LISTS = ("index_todo:", "index_refused:")
"""Sets and hashes whose members are whole keys."""
_INDEX = "index_"


def section_of(key: bytes) -> Section | None:
    """Where a key (without the namespace) belongs; None for one that is no part of a snapshot."""
    name = key.decode(errors="replace")
    found = [prefix for prefix in PREFIXES if name == prefix or (name.startswith(prefix) and not _exact(prefix))]
    return PREFIXES[max(found, key=len)] if found else Section.OTHER


def patterns_of(section: Section) -> tuple[str, ...]:
    """Patterns, for keys without the namespace, that find all of a section's keys, and maybe others'.

    Each that holds a ``*`` costs a look at all keys of the server; the others are whole keys.
    """
    return _PATTERNS[section]


def _exact(prefix: str) -> bool:
    """Whether it is a whole key, and not the beginning of many."""
    return not prefix.endswith((":", "_"))


# --- renaming ------------------------------------------------------------------------------------------------


def renamed(row: KeyRow, source: str, target: str) -> KeyRow:
    """A row of one namespace as it is in another.

    What names the namespace inside: lines (``namespace/encoder/version``) in the names and contents of semantic memory
    and in decision traces, and the names of indexes in what is known of them.
    """
    if source == target:
        return row
    name = row.key.decode(errors="replace")
    section = section_of(row.key)
    if section is Section.SEMANTIC:
        return _semantic(row, name, source, target)
    if section is Section.DECISIONS and row.value is not None:
        return row._replace(value=trace_of_line(row.value, lambda line: renamed_line(line, source, target)))
    if name.startswith(KEY_LISTS) and row.kind in (SET, HASH):
        return row._replace(fields=[(_moved(key, source, target), value) for key, value in row.fields])
    if name.startswith(_INDEX) and row.kind == STRING and row.value is not None and row.value.startswith(b"{"):
        own = _within(msgspec.json.decode(row.value), f"{source}:", f"{target}:")
        return row._replace(value=msgspec.json.encode(own))
    return row


def renamed_line(line: str, source: str, target: str) -> str:
    """A line's name in another namespace; another namespace's line stays as it is."""
    namespace, _, rest = line.partition("/")
    return f"{target}/{rest}" if namespace == source else line


def _semantic(row: KeyRow, name: str, source: str, target: str) -> KeyRow:
    own, other = f":{source}/".encode(), f":{target}/".encode()
    row = row._replace(key=row.key.replace(own, other, 1))
    if name.startswith(SEMANTIC_DOCUMENTS):
        changed: Mapping[bytes, Callable[[bytes], bytes]] = {
            b"scope": lambda value: value.replace(own, other),
            b"body": lambda value: _body(value, source, target),
        }
        fields = [(field, changed[field](value) if field in changed else value) for field, value in row.fields]
        return row._replace(fields=fields)
    if name.startswith(LINE_VALUES):
        fields = [(field, renamed_line(line.decode(), source, target).encode()) for field, line in row.fields]
        return row._replace(fields=fields)
    return row


def _body(packed: bytes, source: str, target: str) -> bytes:
    """A semantic memory's body with its line renamed; what is damaged stays as it is."""
    try:
        body = msgspec.msgpack.decode(packed)
    except msgspec.DecodeError:
        return packed
    if not isinstance(body, dict) or not isinstance(body.get("line"), str):
        return packed
    return msgspec.msgpack.encode({**body, "line": renamed_line(body["line"], source, target)})


def _moved(key: bytes, source: str, target: str) -> bytes:
    start = f"{source}:".encode()
    return f"{target}:".encode() + key[len(start) :] if key.startswith(start) else key


def _within(content: Any, start: str, instead: str) -> Any:
    """JSON values with the beginning of texts replaced."""
    if isinstance(content, str):
        return instead + content[len(start) :] if content.startswith(start) else content
    if isinstance(content, list):
        return [_within(item, start, instead) for item in content]
    if isinstance(content, dict):
        return {name: _within(item, start, instead) for name, item in content.items()}
    return content
