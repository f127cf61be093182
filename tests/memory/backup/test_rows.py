"""Rows of Redis as Parquet: what is read is what was written, and a digest that any order gives."""

from __future__ import annotations

import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from memory.backup.rows import ENTRY, HASH, LIST, SET, STRING, ZSET, KeyRow, RowWriter, read_rows, summed
from memory.backup.seen import Seen

texts = st.binary(max_size=40)
rows = st.builds(
    KeyRow,
    key=st.binary(min_size=1, max_size=30),
    kind=st.sampled_from([STRING, HASH, SET, ZSET, LIST, ENTRY]),
    expires_ms=st.none() | st.integers(0, 2**60),
    value=st.none() | texts,
    fields=st.lists(st.tuples(texts, texts), max_size=5),
)


def written(items: list[KeyRow], *, group: int = 3) -> io.BytesIO:
    sink = io.BytesIO()
    writer = RowWriter(sink, row_group_rows=group)
    writer.write(items)
    writer.close()
    assert writer.rows == len(items)
    assert writer.digest == summed(item.digest for item in items)
    return io.BytesIO(sink.getvalue())


@given(st.lists(rows, max_size=12))
@settings(max_examples=40, deadline=None)
def test_what_is_read_is_what_was_written_some_rows_at_a_time(items: list[KeyRow]) -> None:
    batches = list(read_rows(written(items)))
    assert all(len(batch) <= 3 for batch in batches)
    assert [row for batch in batches for row in batch] == items


@given(st.lists(rows, min_size=2, max_size=8, unique_by=lambda row: row.digest), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_digest_hangs_on_no_order_and_on_every_row(items: list[KeyRow], draw: random.Random) -> None:
    whole = summed(row.digest for row in items)
    shuffled = list(items)
    draw.shuffle(shuffled)
    assert summed(row.digest for row in shuffled) == whole
    assert summed(row.digest for row in items[1:]) != whole
    assert summed(row.digest for row in [*items, items[0]]) != whole


def test_fields_of_a_hash_count_in_any_order_and_items_of_a_list_in_theirs() -> None:
    pairs = [(b"a", b"1"), (b"b", b"2")]
    assert KeyRow(b"k", HASH, None, None, pairs).digest == KeyRow(b"k", HASH, None, None, pairs[::-1]).digest
    assert KeyRow(b"k", LIST, None, None, pairs).digest != KeyRow(b"k", LIST, None, None, pairs[::-1]).digest


def test_a_large_row_ends_its_group() -> None:
    items = [KeyRow(b"%d" % number, STRING, None, bytes(600)) for number in range(4)]
    sink = io.BytesIO()
    writer = RowWriter(sink, row_group_bytes=1000)
    writer.write(items)
    writer.close()
    assert [len(batch) for batch in read_rows(io.BytesIO(sink.getvalue()))] == [2, 2]


@given(st.lists(st.lists(st.binary(max_size=4), max_size=60), max_size=10))
@settings(max_examples=40, deadline=None)
def test_names_are_new_once(batches: list[list[bytes]]) -> None:
    seen, known = Seen(), set[bytes]()
    for batch in batches:
        expected = [name for name in dict.fromkeys(batch) if name not in known]
        assert seen.add(batch) == expected
        known.update(batch)
    assert len(seen) == len(known)


def test_names_are_known_again_after_many() -> None:
    seen = Seen()
    names = [b"%d" % number for number in range(20_000)]
    for start in range(0, len(names), 500):
        assert len(seen.add(names[start : start + 500])) == 500
    assert seen.add(names) == []
    assert len(seen) == len(names)
