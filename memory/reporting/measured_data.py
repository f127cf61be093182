"""Data of a report about speed and room: what was measured this night, and in past runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from memory.reporting.learned_data import Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencySeries:
    """Latencies of one kind of query: milliseconds, shape (n,), n > 0."""

    name: str
    samples_ms: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure and the bar that it must clear."""

    name: str
    value: float
    limit: float
    unit: str = "ms"
    higher_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure clears the bar."""
        return self.value >= self.limit if self.higher_is_better else self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """Speed and recall of retrieval, measured on the data that the run left behind."""

    latencies: tuple[LatencySeries, ...] = ()
    bars: tuple[Bar, ...] = ()
    recall: float | None = None
    documents: int | None = None
    queries_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """One past measurement of a figure.

    Attributes
    ----------
    documents
        Experiences that were searched.
    usual, limit
        Median of the comparable runs before it, and the value beyond which it would be a regression; None where there
        were too few of them to judge.
    """

    measured_at: datetime
    window_name: str
    value: float
    documents: int
    usual: float | None = None
    limit: float | None = None
    regressed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """One figure over the runs of one machine, oldest first.

    Attributes
    ----------
    judged
        Whether it can fail a run.
    """

    metric: str
    unit: str
    points: tuple[TrendPoint, ...]
    lower_is_better: bool = True
    judged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NightSizes:
    """How much room the memory took after one night.

    Attributes
    ----------
    redis_bytes
        By kind of key, and the indexes.
    documents
        Number of keys by kind.
    archive_bytes, ledger_bytes
        Of the namespace's archive, and of the whole ledger, which namespaces share; None where not noted.
    """

    window_name: str
    redis_bytes: Mapping[str, int] = field(default_factory=dict)
    documents: Mapping[str, int] = field(default_factory=dict)
    archive_bytes: int | None = None
    ledger_bytes: int | None = None

    @property
    def redis_total(self) -> int:
        """Bytes in Redis, of all kinds together."""
        return sum(self.redis_bytes.values())
