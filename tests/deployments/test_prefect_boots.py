"""Prefect as it is pinned: its server boots, knows the flows that ran, and its cron schedules compute."""

from __future__ import annotations

import datetime as dt
import urllib.request

import pytest


def test_a_server_boots_and_says_that_it_is_well(prefect_server: str) -> None:
    with urllib.request.urlopen(f"{prefect_server}/health", timeout=30) as response:
        assert response.status == 200
        assert response.read() == b"true"


@pytest.mark.usefixtures("prefect_server")
def test_the_names_of_flows_that_ran_can_be_read_from_the_server() -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow(name="boots")
    def boots() -> int:
        return 1

    assert boots() == 1
    with get_client(sync_client=True) as client:
        assert "boots" in {found.name for found in client.read_flows()}


async def test_cron_dates_compute() -> None:
    # Some combinations of Prefect's own dependencies break this, and say so in the server's log only.
    from prefect.server.schemas.schedules import CronSchedule

    first, second = await CronSchedule(cron="0 2 * * *", timezone="UTC").get_dates(2)
    assert (first.hour, first.minute, first.utcoffset()) == (2, 0, dt.timedelta(0))
    assert second - first == dt.timedelta(days=1)
    assert first > dt.datetime.now(dt.UTC)
