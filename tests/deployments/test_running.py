"""A run whose end Prefect's server cannot note still says why it ended."""

from __future__ import annotations

from typing import Any, NoReturn

import httpx
import pytest

from deployments.local import PrefectUnavailableError
from deployments.running import outcome
from flows.parameters import NamespaceParameters
from memory.errors import ArchiveError

REFUSED = "500 Internal Server Error for url 'http://127.0.0.1:4200/api/flow_runs/1/set_state'\nmore about it"
PARAMETERS = NamespaceParameters()


def refuse() -> NoReturn:
    raise httpx.HTTPStatusError(
        REFUSED, request=httpx.Request("POST", "http://127.0.0.1"), response=httpx.Response(500)
    )


def test_why_the_run_failed_is_told_where_the_server_could_not_note_it() -> None:
    reason = ArchiveError("the archive cannot be written: its disk is full.", remedy="Make room.")

    def fail(_: Any) -> NoReturn:
        try:
            raise reason
        except ArchiveError:
            refuse()

    with pytest.raises(ArchiveError) as told:
        outcome(fail, PARAMETERS)
    assert told.value is reason


def test_a_server_that_refuses_a_run_that_went_well_is_named_in_one_line() -> None:
    with pytest.raises(PrefectUnavailableError, match="could not note what the run did") as told:
        outcome(lambda _: refuse(), PARAMETERS)
    assert "\n" not in str(told.value)


def test_what_a_run_returns_is_handed_on() -> None:
    assert outcome(lambda parameters: {"given": parameters}, PARAMETERS) == {"given": PARAMETERS}
