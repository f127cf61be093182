"""What the ledger keeps of a run that came to nothing."""

from __future__ import annotations

import signal

import pytest
from prefect.exceptions import TerminationSignal
from pydantic import BaseModel

from memory.ledger import Ledger
from tasks.runs import ledger_run, why_it_ended


class Nothing(BaseModel):
    """Parameters of a flow that takes none."""


def test_a_run_that_is_told_to_end_is_noted_with_what_it_was_doing_and_how_to_go_on(
    ledger: Ledger, configured: str
) -> None:
    def told_to_end() -> None:
        with ledger_run("nightly", Nothing(), configured) as run, run.steps.step("consolidate"):
            with run.steps.step("cluster"):
                pass
            raise TerminationSignal(signal=signal.SIGTERM)

    with pytest.raises(TerminationSignal):
        told_to_end()
    noted = ledger.runs.last(configured, "nightly")
    assert noted is not None
    assert noted.status == "FAILED"
    assert noted.error == (
        "TerminationSignal: its process was told to end (SIGTERM) during 'consolidate'. "
        "Retry in the Prefect UI, or the same command, takes it up where it stopped."
    )


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (TerminationSignal(signal=signal.SIGINT), "TerminationSignal: its process was told to end (SIGINT). Retry"),
        (KeyboardInterrupt(), "KeyboardInterrupt: its process was told to end (SIGINT). Retry"),
        (ValueError("3 is no day"), "ValueError: 3 is no day"),
        (SystemExit(3), "SystemExit: 3"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_why_a_run_ended_is_never_empty(error: BaseException, noted: str) -> None:
    assert why_it_ended(error).startswith(noted)
    assert not why_it_ended(error).endswith(": ")
