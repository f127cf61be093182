"""Values of metrics, made of what was seen of one namespace; none where that could not be asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from deployments.looking import Sight
from deployments.reaching import READY, UNUSED
from tasks.observing import FlowState, LedgerFacts, MemoryFacts

Samples = Iterable[tuple[tuple[str, ...], float]]
"""Values, each after the values of its labels."""

_LATENCY = re.compile(r"(?P<query>.+): p(?P<percentile>\d+)")
"""Name of a latency among a benchmark's figures, which are in milliseconds."""


# --- how values are made ---------------------------------------------------------------------------------------


def of_memory(read: Callable[[MemoryFacts], Samples]) -> Callable[[Sight], Samples]:
    """Values of what Redis holds."""
    return lambda sight: () if sight.observation.memory is None else read(sight.observation.memory)


def of_ledger(read: Callable[[LedgerFacts], Samples]) -> Callable[[Sight], Samples]:
    """Values of what the ledger holds."""
    return lambda sight: () if sight.observation.ledger is None else read(sight.observation.ledger)


def of_flows(read: Callable[[FlowState], float | datetime | None]) -> Callable[[Sight], Samples]:
    """One value for each flow that ever ran (of a time, seconds since 1970), by flow; none where there is None."""

    def samples(ledger: LedgerFacts) -> Samples:
        read_of = {name: read(flow) for name, flow in ledger.flows.items()}
        return each(
            {
                name: value.timestamp() if isinstance(value, datetime) else value
                for name, value in read_of.items()
                if value is not None
            }
        )

    return of_ledger(samples)


def of_indexes(read: Callable[[MemoryFacts], Mapping[str, float]]) -> Callable[[Sight], Samples]:
    """One value for each index, by its name."""
    return of_memory(lambda memory: each(read(memory)))


def one(value: float | None) -> Samples:
    """A value without labels, where there is one."""
    return () if value is None else [((), float(value))]


def each(values: Mapping[str, float]) -> Samples:
    """Values by the value of their only label."""
    return [((str(name),), float(value)) for name, value in values.items()]


# --- servers, and Prefect --------------------------------------------------------------------------------------


def up(sight: Sight) -> Samples:
    """Whether each server answers, of those that are used."""
    return [((server.name,), float(server.state == READY)) for server in sight.servers if server.state != UNUSED]


def tokens(sight: Sight) -> Samples:
    """The highest fencing tokens, by where they are noted."""
    memory, ledger = sight.observation.memory, sight.observation.ledger
    found = {} if memory is None else {"redis": memory.fencing_token}
    return each(found | ({} if ledger is None else {"ledger": ledger.fencing_token}))


def workers(sight: Sight) -> Samples:
    """Workers online; where nothing is deployed, as in a home whose flows are run by hand, none is missing."""
    state = sight.prefect.state
    return one(None if state is None or not state.deployments else len(state.workers))


def late_runs(sight: Sight) -> Samples:
    """Runs that are due and have not begun."""
    return one(None if sight.prefect.state is None else sight.prefect.state.late_runs)


def paused(sight: Sight) -> Samples:
    """Whether each deployment with a schedule is paused."""
    deployments = () if sight.prefect.state is None else sight.prefect.state.deployments
    return [((deployment.name,), float(deployment.paused)) for deployment in deployments if deployment.scheduled]


def next_runs(sight: Sight) -> Samples:
    """When the next run of each flow is due."""
    due = {} if sight.prefect.state is None else sight.prefect.state.next_runs()
    return each({flow: time.timestamp() for flow, time in due.items()})


# --- Redis -----------------------------------------------------------------------------------------------------


def limit(memory: MemoryFacts) -> Samples:
    """Memory that Redis may use, where it has a limit."""
    return one(memory.redis.limit_bytes or None)


def oldest_entry(sight: Sight) -> Samples:
    """How long the oldest entry of all inboxes waits."""
    memory = sight.observation.memory
    if memory is None:
        return ()
    oldest = memory.tally.oldest_entry
    return one(0.0 if oldest is None else max((memory.freshness.asked_at - oldest).total_seconds(), 0.0))


# --- runs, and benchmarks --------------------------------------------------------------------------------------


def failed(sight: Sight) -> Samples:
    """Whether the last run of each flow came to nothing, those that the ledger never knew of included."""
    ledger = sight.observation.ledger
    of_flow = {} if ledger is None else {name: float(flow.has_failed) for name, flow in ledger.flows.items()}
    return each(of_flow | {run.flow: 1.0 for run in sight.lost_runs})


def ended(flow: FlowState) -> datetime | None:
    """When the last run that succeeded ended."""
    return None if flow.succeeded is None else flow.succeeded.finished_at


def took(flow: FlowState) -> float | None:
    """How many seconds the last run took that succeeded."""
    run = flow.succeeded
    return None if run is None or run.finished_at is None else (run.finished_at - run.started_at).total_seconds()


def runs(ledger: LedgerFacts) -> Samples:
    """Runs of each flow by their status."""
    return [
        ((name, status.lower()), float(number))
        for name, flow in ledger.flows.items()
        for status, number in sorted(flow.runs.items())
    ]


def latencies(ledger: LedgerFacts) -> Samples:
    """Latencies of the last benchmark in seconds, by kind of question and percentile."""
    found = [(_LATENCY.fullmatch(figure.metric), figure) for figure in ledger.benchmark if figure.unit == "ms"]
    return [((match["query"], match["percentile"]), figure.value / 1000) for match, figure in found if match]


def figure(name: str) -> Callable[[LedgerFacts], Samples]:
    """A figure of the last benchmark, by its name there."""
    return lambda ledger: one(next((item.value for item in ledger.benchmark if item.metric == name), None))
