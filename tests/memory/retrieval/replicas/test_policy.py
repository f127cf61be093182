"""What reads over replicas are configured with: what cannot be followed is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

import memory
from memory.errors import InvalidQueryError
from memory.retrieval.replicas import LoadBalancedMemoryRetrieval, ReplicaPolicy

SECONDS: list[Any] = [0, -1, "1", None, True, float("nan"), float("inf"), [1.0]]
COUNTS: list[Any] = [-1, 1.5, "1", True, float("nan"), [1]]
FLAGS: list[Any] = ["no", 0, 1, None]


def test_a_bound_on_the_lag_that_cannot_be_proven_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="max_lag_s"):
        ReplicaPolicy(max_lag_s=0.3, check_interval_s=0.2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("max_lag_s", "check_interval_s", "hang_s") for value in SECONDS),
        *(("connections", value) for value in (*COUNTS, 0, None)),
        *(("max_lag_bytes", value) for value in COUNTS),
        *((name, value) for name in ("fall_back_to_primary", "reads_without_primary") for value in FLAGS),
        *(("choice", value) for value in ("", "random", None, 1)),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        ReplicaPolicy(**{name: value})
    assert caught.value.argument == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("replica_urls", value) for value in (None, 7, "redis://127.0.0.1:1", b"redis://127.0.0.1:1", iter([]))),
        *(
            ("replica_urls", [value])
            for value in (
                *(None, 7, "", "nonsense", "http://127.0.0.1:1", "redis://[::1", "redis://127.0.0.1:99999"),
                *("redis://127.0.0.1:1/1", "unix:///tmp/redis.sock?db=2", b"redis://127.0.0.1:1"),
            )
        ),
        *(("timeout_s", value) for value in (-1, "1", True, float("nan"), float("inf"), [1.0])),
        *(("random_state", value) for value in (-1, 1.5, "1", None, [])),
    ],
)
def test_what_replicas_cannot_be_reached_with_is_refused_before_anything_is_sent(name: str, value: Any) -> None:
    mem = memory.connect(redis_url="redis://user:secret@127.0.0.1:1")
    with pytest.raises(InvalidQueryError) as caught:
        LoadBalancedMemoryRetrieval(mem, **{"replica_urls": [], name: value})
    assert caught.value.argument == name


def test_a_url_that_is_refused_keeps_its_password_to_itself() -> None:
    mem = memory.connect(redis_url="redis://127.0.0.1:1")
    with pytest.raises(InvalidQueryError, match="names database 3") as caught:
        LoadBalancedMemoryRetrieval(mem, ["redis://user:secret@127.0.0.1:1/3"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("read_your_writes", value) for value in FLAGS),
        *(("after", value) for value in ("own", 5, ("history", 5), True)),
    ],
)
def test_reading_after_what_is_no_write_is_refused(name: str, value: Any) -> None:
    balanced = LoadBalancedMemoryRetrieval(memory.connect(redis_url="redis://127.0.0.1:1"), [])
    with pytest.raises(InvalidQueryError) as caught:
        balanced.reading(**{name: value})
    assert caught.value.argument == name
