"""Every kind of key has its place in a snapshot, and a name of the namespace inside moves with it."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatchcase as fnmatch
from typing import Any

import msgspec
import pytest

from memory.backup.keyspace import AFTER, AT, BEFORE, BULK, PREFIXES, Section, patterns_of, renamed, section_of
from memory.backup.rows import HASH, SET, STRING, ZSET, KeyRow
from memory.settings import Settings
from memory.store.indexes import encode_schema
from memory.store.keys import Keys
from memory.store.layout import IndexSchema, choose, episodic_family, plan_schema

SOURCE, TARGET = "one", "two-2"
NO_KEYS = ("_prefix", "_index", "_alias")
"""What names of `Keys` end in that are no keys."""
OF_THE_MOMENT = {"fence", "on_disk", "restoring", "semantic_staged"}


def every_key() -> dict[str, str]:
    """A key of every kind that there is, by the name of what makes it."""
    keys = Keys(SOURCE)
    found = {}
    for name, member in vars(Keys).items():
        if name.startswith("_") or name.startswith("parse_") or name.endswith(NO_KEYS) or name == "namespace":
            continue
        if isinstance(member, property):
            found[name] = getattr(keys, name)
        elif callable(member):
            values: dict[str, Any] = {"line": f"{SOURCE}/rff-1/1", "timestamp_ms": 1, "valid_from_ms": 1}
            values |= {"day": datetime(2021, 6, 17, tzinfo=UTC), "part": "todo"}
            wanted = list(inspect.signature(member).parameters)[1:]
            found[name] = getattr(keys, name)(
                *(values.get(argument, argument.replace("_", "-")) for argument in wanted)
            )
    return found


@pytest.mark.parametrize(("name", "key"), every_key().items(), ids=list(every_key()))
def test_every_kind_of_key_has_a_section_of_its_own(name: str, key: str) -> None:
    section = section_of(key.removeprefix(f"{SOURCE}:").encode())
    assert section is not Section.OTHER, f"say in memory.backup.keyspace.PREFIXES where {key} belongs"
    assert (section is None) == (name in OF_THE_MOMENT)


@pytest.mark.parametrize(("name", "key"), every_key().items(), ids=list(every_key()))
def test_a_line_in_the_name_of_a_key_moves_with_the_namespace(name: str, key: str) -> None:
    moved = renamed(KeyRow(key.removeprefix(f"{SOURCE}:").encode(), SET), SOURCE, TARGET)
    assert f"{SOURCE}/".encode() not in moved.key or name in OF_THE_MOMENT


def test_each_section_is_read_once() -> None:
    assert sorted((*BEFORE, *AT, *AFTER)) == sorted(Section)
    assert set(PREFIXES.values()) - {None} == set(Section) - {Section.OTHER}


def test_the_patterns_of_a_section_find_all_of_its_keys() -> None:
    for prefix, section in PREFIXES.items():
        if section is not None:
            key = prefix + "x" if prefix.endswith((":", "_")) else prefix
            assert any(fnmatch(key, pattern) for pattern in patterns_of(section)), key
    # A scan that is taken up goes on with the one pattern that it has.
    assert all(len(patterns_of(section)) == 1 for section in BULK)


def test_a_key_of_a_kind_that_nobody_knows_is_read_all_the_same() -> None:
    assert section_of(b"something:new") is Section.OTHER
    assert section_of(b"encoders:more") is Section.OTHER


def schema(namespace: str) -> IndexSchema:
    family = episodic_family(Keys(namespace))
    layout, algorithm = choose(Settings())
    return plan_schema(family, "rff-1", 256, layout=layout, algorithm=algorithm, vector_type="FLOAT32")


def test_a_schema_names_the_index_of_its_namespace() -> None:
    row = KeyRow(b"index_schema:rff-1", STRING, None, encode_schema(schema(SOURCE)))
    assert renamed(row, SOURCE, TARGET).value == encode_schema(schema(TARGET))
    assert renamed(renamed(row, SOURCE, TARGET), TARGET, SOURCE) == row


def test_a_change_under_way_names_the_indexes_of_its_namespace() -> None:
    job = msgspec.json.encode({"source": asdict(schema(SOURCE)), "target": asdict(schema(SOURCE)), "cursor": "7"})
    moved = renamed(KeyRow(b"index_job:rff-1", STRING, None, job), SOURCE, TARGET)
    assert msgspec.json.decode(moved.value or b"")["target"]["name"] == schema(TARGET).name


def test_records_to_encode_anew_are_listed_by_their_whole_keys() -> None:
    rows = [
        KeyRow(b"index_todo:rff-1", SET, None, None, [(b"one:episodic:a:b:1:c", b"")]),
        KeyRow(b"index_refused:rff-1", HASH, None, None, [(b"one:episodic:a:b:1:c", b"one: why")]),
        KeyRow(b"index_pairs:0:rff-1", SET, None, None, [(b"one:BTC-USDT", b"")]),
    ]
    moved = [renamed(row, SOURCE, TARGET).fields for row in rows]
    assert moved == [
        [(b"two-2:episodic:a:b:1:c", b"")],
        [(b"two-2:episodic:a:b:1:c", b"one: why")],
        [(b"one:BTC-USDT", b"")],  # An agent that is named as the namespace is.
    ]


def test_which_line_is_read_moves_and_another_namespaces_line_stays() -> None:
    fields = [(b"rff-1", b"one/rff-1/1"), (b"rff-2", b"other/rff-2/1")]
    moved = renamed(KeyRow(b"current_line", HASH, None, None, fields), SOURCE, TARGET)
    assert moved.fields == [(b"rff-1", b"two-2/rff-1/1"), (b"rff-2", b"other/rff-2/1")]


def test_a_memory_that_is_damaged_stays_as_it_is() -> None:
    fields = [(b"body", b"\xc1"), (b"scope", b"PATTERN:one/rff-1/1|p=BTC-USDT")]
    row = KeyRow(b"semantic:PATTERN:p-1:7:one/rff-1/1", HASH, None, None, fields)
    moved = renamed(row, SOURCE, TARGET)
    assert moved.fields == [(b"body", b"\xc1"), (b"scope", b"PATTERN:two-2/rff-1/1|p=BTC-USDT")]


def test_windows_of_a_line_keep_their_members() -> None:
    row = KeyRow(b"semantic_windows:PATTERN:one/rff-1/1", ZSET, None, None, [(b"2021-06-17", b"1.0")])
    moved = renamed(row, SOURCE, TARGET)
    assert (moved.key, moved.fields) == (b"semantic_windows:PATTERN:two-2/rff-1/1", row.fields)
