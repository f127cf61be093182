"""Payloads of any size come back byte for byte, however they are cut on the way."""

from __future__ import annotations

import random
from datetime import date

import pytest
import sqlalchemy as sa

from memory.errors import StoreUnavailableError
from memory.ledger import FencingToken, Ledger, ManifestEntry, SummaryRecord
from memory.ledger import payloads as reading
from memory.ledger.models import StagedSummary
from memory.window import Window

SLICE, WHOLE = 1000, 100


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some thousand bytes are large."""
    monkeypatch.setattr(reading, "SLICE_BYTES", SLICE)
    monkeypatch.setattr(reading, "WHOLE_BYTES", WHOLE)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 2)


def sizes_around_the_bounds() -> list[int]:
    return [0, 1, WHOLE - 1, WHOLE, WHOLE + 1, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE, 3 * SLICE + 7]


def noise(size: int) -> bytes:
    """Bytes that cannot be compressed."""
    return random.Random(size).randbytes(size)


def staged(
    ledger: Ledger, token: FencingToken, line: str, window: Window, payload: bytes, kind: str = "correlations"
) -> SummaryRecord:
    return ledger.staging.stage(
        token,
        line,
        window,
        kind=kind,
        partition_key=f"{len(payload):06}",
        input_digest="i",
        settings_hash="s",
        payload=payload,
    )


def commit(ledger: Ledger, token: FencingToken, line: str, window: Window, summaries: list[SummaryRecord]) -> None:
    entries = [
        ManifestEntry(kind=summary.kind, partition_key=summary.partition_key, digest=summary.digest)
        for summary in summaries
    ]
    ledger.windows.commit_generation(token, line, window, settings_hash="s", entries=entries)


@pytest.mark.parametrize("make", [noise, bytes], ids=["as it is", "compressed"])
def test_summaries_of_any_size_come_back_as_they_were_staged(
    ledger: Ledger, token: FencingToken, line: str, window: Window, make
) -> None:
    summaries = [staged(ledger, token, line, window, make(size)) for size in sizes_around_the_bounds()]
    commit(ledger, token, line, window, summaries)
    current = ledger.windows.current_generation(line, window)
    assert current is not None
    assert list(current.summaries) == summaries
    for summary in summaries:
        found = ledger.staging.find(
            line,
            window,
            kind=summary.kind,
            partition_key=summary.partition_key,
            input_digest="i",
            settings_hash="s",
        )
        assert found == summary


def test_a_fold_s_items_of_any_size_come_back_from_all_its_checkpoints(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    items = {f"k{size}": noise(size) for size in sizes_around_the_bounds()}
    days = [Window.of_date(date(2021, 6, day)) for day in (1, 2)]
    first = ledger.folds.save_checkpoint(token, line, "x", days[0], input_digest="a", base=None, changed=items)
    changed, removed = {"k1000": noise(5000), "k0": noise(2)}, ["k3007", "k1"]
    ledger.folds.save_checkpoint(
        token, line, "x", days[1], input_digest="b", base=first, changed=changed, removed=removed
    )
    assert ledger.folds.load_state(line, "x", before=days[1]).items == items
    after = {name: data for name, data in (items | changed).items() if name not in removed}
    assert ledger.folds.load_state(line, "x").items == after


def test_a_generation_gives_the_kinds_that_are_asked_for_alone(
    ledger: Ledger, token: FencingToken, line: str, window: Window
) -> None:
    large = staged(ledger, token, line, window, noise(5000))
    small = staged(ledger, token, line, window, noise(10), kind="quality")
    commit(ledger, token, line, window, [large, small])
    everything = ledger.windows.current_generation(line, window)
    quality = ledger.windows.current_generation(line, window, kinds=("quality",))
    nothing = ledger.windows.current_generation(line, window, kinds=())
    assert everything is not None
    assert quality is not None
    assert nothing is not None
    assert (everything.summaries, quality.summaries, nothing.summaries) == ((large, small), (small,), ())
    assert everything.generation == quality.generation == nothing.generation


def test_a_row_that_is_dropped_while_it_is_read_is_said_to_be_gone(
    ledger: Ledger, token: FencingToken, line: str, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged(ledger, token, line, window, noise(3000))
    read = reading._in_slices

    def dropped_before(session, *rest):
        session.execute(sa.delete(StagedSummary).where(StagedSummary.line == line))
        return read(session, *rest)

    monkeypatch.setattr(reading, "_in_slices", dropped_before)
    with pytest.raises(StoreUnavailableError, match="a row of summaries was dropped while its 3000 bytes were read"):
        ledger.staging.find(
            line, window, kind="correlations", partition_key="003000", input_digest="i", settings_hash="s"
        )
