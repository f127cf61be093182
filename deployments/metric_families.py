"""What the exporter tells Prometheus: each metric with its meaning, made of what was seen.

Names follow Prometheus' conventions: base units (seconds, bytes, ratios) at the end of the name, `_total` on counters
alone, times as `_timestamp_seconds`. Metrics of a server have no namespace; all others have it as a label. What could
not be asked is left out, and `coinswarm_up` is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from deployments import metric_samples as seen
from deployments.looking import Sight


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
    samples: Callable[[Sight], seen.Samples]
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


# --- all of them -----------------------------------------------------------------------------------------------

METRICS: tuple[Of, ...] = (
    Of("coinswarm_up", "Whether a server answers (1) or not (0).", seen.up, ("server",), server=True),
    Of(
        "coinswarm_redis_memory_used_bytes",
        "Memory that Redis uses.",
        seen.of_memory(lambda memory: seen.one(memory.redis.used_bytes if memory.redis.version else None)),
        server=True,
    ),
    Of(
        "coinswarm_redis_memory_limit_bytes",
        "Memory that Redis may use (maxmemory); not there where it has no limit.",
        seen.of_memory(seen.limit),
        server=True,
    ),
    Of(
        "coinswarm_redis_evicted_keys",
        "Keys that Redis has evicted since it started: memories that were lost.",
        seen.of_memory(lambda memory: seen.one(memory.redis.evicted)),
        server=True,
        counter=True,
    ),
    Of(
        "coinswarm_redis_clock_skew_seconds",
        "How far the clocks of Redis and of the exporter's host differ at least.",
        seen.of_memory(lambda memory: seen.one(memory.redis.clock_skew_s)),
        server=True,
    ),
    Of(
        "coinswarm_ledger_size_bytes",
        "Tables and indexes of the ledger, of all namespaces.",
        seen.of_ledger(lambda ledger: seen.one(ledger.size_bytes)),
        server=True,
    ),
    Of(
        "coinswarm_prefect_workers",
        "Workers online in the pools of the deployments; not there where nothing is deployed.",
        seen.workers,
    ),
    Of("coinswarm_prefect_late_runs", "Runs that are due and that no worker has begun.", seen.late_runs),
    Of(
        "coinswarm_prefect_deployment_paused",
        "Whether a deployment with a schedule is paused (1) or not (0).",
        seen.paused,
        ("deployment",),
    ),
    Of(
        "coinswarm_experiences",
        "Experiences in Redis, by source: live, replay, backtest.",
        seen.of_memory(lambda memory: seen.each(memory.experiences)),
        ("source",),
    ),
    Of(
        "coinswarm_shared_experiences",
        "Experiences in the shared pool.",
        seen.of_memory(lambda memory: seen.one(memory.shared)),
    ),
    Of(
        "coinswarm_semantic_memories",
        "Semantic memories that are known now, by kind.",
        seen.of_memory(lambda memory: seen.each({kind.value: count for kind, count in memory.semantic.items()})),
        ("kind",),
    ),
    Of(
        "coinswarm_decision_traces",
        "Decisions whose traces are kept.",
        seen.of_memory(lambda memory: seen.one(memory.tally.decisions)),
    ),
    Of(
        "coinswarm_messages",
        "Messages between agents that are kept.",
        seen.of_memory(lambda memory: seen.one(memory.tally.messages)),
    ),
    Of(
        "coinswarm_mailboxes",
        "Readers that have a place in those messages.",
        seen.of_memory(lambda memory: seen.one(memory.tally.mailboxes)),
    ),
    Of(
        "coinswarm_inbox_entries",
        "Experiences that wait in an agent's inbox to be drained.",
        seen.of_memory(lambda memory: seen.each(memory.tally.inboxes)),
        ("agent",),
    ),
    Of(
        "coinswarm_inbox_oldest_age_seconds",
        "How long the oldest entry of all inboxes waits; 0 where all are empty.",
        seen.oldest_entry,
    ),
    Of(
        "coinswarm_dead_letters",
        "Records and messages that could not be stored or handled.",
        seen.of_memory(lambda memory: seen.one(memory.dead_letters)),
    ),
    Of(
        "coinswarm_dead_letters_received",
        "Records and messages that ever became dead letters, those that have gone included.",
        seen.of_memory(lambda memory: seen.one(memory.dead_letters_received)),
        counter=True,
    ),
    Of(
        "coinswarm_index_documents",
        "Documents of an index.",
        seen.of_indexes(lambda memory: {index.name: index.documents for index in memory.indexes}),
        ("index",),
    ),
    Of(
        "coinswarm_index_failures",
        "Records that an index could not take.",
        seen.of_indexes(lambda memory: {index.name: index.failures for index in memory.indexes}),
        ("index",),
    ),
    Of(
        "coinswarm_index_size_bytes",
        "Memory that an index takes.",
        seen.of_indexes(lambda memory: {index.name: index.bytes for index in memory.indexes}),
        ("index",),
    ),
    Of(
        "coinswarm_knowledge_age_seconds",
        "How long the newest published knowledge has been known.",
        seen.of_memory(lambda memory: seen.one(memory.freshness.age_s)),
    ),
    Of(
        "coinswarm_knowledge_windows",
        "Windows that were published of the line that is read.",
        seen.of_memory(lambda memory: seen.one(memory.freshness.windows)),
    ),
    Of(
        "coinswarm_knowledge_known_timestamp_seconds",
        "From when on the newest published knowledge of a kind is known.",
        seen.of_memory(
            lambda memory: seen.each(
                {kind.value: newest.known_at.timestamp() for kind, newest in memory.freshness.by_kind.items()}
            )
        ),
        ("kind",),
    ),
    Of(
        "coinswarm_fencing_token",
        "Highest fencing token that Redis has seen, and that the ledger granted.",
        seen.tokens,
        ("where",),
    ),
    Of(
        "coinswarm_windows",
        "Windows that were consolidated, that wait to be consolidated again (stale), and that cannot be (sealed).",
        seen.of_ledger(
            lambda ledger: seen.each(
                {"consolidated": len(ledger.windows), "stale": len(ledger.stale), "sealed": len(ledger.sealed)}
            )
        ),
        ("state",),
    ),
    Of(
        "coinswarm_archive_size_bytes",
        "Archived windows, by the ledger's references.",
        seen.of_ledger(lambda ledger: seen.one(ledger.archive_bytes)),
    ),
    Of(
        "coinswarm_archive_files",
        "Files of archived windows, by the ledger's references.",
        seen.of_ledger(lambda ledger: seen.one(ledger.archive_files)),
    ),
    Of(
        "coinswarm_flow_last_run_timestamp_seconds",
        "When the last run of a flow began.",
        seen.of_flows(lambda flow: flow.last.started_at),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_last_success_timestamp_seconds",
        "When the last run of a flow that succeeded ended.",
        seen.of_flows(seen.ended),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_last_duration_seconds",
        "How long the last run of a flow that succeeded took.",
        seen.of_flows(seen.took),
        ("flow",),
    ),
    Of(
        "coinswarm_flow_failed",
        "Whether the last run of a flow failed or died (1) or not (0).",
        seen.failed,
        ("flow",),
    ),
    Of(
        "coinswarm_flow_runs",
        "Runs of a flow that the ledger keeps, by status.",
        seen.of_ledger(seen.runs),
        ("flow", "status"),
    ),
    Of(
        "coinswarm_flow_regular",
        "Whether a flow ran day by day when it last succeeded (1), or by hand or on history (0).",
        seen.of_flows(lambda flow: flow.regular),
        ("flow",),
    ),
    Of("coinswarm_flow_next_run_timestamp_seconds", "When the next run of a flow is due.", seen.next_runs, ("flow",)),
    Of(
        "coinswarm_retrieval_latency_seconds",
        "Latency of a kind of question in the last benchmark, by percentile.",
        seen.of_ledger(seen.latencies),
        ("query", "percentile"),
    ),
    Of(
        "coinswarm_retrieval_recall_ratio",
        "Recall of the last benchmark against brute force.",
        seen.of_ledger(seen.figure("recall")),
    ),
    Of(
        "coinswarm_retrieval_queries_per_second",
        "Questions a second of many agents at once in the last benchmark.",
        seen.of_ledger(seen.figure("queries a second")),
    ),
    Of(
        "coinswarm_retrieval_benchmark_timestamp_seconds",
        "When the last benchmark was recorded.",
        seen.of_ledger(
            lambda ledger: seen.one(max((figure.recorded_at.timestamp() for figure in ledger.benchmark), default=None))
        ),
    ),
)
