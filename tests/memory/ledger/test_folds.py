"""Fold checkpoints: chains of changes give back exactly the state that was saved."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import ConflictingRecordError, FencedOutError
from memory.ledger import Checkpoint, FencingToken, Ledger
from memory.ledger.folds import FULL_CHECKPOINT_EVERY
from memory.window import Window

KIND = "patterns"


def day(index: int) -> Window:
    return Window.of_date(date(2021, 6, 1) + timedelta(days=index))


def save(
    ledger: Ledger,
    token: FencingToken,
    line: str,
    index: int,
    base: Checkpoint | None,
    changed: dict[str, bytes],
    removed: tuple[str, ...] = (),
    input_digest: str = "g",
) -> Checkpoint:
    return ledger.folds.save_checkpoint(
        token, line, KIND, day(index), input_digest=input_digest, base=base, changed=changed, removed=removed
    )


keys = st.sampled_from(["a", "B", "é", "p-1", "p-2", "z z"])
changes = st.tuples(st.dictionaries(keys, st.binary(max_size=4), max_size=4), st.sets(keys, max_size=3))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(changes, min_size=1, max_size=8), resume=st.booleans(), full_every=st.integers(1, 4))
def test_every_window_gives_back_the_state_of_a_plain_dict(
    ledger: Ledger, token: FencingToken, line: str, steps: list, resume: bool, full_every: int
) -> None:
    ledger.folds.truncate_from(token, line, day(0))
    model: dict[str, bytes] = {}
    states: list[dict[str, bytes]] = []
    base: Checkpoint | None = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memory.ledger.folds.FULL_CHECKPOINT_EVERY", full_every)
        for index, (changed, removed) in enumerate(steps):
            removed = removed - changed.keys()
            model = {key: value for key, value in (model | changed).items() if key not in removed}
            states.append(model)
            if resume:
                base = ledger.folds.load_state(line, KIND).checkpoint
            base = save(ledger, token, line, index, base, changed, tuple(removed))
            assert base.items == len(model)
    for index, state in enumerate(states):
        assert ledger.folds.load_state(line, KIND, before=day(index + 1)).items == state
    assert ledger.folds.load_state(line, KIND).items == model


def test_there_is_an_empty_state_before_the_first_window(ledger: Ledger, token: FencingToken, line: str) -> None:
    save(ledger, token, line, 3, None, {"a": b"1"})
    empty = ledger.folds.load_state(line, KIND, before=day(3))
    assert (empty.checkpoint, empty.items) == (None, {})


def test_one_checkpoint_in_thirty_is_full_and_the_others_hold_changes_only(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    base: Checkpoint | None = None
    for index in range(2 * FULL_CHECKPOINT_EVERY + 1):
        base = save(ledger, token, line, index, base, {f"k{index}": b"v"})
    saved = ledger.folds.checkpoints(line, KIND)
    assert [index for index, checkpoint in enumerate(saved) if checkpoint.full] == [0, 30, 60]
    assert len(ledger.folds.load_state(line, KIND, before=day(46)).items) == 46
    assert len(ledger.folds.load_state(line, KIND).items) == 61


def test_saving_the_same_again_keeps_the_later_checkpoints(ledger: Ledger, token: FencingToken, line: str) -> None:
    first = save(ledger, token, line, 0, None, {"a": b"1"})
    second = save(ledger, token, line, 1, first, {"a": b"2"})
    assert save(ledger, token, line, 0, None, {"a": b"1"}) == first
    assert ledger.folds.load_state(line, KIND).checkpoint == second


def test_saving_another_state_drops_the_later_checkpoints(ledger: Ledger, token: FencingToken, line: str) -> None:
    first = save(ledger, token, line, 0, None, {"a": b"1"})
    save(ledger, token, line, 1, first, {"a": b"2"})
    save(ledger, token, line, 0, None, {"a": b"other"})
    assert ledger.folds.load_state(line, KIND).items == {"a": b"other"}


def test_the_state_digest_depends_on_the_state_and_not_on_the_way_there(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    base = save(ledger, token, line, 0, None, {"a": b"1", "b": b"2"})
    around = save(ledger, token, line, 1, base, {"c": b"3"}, ("b",))
    direct = ledger.folds.save_checkpoint(
        token, line, "other", day(1), input_digest="g", base=None, changed={"c": b"3", "a": b"1"}
    )
    assert around.state_digest == direct.state_digest != base.state_digest


def test_a_fold_that_started_from_another_checkpoint_is_refused(ledger: Ledger, token: FencingToken, line: str) -> None:
    first = save(ledger, token, line, 0, None, {"a": b"1"})
    save(ledger, token, line, 1, first, {"a": b"2"})
    with pytest.raises(ConflictingRecordError, match=r"started from a checkpoint of 2021-06-01.*load_state"):
        save(ledger, token, line, 2, first, {"a": b"3"})
    with pytest.raises(ConflictingRecordError, match="started from the empty state"):
        save(ledger, token, line, 2, None, {"a": b"3"})


def test_an_item_both_changed_and_removed_is_refused(ledger: Ledger, token: FencingToken, line: str) -> None:
    with pytest.raises(ConflictingRecordError, match="both changed and removed"):
        save(ledger, token, line, 0, None, {"a": b"1"}, ("a",))


def test_folds_of_different_kinds_do_not_touch_each_other(ledger: Ledger, token: FencingToken, line: str) -> None:
    save(ledger, token, line, 0, None, {"a": b"1"})
    ledger.folds.save_checkpoint(
        token, line, "transitions", day(0), input_digest="g", base=None, changed={"t": b"2"}, counts={"new": 3}
    )
    assert ledger.folds.load_state(line, KIND).items == {"a": b"1"}
    assert [checkpoint.counts for checkpoint in ledger.folds.checkpoints(line, "transitions")] == [{"new": 3}]
    assert ledger.folds.truncate_from(token, line, day(0), "transitions") == 1
    assert ledger.folds.load_state(line, KIND).items == {"a": b"1"}


def test_an_overtaken_run_cannot_save(ledger: Ledger, namespace: str) -> None:
    token = ledger.fence.acquire(namespace, "run-1", flow="nightly", lease_s=0.1)
    line = ledger.lines.ensure(token, "encoder-1", "1")
    ledger.fence.acquire(namespace, "run-2", flow="nightly", lease_s=60, wait_s=10)
    with pytest.raises(FencedOutError):
        save(ledger, token, line, 0, None, {"a": b"1"})
    assert ledger.folds.checkpoints(line, KIND) == []


# --- stamps ---------------------------------------------------------------------------------------------------


def test_another_stamp_for_the_same_state_drops_nothing(ledger: Ledger, token: FencingToken, line: str) -> None:
    first = save(ledger, token, line, 0, None, {"a": b"1"})
    save(ledger, token, line, 1, first, {"a": b"2"})
    assert first.stamp is None
    stamped = ledger.folds.save_checkpoint(
        token, line, KIND, day(0), input_digest="g", base=None, changed={"a": b"1"}, stamp="digest:5"
    )
    assert stamped == dataclasses.replace(first, stamp="digest:5")
    assert [checkpoint.stamp for checkpoint in ledger.folds.checkpoints(line, KIND)] == ["digest:5", None]
