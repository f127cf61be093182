"""What the exporter tells Prometheus: each metric with its meaning, made of what was seen.

Names follow Prometheus' conventions: base units (seconds, bytes, ratios) at the end of the name, `_total` on counters
alone, times as `_timestamp_seconds`. Metrics of a server have no namespace; all others have it as a label. What could
not be asked is left out, and `coinswarm_up` is 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from deployments.looking import Sight
from deployments.reaching import READY, UNUSED
from memory.ledger import RunRecord
from tasks.observing import LedgerFacts, MemoryFacts

Samples = Iterable[tuple[tuple[str, ...], float]]
"""Values, each after the values of its labels."""

_LATENCY = re.compile(r"(?P<query>.+): p(?P<percentile>\d+)")
"""Name of a latency among a benchmark's figures, which are in milliseconds."""


@dataclass(frozen=True, slots=True)
class Of:
    """A metric.

    Attributes
    ----------
    name, help
        As Prometheus knows it.
    samples
        Makes its values of what was seen of one namespace.
    labels
        Names of its labels beside the namespace.
    server
        Whether it is about a server: then it has no namespace, and is told once.
    counter
        Whether it only ever rises, until its server starts anew.
    """

    name: str
    help: str
    samples: Callable[[Sight], Samples]
    labels: tuple[str, ...] = ()
    server: bool = False
    counter: bool = False

    def family(self, sights: Sequence[Sight]) -> Metric:
        """The metric with its values."""
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        family: GaugeMetricFamily | CounterMetricFamily = kind(
            self.name, self.help, labels=self.labels if self.server else ("namespace", *self.labels)
        )
        for sight in sights:
            samples = list(self.samples(sight))
            for labels, value in samples:
                family.add_metric(labels if self.server else (sight.observation.namespace, *labels), value)
            if self.server and samples:
                break
        return family


def families(sights: Sequence[Sight]) -> Iterator[Metric]:
    """All metrics of what was seen of some namespaces; those without any value are left out."""
    for metric in METRICS:
        family = metric.family(sights)
        if family.samples:
            yield family


# --- of what was seen ------------------------------------------------------------------------------------------


def _of_memory(read: Callable[[MemoryFacts], Samples]) -> Callable[[Sight], Samples]:
    return lambda sight: () if sight.observation.memory is None else read(sight.observation.memory)


def _of_ledger(read: Callable[[LedgerFacts], Samples]) -> Callable[[Sight], Samples]:
    return lambda sight: () if sight.observation.ledger is None else read(sight.observation.ledger)


def _one(value: float | None) -> Samples:
    return () if value is None else [((), float(value))]


def _each(values: Mapping[str, float]) -> Samples:
    return [((str(name),), float(value)) for name, value in values.items()]


def _up(sight: Sight) -> Samples:
    return [((server.name,), float(server.state == READY)) for server in sight.servers if server.state != UNUSED]


def _workers(sight: Sight) -> Samples:
    # Where nothing is deployed, as in a home whose flows are run by hand, none is missing.
    state = sight.prefect.state
    return _one(None if state is None or not state.deployments else len(state.workers))


def _late_runs(sight: Sight) -> Samples:
    return _one(None if sight.prefect.state is None else sight.prefect.state.late_runs)


def _paused(sight: Sight) -> Samples:
    deployments = () if sight.prefect.state is None else sight.prefect.state.deployments
    return [((deployment.name,), float(deployment.paused)) for deployment in deployments if deployment.scheduled]


def _next_runs(sight: Sight) -> Samples:
    due = {} if sight.prefect.state is None else sight.prefect.state.next_runs()
    return _each({flow: time.timestamp() for flow, time in due.items()})


def _oldest_entry(sight: Sight) -> Samples:
    memory = sight.observation.memory
    if memory is None:
        return ()
    oldest = memory.tally.oldest_entry
    return _one(0.0 if oldest is None else max((memory.freshness.asked_at - oldest).total_seconds(), 0.0))


def _tokens(sight: Sight) -> Samples:
    memory, ledger = sight.observation.memory, sight.observation.ledger
    found = {} if memory is None else {"redis": memory.fencing_token}
    return _each(found | ({} if ledger is None else {"ledger": ledger.fencing_token}))


def _limit(memory: MemoryFacts) -> Samples:
    return _one(memory.redis.limit_bytes or None)


def _times(runs: Mapping[str, datetime | None]) -> Samples:
    return _each({flow: time.timestamp() for flow, time in runs.items() if time is not None})


def _ended(run: RunRecord | None) -> datetime | None:
    return None if run is None else run.finished_at


def _durations(ledger: LedgerFacts) -> Samples:
    ended = {name: flow.succeeded for name, flow in ledger.flows.items()}
    return _each(
        {
            name: (run.finished_at - run.started_at).total_seconds()
            for name, run in ended.items()
            if run is not None and run.finished_at is not None
        }
    )


def _runs(ledger: LedgerFacts) -> Samples:
    return [
        ((name, status.lower()), float(number))
        for name, flow in ledger.flows.items()
        for status, number in sorted(flow.runs.items())
    ]


def _latencies(ledger: LedgerFacts) -> Samples:
    found = [(_LATENCY.fullmatch(figure.metric), figure) for figure in ledger.benchmark if figure.unit == "ms"]
    return [((match["query"], match["percentile"]), figure.value / 1000) for match, figure in found if match]


def _figure(name: str) -> Callable[[LedgerFacts], Samples]:
    return lambda ledger: _one(next((item.value for item in ledger.benchmark if item.metric == name), None))


def _indexes(read: Callable[[MemoryFacts], Mapping[str, float]]) -> Callable[[Sight], Samples]:
    return _of_memory(lambda memory: _each(read(memory)))


# --- all of them -----------------------------------------------------------------------------------------------

METRICS: tuple[Of, ...] = (
    Of("coinswarm_up", "Whether a server answers (1) or not (0).", _up, ("server",), server=True),
    Of(
        "coinswarm_redis_memory_used_bytes",
        "Memory that Redis uses.",
        _of_memory(lambda memory: _one(memory.redis.used_bytes if memory.redis.version else None)),
        server=True,
    ),
    Of(
        "coinswarm_redis_memory_limit_bytes",
        "Memory that Redis may use (maxmemory); not there where it has no limit.",
        _of_memory(_limit),
        server=True,
    ),
    Of(
        "coinswarm_redis_evicted_keys",
        "Keys that Redis has evicted since it started: memories that were lost.",
        _of_memory(lambda memory: _one(memory.redis.evicted)),
        server=True,
        counter=True,
    ),
    Of(
        "coinswarm_redis_clock_skew_seconds",
        "How far the clocks of Redis and of the exporter's host differ at least.",
        _of_memory(lambda memory: _one(memory.redis.clock_skew_s)),
        server=True,
    ),
    Of(
        "coinswarm_ledger_size_bytes",
        "Tables and indexes of the ledger, of all namespaces.",
        _of_ledger(lambda ledger: _one(ledger.size_bytes)),
        server=True,
    ),
    Of(
        "coinswarm_prefect_workers",
        "Workers online in the pools of the deployments; not there where nothing is deployed.",
        _workers,
    ),
    Of("coinswarm_prefect_late_runs", "Runs that are due and that no worker has begun.", _late_runs),
    Of(
        "coinswarm_prefect_deployment_paused",
        "Whether a deployment with a schedule is paused (1) or not (0).",
        _paused,
        ("deployment",),
    ),
    Of(
        "coinswarm_experiences",
        "Experiences in Redis, by source: live, replay, backtest.",
        _of_memory(lambda memory: _each(memory.experiences)),
        ("source",),
    ),
    Of(
        "coinswarm_shared_experiences",
        "Experiences in the shared pool.",
        _of_memory(lambda memory: _one(memory.shared)),
    ),
    Of(
        "coinswarm_semantic_memories",
        "Semantic memories that are known now, by kind.",
        _of_memory(lambda memory: _each({kind.value: count for kind, count in memory.semantic.items()})),
        ("kind",),
    ),
    Of(
        "coinswarm_decision_traces",
        "Decisions whose traces are kept.",
        _of_memory(lambda memory: _one(memory.tally.decisions)),
    ),
    Of(
        "coinswarm_messages",
        "Messages between agents that are kept.",
        _of_memory(lambda memory: _one(memory.tally.messages)),
    ),
    Of(
        "coinswarm_mailboxes",
        "Readers that have a place in those messages.",
        _of_memory(lambda memory: _one(memory.tally.mailboxes)),
    ),
    Of(
        "coinswarm_inbox_entries",
        "Experiences that wait in an agent's inbox to be drained.",
        _of_memory(lambda memory: _each(memory.tally.inboxes)),
        ("agent",),
    ),
    Of(
        "coinswarm_inbox_oldest_age_seconds",
        "How long the oldest entry of all inboxes waits; 0 where all are empty.",
        _oldest_entry,
    ),
    Of(
        "coinswarm_dead_letters",
        "Records and messages that could not be stored or handled.",
        _of_memory(lambda memory: _one(memory.dead_letters)),
    ),
    Of(
        "coinswarm_dead_letters_received",
        "Records and messages that ever became dead letters, those that have gone included.",
        _of_memory(lambda memory: _one(memory.dead_letters_received)),
        counter=True,
    ),
    Of(
        "coinswarm_index_documents",
        "Documents of an index.",
        _indexes(lambda memory: {index.name: index.documents for index in memory.indexes}),
        ("index",),
    ),
    Of(
        "coinswarm_index_failures",
        "Records that an index could not take.",
        _indexes(lambda memory: {index.name: index.failures for index in memory.indexes}),
        ("index",),
    ),
    Of(
        "coinswarm_index_size_bytes",
        "Memory that an index takes.",
        _indexes(lambda memory: {index.name: index.bytes for index in memory.indexes}),
        ("index",),
    ),
    Of(
        "coinswarm_knowledge_age_seconds",
        "How long the newest published knowledge has been known.",
        _of_memory(lambda memory: _one(memory.freshness.age_s)),
    ),
    Of(
        "coinswarm_knowledge_windows",
        "Windows that were published of the line that is read.",
        _of_memory(lambda memory: _one(memory.freshness.windows)),
    ),
    Of(
        "coinswarm_knowledge_known_timestamp_seconds",
        "From when on the newest published knowledge of a kind is known.",
        _of_memory(
            lambda memory: _each(
                {kind.value: newest.known_at.timestamp() for kind, newest in memory.freshness.by_kind.items()}
            )
        ),
        ("kind",),
    ),
    Of(
        "coinswarm_fencing_token",
        "Highest fencing token that Redis has seen, and that the ledger granted.",
        _tokens,
        ("where",),
    ),
    Of(
        "coinswarm_windows",
        "Windows that were consolidated, that wait to be consolidated again (stale), and that cannot be (sealed).",
        _of_ledger(
            lambda ledger: _each(
                {"consolidated": len(ledger.windows), "stale": len(ledger.stale), "sealed": len(ledger.sealed)}
            )
        ),
        ("state",),
    ),
    Of(
        "coinswarm_archive_size_bytes",
        "Archived windows, by the ledger's references.",
        _of_ledger(lambda ledger: _one(ledger.archive_bytes)),
    ),
    Of(
        "coinswarm_archive_files",
        "Files of archived windows, by the ledger's references.",
        _of_ledger(lambda ledger: _one(ledger.archive_files)),
    ),
    Of(
        "coinswarm_flow_last_run_timestamp_seconds",
        "When the last run of a flow began.",
        _of_ledger(lambda ledger: _times({name: flow.last.started_at for name, flow in ledger.flows.items()})),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_last_success_timestamp_seconds",
        "When the last run of a flow that succeeded ended.",
        _of_ledger(lambda ledger: _times({name: _ended(flow.succeeded) for name, flow in ledger.flows.items()})),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_last_duration_seconds",
        "How long the last run of a flow that succeeded took.",
        _of_ledger(_durations),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_failed",
        "Whether the last run of a flow failed or died (1) or not (0).",
        _of_ledger(lambda ledger: _each({name: float(flow.has_failed) for name, flow in ledger.flows.items()})),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_runs",
        "Runs of a flow that the ledger keeps, by status.",
        _of_ledger(_runs),
        ("flow", "status"),
    ),
    Of(
        "coinswarm_flow_regular",
        "Whether a flow ran day by day when it last succeeded (1), or by hand or on history (0).",
        _of_ledger(
            lambda ledger: _each(
                {name: float(flow.regular) for name, flow in ledger.flows.items() if flow.regular is not None}
            )
        ),
        ("flow",),
    ),
    Of("coinswarm_flow_next_run_timestamp_seconds", "When the next run of a flow is due.", _next_runs, ("flow",)),
    Of(
        "coinswarm_retrieval_latency_seconds",
        "Latency of a kind of question in the last benchmark, by percentile.",
        _of_ledger(_latencies),
        ("query", "percentile"),
    ),
    Of(
        "coinswarm_retrieval_recall_ratio",
        "Recall of the last benchmark against brute force.",
        _of_ledger(_figure("recall")),
    ),
    Of(
        "coinswarm_retrieval_queries_per_second",
        "Questions a second of many agents at once in the last benchmark.",
        _of_ledger(_figure("queries a second")),
    ),
    Of(
        "coinswarm_retrieval_benchmark_timestamp_seconds",
        "When the last benchmark was recorded.",
        _of_ledger(
            lambda ledger: _one(max((figure.recorded_at.timestamp() for figure in ledger.benchmark), default=None))
        ),
    ),
)
