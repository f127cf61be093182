"""Settings of what is measured, kept and backed up; read as all others, by `memory.settings.Settings`."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator


class KeepingSettings(BaseModel):
    """The part of `Settings` that says for how long what stays, where snapshots go, and what a benchmark may differ."""

    # Reports and benchmarks
    reports_url: str | None = Field(
        default=None,
        pattern="^https?://[^@\\s]+$",
        description="Address under which the folder of reports is served; artifacts in the Prefect UI link to it.",
    )
    benchmark_regression: float = Field(
        default=1.6,
        gt=1,
        description="Times the median of past runs beyond which a latency, or a rate, fails benchmark_memory.",
    )
    benchmark_recall_drop: float = Field(
        default=0.01, gt=0, lt=1, description="Recall lost against the median of past runs that fails it."
    )
    benchmark_min_runs: int = Field(
        default=5, ge=2, description="Comparable past runs that it takes to call a figure a regression."
    )
    benchmark_runs: int = Field(
        default=20, ge=2, le=1000, description="Latest comparable runs that a figure is compared with."
    )
    benchmark_size_factor: float = Field(
        default=2.0, ge=1, description="Runs compare that searched at most so many times the experiences of the other."
    )
    benchmark_machine: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9 ._@()/-]{1,120}$",
        description="Machine under whose name figures compare; host, processor and cores where empty (set it in pods).",
    )

    # Keeping
    keep_prefect_days: int = Field(
        default=30, ge=1, description="Runs that ended longer ago leave Prefect's database, with their artifacts, days."
    )
    keep_runs_days: int = Field(
        default=90,
        ge=1,
        description="Runs that ended longer ago leave the ledger, where nothing that was learned names them, days.",
    )
    keep_replaced_days: int = Field(
        default=30,
        ge=1,
        description="Generations, summaries and archived files stay this long after they were replaced, days.",
    )
    keep_benchmarks_days: int = Field(
        default=730, ge=1, description="Figures of older benchmarks leave the ledger, days."
    )
    keep_reports_days: int = Field(
        default=365, ge=1, description="Nightly reports written longer ago are removed, days."
    )
    keep_logs_days: int = Field(default=30, ge=1, description="Logs put aside longer ago are removed, days.")
    keep_training_days: int = Field(
        default=30, ge=1, description="What unfinished trainings left goes when nothing touched it so long, days."
    )
    keep_evaluation_days: int = Field(
        default=90, ge=1, description="Staged results of an evaluation go when nothing touched them so long, days."
    )
    keep_results_days: int = Field(
        default=30, ge=1, description="Results of Prefect's tasks that were kept longer ago are removed, days."
    )

    # Backup
    backup_url: str | None = Field(
        default=None,
        description="Folder that snapshots are written to, best on another disk; `backups` in the home where empty.",
    )
    backup_keep: int = Field(
        default=7, ge=1, description="Snapshots kept of a memory; the oldest goes once a new one was verified."
    )

    @field_validator("backup_url")
    @classmethod
    def _check_backup_url(cls, value: str | None) -> str | None:
        scheme, is_url, path = (value or "").partition("://")
        if is_url and (scheme != "file" or not path.startswith("/")):
            raise ValueError(
                "must be a folder, such as /srv/backups or file:///srv/backups: mount other storage as one"
            )
        return value
