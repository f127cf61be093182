"""The steps of a window: what is done already is not done again, and what is lost is mended, sealed or left out."""

from __future__ import annotations

import dataclasses
import datetime as dt
import errno
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

import memory
from memory.errors import ArchiveUnavailableError, LineError, SealedWindowError
from memory.learning.clustering import MarketStateClusterer
from memory.store.encoders import unpack_encoder
from tasks import consolidation, fold_plan, folding
from tasks.fold_plan import plan_fold
from tasks.groups import FOLDS, KNOWLEDGE
from tasks.lateness import find_outdated
from tasks.workspace import open_workspace


def forbid(monkeypatch: pytest.MonkeyPatch, owner: Any, *names: str) -> None:
    """Whoever calls one of these fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError(f"one of {names} was called")

    for name in names:
        monkeypatch.setattr(owner, name, refuse)


def generation(days: Any, number: int) -> str:
    return str(days.ledger.windows.current_generation(days.line, days.window(number)).generation.manifest_digest)


def status(days: Any, number: int) -> Any:
    (found,) = days.ledger.windows.list(days.line, days.window(number), days.window(number))
    return found


def test_what_is_summarised_already_is_not_computed_again(days: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    days.record(0)
    days.consolidate(0)
    before = generation(days, 0)
    forbid(monkeypatch, MarketStateClusterer, "fit")
    forbid(
        monkeypatch,
        consolidation,
        "summarise_transitions",
        "summarise_regimes_of",
        "summarise_strategies",
        "pack_window",
        "summarise_quality",
    )
    days.consolidate(0)
    assert generation(days, 0) == before


def test_a_setting_of_transitions_alone_makes_another_generation(days: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    days.record(0)
    days.consolidate(0)
    learning = days.context.settings()
    other = dataclasses.replace(learning, transitions=dataclasses.replace(learning.transitions, alpha=1.0))
    changed = type(days)(
        days.workspace, dataclasses.replace(days.context, learning=other.to_text(), window="2021-06-20")
    )
    assert find_outdated.fn(days.context).again == ()
    assert find_outdated.fn(changed.context).again == (days.window(0),)
    forbid(monkeypatch, MarketStateClusterer, "fit")  # the clusters are those of the settings before
    changed.consolidate(0)
    assert find_outdated.fn(changed.context).again == ()


def test_an_archive_that_was_lost_is_written_again_where_redis_holds_the_window(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    before, files = generation(days, 0), days.archived_files(0)
    days.lose_archive(0)
    days.consolidate(0)
    assert days.archived_files(0) == files
    assert (generation(days, 0), status(days, 0).sealed_since) == (before, None)


def test_a_damaged_archive_is_mended_with_late_records_beside_it(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    for file in days.archived_files(0):
        file.write_bytes(b"damaged")
    days.record(0, agent="latecomer", count=20)
    (found,) = days.consolidate(0)
    assert found.experiences == 325
    assert status(days, 0).sealed_since is None


def test_a_window_is_sealed_where_neither_redis_nor_its_archive_is_whole(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    before = generation(days, 0)
    days.lose_archive(0)
    days.forget(0)
    days.record(0, count=100)
    with pytest.raises(SealedWindowError, match="summaries stand"):
        days.consolidate(0)
    assert generation(days, 0) == before
    assert status(days, 0).sealed_since is not None


def test_a_storage_that_does_not_answer_seals_nothing(days: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    days.record(0)
    days.consolidate(0)
    days.forget(0)

    def away(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "the storage does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "open", away)
        with pytest.raises(ArchiveUnavailableError, match="does not answer"):
            days.consolidate(0)
    assert status(days, 0).sealed_since is None
    days.consolidate(0)


def test_a_sealed_window_is_folded_without_being_scored_and_remembered_by_nobody(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.record(0, 1, 2)
    days.consolidate(0, 1, 2)
    days.fold()
    days.forget(1)
    days.lose_archive(1)
    # The archive is read by no fold as long as nothing is stale; folding again finds that it is gone.
    scored: list[Any] = []
    score = fold_plan.score_window

    def counting(predictions: Any, today: Any, remembered: Any, window: Any, **options: Any) -> Any:
        scored.append((window.name, 0 if remembered is None else len(remembered)))
        return score(predictions, today, remembered, window, **options)

    monkeypatch.setattr(fold_plan, "score_window", counting)
    days.ledger.truncate_from(days.context.fencing_token, days.line, days.window(0))
    counts = days.fold()
    assert counts["left_out"] == []
    names = [days.window(number).name for number in (0, 1, 2)]
    assert (names[1], 305) not in scored
    assert scored[-1] == (names[2], 305)  # day 0 alone
    sealed = [point.counts["sealed"] for point in days.ledger.folds.checkpoints(days.line, "patterns")]
    assert sealed == [False, True, False]
    before = days.ledger.digest(days.workspace.namespace).digest
    days.fold(refold=True)
    assert days.ledger.digest(days.workspace.namespace).digest == before


def test_a_sealed_window_of_other_settings_is_left_out_and_named(days: Any) -> None:
    days.record(0, 1)
    days.consolidate(0, 1)
    days.fold()
    days.ledger.windows.seal(days.context.fencing_token, days.line, days.window(0), "lost")
    learning = dataclasses.replace(
        days.context.settings(), patterns=type(days.context.settings().patterns)(cost_bp=9.0)
    )
    other = type(days)(days.workspace, dataclasses.replace(days.context, learning=learning.to_text()))
    outdated = find_outdated.fn(other.context)
    assert (outdated.again, outdated.sealed) == ((days.window(1),), (days.window(0),))
    other.consolidate(1)
    counts = other.fold()
    assert counts["left_out"] == [days.window(0).name]
    folded = [point.window for point in days.ledger.folds.checkpoints(days.line, "patterns")]
    assert folded == [days.window(1)]
    assert plan_fold(days.ledger, days.line, FOLDS[KNOWLEDGE], learning.digest).first is None


def test_late_windows_are_taken_up_oldest_first_within_the_bound_and_none_is_forgotten(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.record(0, 1, 2)
    days.consolidate(0, 1)
    days.record(0, 1, agent="latecomer", count=10)
    days.ledger.windows.seal(days.context.fencing_token, days.line, days.window(1), "lost")
    found = find_outdated.fn(days.context)
    assert (found.again, found.waiting, found.sealed) == ((days.window(0),), (), (days.window(1),))
    days.ledger.windows.unseal(days.context.fencing_token, days.line, days.window(1))
    monkeypatch.setenv("COINSWARM_LATE_WINDOWS", "1")
    with open_workspace(f"{days.workspace.namespace}-other"):
        found = find_outdated.fn(days.context)
    assert (found.again, found.waiting) == ((days.window(0),), (days.window(1),))


def test_accesses_are_kept_with_the_first_generation_whatever_is_known_by_then(days: Any) -> None:
    days.record(0)

    async def read(mem: memory.MemoryConnection) -> None:
        await mem.access.count_access(["not-known-yet", "not-known-yet"], days.window(0).end - dt.timedelta(hours=1))

    days.with_memory(read)
    days.consolidate(0)
    days.with_memory(read)
    days.consolidate(0)
    days.fold()
    kept = days.ledger.access.get(days.line, days.window(0))
    assert kept == {"not-known-yet": 2}


def test_the_encoder_of_a_window_is_kept_in_the_ledger(days: Any) -> None:
    async def register(mem: memory.MemoryConnection) -> None:
        await mem.encoders.register("enc", fitted_until=days.window(0).start, definition={"means": [1.0]})

    days.with_memory(register)
    days.record(0)
    days.consolidate(0)
    kept = days.ledger.lines.encoder(days.workspace.namespace, "enc")
    assert unpack_encoder(kept.payload).definition == {"means": [1.0]}
    assert kept.fitted_until == days.window(0).start


def test_folding_window_by_window_and_all_at_once_is_the_same_and_scores_nothing_twice(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.record(0, 1, 2)
    for number in (0, 1, 2):
        days.consolidate(number)
        days.fold()
    one_by_one = days.ledger.digest(days.workspace.namespace).digest
    # The scorecards stay: what they follow from is the same, and is found by its digest.
    for kind in FOLDS[KNOWLEDGE]:
        days.ledger.folds.truncate_from(days.context.fencing_token, days.line, days.window(0), kind)
    forbid(monkeypatch, fold_plan, "score_window")
    counts = days.fold()
    assert counts["windows_folded"] == 3
    assert days.ledger.digest(days.workspace.namespace).digest == one_by_one


def test_old_names_are_kept_although_the_fold_that_changed_them_was_killed(
    days: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    days.record(0)
    days.consolidate(0)
    days.fold()
    before = {row.item_id for row in days.ledger.projections.patterns(days.line)}
    # Members of the clusters change, and with them the ids.
    days.record(0, product="Q")
    days.consolidate(0)
    with monkeypatch.context() as patch:
        patch.setattr(folding, "_keep_old_names", _killed)
        with pytest.raises(KeyboardInterrupt):
            days.fold()
    assert days.fold()["windows_folded"] == 0
    after = {row.item_id for row in days.ledger.projections.patterns(days.line)}
    renamed = {row.alias_id for row in days.ledger.projections.aliases(days.line) if row.reason == "REFOUNDED"}
    assert before - after
    assert renamed == before - after
    assert days.ledger.refolds.open(days.line) is None


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_line_of_which_nothing_is_in_force_keeps_what_is_known(days: Any) -> None:
    days.record(0)
    days.consolidate(0)
    days.fold()
    days.ledger.windows.seal(days.context.fencing_token, days.line, days.window(0), "lost")
    before = days.ledger.digest(days.workspace.namespace).digest
    patterns = type(days.context.settings().patterns)(cost_bp=9.0)
    learning = dataclasses.replace(days.context.settings(), patterns=patterns)
    with pytest.raises(LineError, match="other settings"):
        plan_fold(days.ledger, days.line, FOLDS[KNOWLEDGE], learning.digest)
    assert days.ledger.digest(days.workspace.namespace).digest == before
