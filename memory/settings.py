"""Everything that can be configured, read from ``COINSWARM_*`` environment variables.

``Settings()`` reads the environment, where an empty variable counts as none; keyword arguments win over it. A field's
description is what the command line, the docs and the forms show.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from memory.keeping_settings import KeepingSettings
from memory.secret_files import SecretFiles
from memory.secrets import remember, remember_environment, remember_url

NAMESPACE_PATTERN = re.compile(r"[a-z0-9-]{1,32}")


def is_web_address(text: str) -> bool:
    """Whether a text is a URL that something can be sent to over HTTP."""
    if not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        # A port that is none is noticed when it is asked for.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class Settings(KeepingSettings, BaseSettings):
    """Settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="COINSWARM_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        # What is refused may be a secret that was written wrongly.
        hide_input_in_errors=True,
    )

    home: Path = Field(
        default=Path("~/.coinswarm"),
        description="Where the embedded servers, the archive and the reports live.",
    )
    namespace: str = Field(default="default", description="Name of the memory: all keys start with it.")
    start_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Longest wait for the embedded servers to start, seconds; millions of memories take minutes.",
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis with search (redis://, rediss:// or unix://); embedded where empty."
    )
    database_url: SecretStr | None = Field(
        default=None, description="Postgres of the ledger (postgresql://...); embedded where empty."
    )
    prefect_api_url: str | None = Field(
        default=None, description="API of a running Prefect server; an embedded one is started where empty."
    )
    archive_url: str | None = Field(
        default=None,
        description="Where consolidated windows are archived (any fsspec URL); under the home where empty.",
    )
    history: Path | None = Field(default=None, description="Folder of larger market history.")

    # Redis
    vector_algorithm: str = Field(
        default="FLAT", pattern="^(FLAT|HNSW)$", description="FLAT is exact; HNSW is for very large scopes."
    )
    vector_type: str = Field(
        default="FLOAT32", pattern="^(FLOAT32|FLOAT16)$", description="FLOAT16 halves the memory of the vectors."
    )
    index_layout: str = Field(
        default="auto",
        pattern="^(auto|single|partitioned)$",
        description="Of a new index: single, partitioned (HNSW by agent and product), or by expected_memories.",
    )
    expected_memories: int = Field(
        default=100_000, ge=1, description="Experiences that the memory is to hold; a hint for index_layout."
    )
    redis_max_connections: int = Field(default=16, ge=1, le=512, description="Connections of one client's pool.")
    redis_timeout_s: float = Field(default=5.0, gt=0, description="Longest wait for Redis before an error, seconds.")
    max_top_k: int = Field(default=1000, ge=1, le=10_000, description="Largest number of results of one query.")
    relevance_similarity: float = Field(
        default=0.8, ge=0, description="Weight of similarity where experiences are ranked by relevance."
    )
    relevance_recency: float = Field(default=0.1, ge=0, description="Weight of recency there.")
    relevance_reward: float = Field(default=0.1, ge=0, description="Weight of reward there.")
    relevance_half_life_days: float = Field(
        default=30.0, gt=0, description="Age at which an experience counts half as recent, days."
    )
    relevance_reward_scale: float = Field(
        default=0.001, gt=0, description="Large reward where the market's volatility is not known, a fraction."
    )
    relevance_over_fetch: int = Field(
        default=4, ge=1, le=1000, description="How many times top_k are fetched at first where ranking needs more."
    )
    pattern_similarity: float = Field(
        default=0.88,
        ge=-1,
        le=1,
        description="Least cosine at which a state is taken for a pattern, however far the pattern reaches.",
    )
    strategy_sharpe: float = Field(
        default=1.5, description="Annualised net Sharpe ratio that a strategy of a regime must exceed to be named."
    )
    redis_replica_urls: SecretStr | None = Field(
        default=None, description="Replicas of that Redis that answer questions, separated by commas."
    )
    replica_max_lag_s: float = Field(
        default=1.0,
        ge=0.4,
        description="A replica answers while it provably holds all that was written up to this many seconds ago.",
    )
    near_cache_mb: int = Field(
        default=256, ge=0, description="Memory for agents' experiences in this process, MiB; 0 asks the server always."
    )
    near_cache_after: int = Field(
        default=32, ge=0, description="Questions about an agent before its experiences are held in this process."
    )
    episodic_retention_days: int = Field(
        default=90, ge=1, description="Experiences older than this are pruned once their window is archived."
    )
    semantic_retention_days: int = Field(
        default=90,
        ge=1,
        description="Versions of semantic memory stay in Redis this many days after they ended, counted back from the "
        "newest published window; older times are answered by rebuild_memory.",
    )
    shared_min_quality: float = Field(
        default=0.7, ge=0, le=1, description="Experiences of at least this quality enter the shared pool."
    )
    shared_retention_days: int = Field(
        default=30, ge=1, description="Shared experiences older than this are not returned, and are pruned."
    )
    share_on_record: bool = Field(
        default=False,
        description="Share what is recorded and of that quality; off, agents and trainers choose what they share.",
    )
    replay_traces: int = Field(
        default=1,
        ge=0,
        le=1440,
        description="Decisions of a replayed day that leave a trace, of each agent and product: its last changes of "
        "position; 0 leaves none.",
    )
    dead_letter_limit: int = Field(default=100_000, ge=1, description="Dead letters kept, oldest dropped first.")
    message_limit: int = Field(
        default=10_000, ge=1, description="Messages kept of each agent and run, oldest dropped first."
    )
    message_retention_days: float = Field(
        default=7.0, gt=0, le=3650, description="Messages older than this are dropped; readers are told how many."
    )
    message_clock_skew_s: float = Field(
        default=5.0, ge=0, description="A message dated further ahead of the server's clock is refused, seconds."
    )

    # Acting
    cost_bp: float = Field(
        default=2.0, ge=0, description="Trading cost a side in basis points, beside half the spread."
    )

    # Nightly
    lock_wait_s: float = Field(
        default=600.0, ge=0, description="How long a run waits for another run of the namespace, seconds."
    )
    lease_s: float = Field(
        default=300.0, gt=0, description="A run whose heartbeat is older than this is taken for dead."
    )
    publication_lag_s: float = Field(
        default=0.0, ge=0, description="Seconds after a window's end before its knowledge counts as known."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    late_windows: int = Field(
        default=7, ge=0, description="Windows with late records that one run consolidates again, oldest first."
    )
    backfill_chunk: int = Field(
        default=10, ge=1, description="Windows that a back-fill consolidates before it lets another run pass."
    )
    task_runner: Literal["threads", "dask"] = Field(
        default="threads", description="What partitions are clustered on: threads of the flow's process, or Dask."
    )
    task_workers: int = Field(
        default=2,
        ge=1,
        le=1024,
        description="Tasks at once: threads, or the workers of a Dask cluster of this machine.",
    )
    dask_address: str | None = Field(
        default=None, description="Scheduler of a running Dask cluster; one on this machine is started where empty."
    )
    market_reference: str | None = Field(
        default=None,
        description="Product whose regime keys correlations; where empty, that with the largest notional volume.",
    )
    learning: dict[str, Any] = Field(
        default_factory=dict,
        description='Settings of learning other than their defaults, as JSON: {"min_support": 4, "alpha": 1.0}.',
    )

    # Everything on this machine
    worker_runs: int = Field(
        default=4, ge=1, le=64, description="Runs that the worker of `coinswarm up` carries out at once; others wait."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port on which metrics are served to Prometheus, 0 for a free one; 9464 where empty, or for "
        "`coinswarm up` a free one while that is taken.",
    )

    # Deployments
    webhook_url: SecretStr | None = Field(
        default=None,
        description="Where alerts are sent (POST, JSON with a `text`, as chat services take it); none where empty.",
    )
    results_url: str | None = Field(
        default=None,
        pattern="^[^@]+$",
        description="Where Prefect keeps results: a folder, an fsspec URL (credentials come from the environment), or "
        "block:TYPE/NAME; Prefect's own folder where empty.",
    )
    heartbeat_s: int = Field(
        default=60,
        ge=30,
        le=600,
        description="Seconds between the signs of life of a run; one that misses four of them is marked as crashed.",
    )
    crash_restarts: int = Field(
        default=2, ge=0, le=10, description="How often a crashed run of a deployment is scheduled again by itself."
    )
    schedule_training: bool | None = Field(
        default=None,
        description="Whether train_agents and evaluate_agents run by themselves each week, for which workers need the "
        "extra policy. Where empty they do if it is installed here, and never in containers.",
    )

    # Security
    data_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Folders beside the home that paths in flow parameters may lead to, separated by colons; history "
        "and samples may be read anyway.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Part of pydantic-settings: arguments, then the environment, then files of secrets that it names."""
        return init_settings, env_settings, SecretFiles(settings_cls)

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator("data_roots")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.expanduser().absolute() for path in value)

    @model_validator(mode="after")
    def _remember_secrets(self) -> Settings:
        for name in type(self).model_fields:
            secret = getattr(self, name)
            if isinstance(secret, SecretStr):
                remember(secret)
            elif isinstance(secret, str) and "://" in secret:
                remember_url(secret)
        remember_environment()
        return self

    # Operation
    knowledge_max_age_h: float = Field(
        default=26.0,
        gt=0,
        description="Hours after which published knowledge is too old: a night and two hours for it to be worked on.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Lines of logs: for people, or one JSON object each."
    )

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, value: str) -> str:
        if not NAMESPACE_PATTERN.fullmatch(value):
            raise ValueError(f"namespace {value!r} must be 1 to 32 of a-z, 0-9 and '-': choose such a name")
        return value

    @field_validator("webhook_url")
    @classmethod
    def _check_webhook_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_web_address(value.get_secret_value()):
            raise ValueError("must be an address that begins with https:// or http:// and names a host")
        return value

    @property
    def archive_location(self) -> str:
        """fsspec URL of the archive."""
        return self.archive_url or f"file://{self.home / 'archive'}"

    @property
    def backups_path(self) -> Path:
        """Folder of the snapshots, one folder in it for each namespace."""
        if self.backup_url is None:
            return self.home / "backups"
        return Path(self.backup_url.removeprefix("file://")).expanduser().absolute()

    @property
    def policies_path(self) -> Path:
        """Folder of trained policies."""
        return self.home / "policies"

    @property
    def reports_path(self) -> Path:
        """Folder of the HTML reports."""
        return self.home / "reports"
