"""The first window to fold again: where what was folded does not follow from the generations that are current now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memory.learning import ALGORITHM_VERSION
from memory.ledger import ManifestEntry
from memory.window import Window
from tasks.fold_plan import plan_fold

from .conftest import ENCODER, Days

FOLD, OTHER_FOLD, SETTINGS = "patterns", "strategies", "s"


@pytest.fixture
def committed(days: Days) -> Callable[[int, bytes], str]:
    """Commits a generation of the n-th day with some content, and gives its manifest digest."""
    ledger, token = days.ledger, days.context.fencing_token
    line = ledger.lines.ensure(token, ENCODER, ALGORITHM_VERSION)

    def commit(number: int, payload: bytes) -> str:
        where: dict[str, Any] = {"kind": FOLD, "partition_key": "k"}
        staged = ledger.staging.stage(
            token,
            line,
            days.window(number),
            **where,
            input_digest=payload.hex(),
            settings_hash=SETTINGS,
            payload=payload,
        )
        entries = [ManifestEntry(**where, digest=staged.digest)]
        generation = ledger.windows.commit_generation(
            token, line, days.window(number), settings_hash=SETTINGS, entries=entries
        )
        return generation.manifest_digest

    return commit


def fold(days: Days, digests: dict[int, str]) -> None:
    base = None
    for number, digest in sorted(digests.items()):
        base = days.ledger.folds.save_checkpoint(
            days.context.fencing_token,
            days.line,
            FOLD,
            days.window(number),
            input_digest=digest,
            base=base,
            changed={f"k{number}": b"v"},
        )


def first(days: Days, *kinds: str) -> Window | None:
    return plan_fold(days.ledger, days.line, kinds or (FOLD,), SETTINGS).first


def test_nothing_is_stale_where_all_generations_are_folded(days: Days, committed: Callable[[int, bytes], str]) -> None:
    fold(days, {number: committed(number, b"1") for number in range(3)})
    assert first(days) is None


def test_a_window_never_folded_is_stale(days: Days, committed: Callable[[int, bytes], str]) -> None:
    fold(days, {number: committed(number, b"1") for number in (0, 2)})
    committed(3, b"1")
    assert first(days) == days.window(3)
    committed(1, b"1")
    assert first(days) == days.window(1)


def test_a_window_with_another_generation_is_stale_until_it_is_the_former_again(
    days: Days, committed: Callable[[int, bytes], str]
) -> None:
    fold(days, {number: committed(number, b"1") for number in range(3)})
    committed(1, b"2")
    assert first(days) == days.window(1)
    committed(1, b"1")
    assert first(days) is None


def test_the_fold_that_lags_most_decides(days: Days, committed: Callable[[int, bytes], str]) -> None:
    fold(days, {0: committed(0, b"1")})
    assert first(days, FOLD, OTHER_FOLD) == days.window(0)
