from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memory.errors import InvalidRecordError
from memory.learning.serial import decode, digest, encode


class Sample(msgspec.Struct, frozen=True, eq=False):
    name: str
    table: npt.NDArray[np.float64]
    counts: dict[str, int] = {}


class Whole(msgspec.Struct, frozen=True, eq=False):
    value: npt.NDArray[np.int64]


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_arrays_come_back_with_their_shape_and_bits(table: np.ndarray) -> None:
    back = decode(encode(Sample("a", table)), Sample)
    assert back.table.shape == table.shape
    np.testing.assert_array_equal(back.table, table)


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**60), 2**60), max_size=6))
def test_equal_mappings_give_equal_bytes_whatever_their_order(counts: dict[str, int]) -> None:
    table = np.zeros(2)
    backwards = dict(reversed(counts.items()))
    assert encode(Sample("a", table, counts)) == encode(Sample("a", table, backwards))


def test_every_nan_is_written_as_the_same_bytes() -> None:
    odd = np.array([0x7FF8000000000001], dtype=np.uint64).view(np.float64)
    assert encode(Sample("a", odd)) == encode(Sample("a", np.array([np.nan])))


def test_layout_in_memory_does_not_matter() -> None:
    table = np.arange(12.0).reshape(3, 4)
    assert encode(Sample("a", np.asfortranarray(table))) == encode(Sample("a", table))
    assert encode(Sample("a", table.astype(">f8"))) == encode(Sample("a", table))


def test_an_array_without_dimensions_comes_back_as_one() -> None:
    assert decode(encode(Whole(np.array(5))), Whole).value.shape == ()


def test_decoded_arrays_cannot_be_changed() -> None:
    back = decode(encode(Sample("a", np.zeros(3))), Sample)
    with pytest.raises(ValueError, match="read-only"):
        back.table[0] = 1.0


def test_an_array_of_another_dtype_than_declared_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="float64 is declared"):
        decode(encode(Sample("a", np.zeros(3, dtype=np.float32))), Sample)


@pytest.mark.parametrize("content", [np.array([object()]), np.array(["text"]), object()])
def test_what_is_no_number_is_refused(content: object) -> None:
    with pytest.raises(InvalidRecordError, match="cannot be written"):
        encode(content)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\xff" + data, lambda data: b""])
def test_damaged_bytes_are_refused_with_a_remedy(damage) -> None:
    with pytest.raises(InvalidRecordError, match="Compute the summary again"):
        decode(damage(encode(Sample("a", np.zeros(3)))), Sample)


def test_an_array_shorter_than_its_shape_is_refused() -> None:
    data = msgspec.msgpack.encode({"name": "a", "table": ["<f8", [4], b"12345678"], "counts": {}})
    with pytest.raises(InvalidRecordError):
        decode(data, Sample)


def test_digest_is_sha256() -> None:
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
