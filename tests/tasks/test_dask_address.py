"""A Dask scheduler that is not there is told before anything begins."""

from __future__ import annotations

import socket

import pytest

from memory.settings import Settings
from tasks.dask_address import TaskRunnerError, check_scheduler


def settings(address: str | None, runner: str = "dask") -> Settings:
    return Settings.model_validate({"task_runner": runner, "dask_address": address})


@pytest.mark.parametrize("address", ["garbage", "tcp://scheduler", "tcp://:8786", "tcp://host:port", "host:99999"])
def test_an_address_without_host_and_port_is_refused_with_the_form(address: str) -> None:
    with pytest.raises(TaskRunnerError, match=r"names no host and port\. .*tcp://HOST:8786"):
        check_scheduler(settings(address))


@pytest.mark.parametrize("form", ["tcp://127.0.0.1:{}", "127.0.0.1:{}", "tls://127.0.0.1:{}"])
def test_a_scheduler_that_listens_is_taken_and_one_that_does_not_is_named(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        check_scheduler(settings(address))
    with pytest.raises(TaskRunnerError, match=f"no Dask scheduler answers at {address}"):
        check_scheduler(settings(address))


@pytest.mark.parametrize(("address", "runner"), [("garbage", "threads"), (None, "dask")])
def test_nothing_is_asked_where_no_cluster_is_configured(address: str | None, runner: str) -> None:
    check_scheduler(settings(address, runner))
