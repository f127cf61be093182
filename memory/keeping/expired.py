"""What expires: things that no knowledge is rebuilt from, by the rule that lets them go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PREFECT_RUNS, ARTIFACTS, RUNS = "flow runs of Prefect", "artifacts of Prefect", "runs"
GENERATIONS, SUMMARIES, ARCHIVES = "generations", "summaries", "archives"
BENCHMARKS, TRAINING_FIGURES = "figures of benchmarks", "figures of trainings"
DOCUMENTS, ARCHIVED_FILES, DRILLS = "staged documents", "archived files", "namespaces of drills"
REPORTS, LOGS, RESULTS = "reports", "logs", "results"
CHECKPOINTS, POLICIES, EVALUATIONS = "training checkpoints", "policies", "evaluations"

RULES: dict[str, tuple[str, str | None]] = {
    ARTIFACTS: ("of flow runs that go", "keep_prefect_days"),
    PREFECT_RUNS: ("ended longer ago than {days} days", "keep_prefect_days"),
    RUNS: (
        "ended longer ago than {days} days, named by nothing that was learned or measured, and not the last of their "
        "flow",
        "keep_runs_days",
    ),
    GENERATIONS: ("replaced longer ago than {days} days", "keep_replaced_days"),
    SUMMARIES: ("staged longer ago than {days} days, and used by no generation that stays", "keep_replaced_days"),
    ARCHIVES: ("replaced longer ago than {days} days, and named by no generation that stays", "keep_replaced_days"),
    ARCHIVED_FILES: (
        "of archives that go, or unknown to the ledger and older than {days} days",
        "keep_replaced_days",
    ),
    DOCUMENTS: ("written by a publication that was killed", None),
    DRILLS: ("filled by a restore drill that was killed", None),
    BENCHMARKS: ("measured longer ago than {days} days", "keep_benchmarks_days"),
    TRAINING_FIGURES: ("of trainings that brought no policy, older than {days} days", "keep_training_days"),
    REPORTS: ("written longer ago than {days} days, and not the newest", "keep_reports_days"),
    LOGS: ("put aside longer ago than {days} days", "keep_logs_days"),
    CHECKPOINTS: ("of trainings that nobody went on with for {days} days", "keep_training_days"),
    POLICIES: ("unknown to the ledger, and older than {days} days", "keep_training_days"),
    EVALUATIONS: ("not touched for {days} days, and not the last", "keep_evaluation_days"),
    RESULTS: ("kept longer ago than {days} days", "keep_results_days"),
}
"""What can expire: the rule, and the setting that says after how many days; in the order in which it is removed."""


@dataclass(frozen=True, slots=True)
class Expired:
    """Things of one sort that expired.

    Attributes
    ----------
    what
        One of `RULES`.
    rule
        Why they go, in words.
    items
        What names each: ids, or paths.
    size_bytes
        What they take; None where that is not known.
    """

    what: str
    rule: str
    items: tuple[str, ...]
    size_bytes: int | None = None

    @classmethod
    def of(cls, what: str, days: int | None, items: Sequence[str], size_bytes: int | None = None) -> Expired:
        """Things of one sort, by the rule of `RULES` with its number of days."""
        return cls(what, RULES[what][0].format(days=days), tuple(items), size_bytes)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, without the names of the single things."""
        return {"what": self.what, "number": len(self.items), "bytes": self.size_bytes, "rule": self.rule}
