"""A Dask cluster on this machine, one for a whole run: flows that a flow calls share that of their caller."""

from __future__ import annotations

from typing import Any

from prefect.context import FlowRunContext
from prefect_dask.client import PrefectDaskClient
from prefect_dask.task_runners import DaskTaskRunner


class LocalDaskRunner(DaskTaskRunner):
    """Worker processes of this machine, started when the first task is handed over and stopped with the flow.

    Made within another flow that has such a runner, it hands its tasks to that one's workers, which end with that
    flow: a start takes some seconds, and a nightly job has several flows.

    Parameters
    ----------
    cluster_kwargs
        Arguments of `distributed.LocalCluster`.
    """

    def __init__(self, cluster_kwargs: dict[str, Any]) -> None:
        super().__init__(cluster_kwargs=cluster_kwargs)
        around = FlowRunContext.get()
        runner = None if around is None else around.task_runner
        self._caller = runner if isinstance(runner, LocalDaskRunner) else None

    @property
    def client(self) -> PrefectDaskClient:
        """The link to the cluster, which is started if nobody has."""
        if self._cluster is None and self._caller is not None:
            self._cluster = self._caller.client.cluster
        return super().client

    def duplicate(self) -> LocalDaskRunner:
        """A runner with the same settings."""
        return LocalDaskRunner(self.cluster_kwargs)
