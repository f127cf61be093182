"""Knowledge lines and encoders."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memory.errors import ConflictingRecordError, FencedOutError, InvalidRecordError, LineError
from memory.ledger import FencingToken, Ledger, line_id

JULY = datetime(2021, 7, 1, tzinfo=UTC)


def test_the_first_line_is_current_at_once(ledger: Ledger, token: FencingToken, line: str) -> None:
    assert line == f"{token.namespace}/encoder-1/1" == line_id(token.namespace, "encoder-1", "1")
    current = ledger.lines.current(token.namespace)
    assert current is not None
    assert (current.line, current.current_from) == (line, None)


def test_ensuring_a_line_again_changes_nothing(ledger: Ledger, token: FencingToken, line: str) -> None:
    assert ledger.lines.ensure(token, "encoder-1", "1") == line
    assert [row.line for row in ledger.lines.list(token.namespace)] == [line]


def test_a_later_line_waits_until_it_is_activated(ledger: Ledger, token: FencingToken, line: str) -> None:
    ledger.lines.ensure(token, "encoder-2", "1")
    current = ledger.lines.current(token.namespace)
    assert current is not None
    assert current.line == line


def test_the_old_line_stays_current_as_of_then(ledger: Ledger, token: FencingToken, line: str) -> None:
    new = ledger.lines.ensure(token, "encoder-2", "1")
    ledger.lines.activate(token, new, current_from=JULY)
    ledger.lines.activate(token, new, current_from=datetime(2022, 1, 1, tzinfo=UTC))
    now = ledger.lines.current(token.namespace)
    before = ledger.lines.current(token.namespace, as_of=datetime(2021, 6, 30, tzinfo=UTC))
    after = ledger.lines.current(token.namespace, as_of=JULY)
    assert now is not None
    assert before is not None
    assert after is not None
    assert (now.line, before.line, after.line) == (new, line, new)
    assert now.current_from == JULY


def test_activating_an_unknown_line_is_refused(ledger: Ledger, token: FencingToken) -> None:
    with pytest.raises(LineError, match=r"lines\.ensure"):
        ledger.lines.activate(token, f"{token.namespace}/nobody/1", current_from=JULY)


def test_no_line_is_current_before_the_first(ledger: Ledger, namespace: str) -> None:
    assert ledger.lines.current(namespace) is None


def test_ids_that_keys_cannot_hold_are_refused(ledger: Ledger, token: FencingToken) -> None:
    with pytest.raises(InvalidRecordError, match="encoder_id"):
        ledger.lines.ensure(token, "a/b", "1")


def test_an_encoder_comes_back_as_it_was_kept(ledger: Ledger, token: FencingToken) -> None:
    for _ in range(2):
        ledger.lines.save_encoder(token, "e-1", b"\x00\xff", dimension=256, fitted_until=JULY, parameters={"k": 1})
    kept = ledger.lines.encoder(token.namespace, "e-1")
    assert kept is not None
    assert (kept.payload, kept.fitted_until, kept.dimension, kept.parameters) == (b"\x00\xff", JULY, 256, {"k": 1})
    assert ledger.lines.encoder(token.namespace, "e-2") is None
    assert ledger.lines.encoders(token.namespace) == [kept]


def test_a_timestamp_without_a_time_zone_is_refused(ledger: Ledger, token: FencingToken) -> None:
    with pytest.raises(InvalidRecordError, match="no time zone"):
        ledger.lines.save_encoder(token, "e-1", b"", dimension=256, fitted_until=datetime(2021, 7, 1))


@pytest.mark.parametrize(
    ("payload", "dimension", "fitted_until"), [(b"two", 256, None), (b"one", 128, None), (b"one", 256, JULY)]
)
def test_another_encoder_under_a_kept_id_is_refused(
    ledger: Ledger, token: FencingToken, payload: bytes, dimension: int, fitted_until: datetime | None
) -> None:
    ledger.lines.save_encoder(token, "e-1", b"one", dimension=256, fitted_until=None)
    with pytest.raises(ConflictingRecordError, match="an id of its own"):
        ledger.lines.save_encoder(token, "e-1", payload, dimension=dimension, fitted_until=fitted_until)


def test_a_run_that_was_overtaken_keeps_no_encoder(ledger: Ledger, token: FencingToken) -> None:
    ledger.fence.release(token)
    with pytest.raises(FencedOutError):
        ledger.lines.save_encoder(token, "e-1", b"one", dimension=256, fitted_until=None)
    assert ledger.lines.encoders(token.namespace) == []


# --- succession -----------------------------------------------------------------------------------------------


def test_lines_succeed_each_other_in_the_order_of_their_activation(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    new = ledger.lines.ensure(token, "a-newer-encoder", "1")
    assert ledger.lines.succession(token.namespace) == [(line, None)]
    ledger.lines.activate(token, new, current_from=JULY)
    assert ledger.lines.succession(token.namespace) == [(line, None), (new, JULY)]


def test_a_line_is_built_before_it_lives(ledger: Ledger, token: FencingToken, line: str) -> None:
    new = ledger.lines.ensure(token, "encoder-1", "2")

    def states() -> dict[str, str]:
        return {record.line: record.state for record in ledger.lines.list(token.namespace)}

    assert states() == {line: "LIVE", new: "BUILDING"}
    ledger.lines.activate(token, new, current_from=JULY)
    ledger.lines.set_state(token, line, "RETIRED")
    assert states() == {line: "RETIRED", new: "LIVE"}


def test_the_first_line_of_another_encoder_is_read_at_once_and_succeeds_nobody(
    ledger: Ledger, token: FencingToken, line: str
) -> None:
    """Two markets side by side, each with an encoder of its own."""
    other = ledger.lines.ensure(token, "encoder-2", "1")
    assert [(record.line, record.state) for record in ledger.lines.list(token.namespace)] == [
        (line, "LIVE"),
        (other, "LIVE"),
    ]
    assert ledger.lines.succession(token.namespace) == [(line, None)]


def test_the_current_line_cannot_be_retired(ledger: Ledger, token: FencingToken, line: str) -> None:
    with pytest.raises(LineError, match="is the current one and cannot become RETIRED"):
        ledger.lines.set_state(token, line, "RETIRED")


def test_a_line_that_was_replaced_does_not_come_back(ledger: Ledger, token: FencingToken, line: str) -> None:
    """What it answered as of then would change."""
    ledger.lines.activate(token, ledger.lines.ensure(token, "encoder-2", "1"), current_from=JULY)
    with pytest.raises(LineError, match="was current before"):
        ledger.lines.activate(token, line, current_from=datetime(2022, 1, 1, tzinfo=UTC))


def test_a_line_cannot_be_current_before_its_predecessor(ledger: Ledger, token: FencingToken, line: str) -> None:
    second, third = (ledger.lines.ensure(token, name, "1") for name in ("encoder-2", "encoder-3"))
    ledger.lines.activate(token, second, current_from=JULY)
    with pytest.raises(LineError, match=r"cannot be current from 2021-06-30.*is since 2021-07-01"):
        ledger.lines.activate(token, third, current_from=datetime(2021, 6, 30, tzinfo=UTC))
