"""What callers hand to the ledger and get back: plain frozen dataclasses, free of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memory.ledger.host import is_gone
from memory.window import Window


@dataclass(frozen=True, slots=True)
class FencingToken:
    """The right to write to a namespace; a later holder's `value` is higher.

    `previous` is the value of whoever held the namespace before, 0 where nobody did, or where it is not known.
    """

    namespace: str
    value: int
    run_id: str
    previous: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of a flow; `status` is RUNNING, SUCCEEDED, FAILED or DEAD."""

    run_id: str
    namespace: str
    flow: str
    window: Window | None
    status: str
    parameters: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    report_path: str | None
    flow_run_id: str | None
    host: str
    process_id: int
    lease_s: float
    started_at: datetime
    heartbeat_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a namespace, or held it last."""

    namespace: str
    token: int
    run_id: str
    flow: str
    host: str
    process_id: int
    acquired_at: datetime
    expires_at: datetime
    released: bool
    expired: bool

    @property
    def left_behind(self) -> bool:
        """Whether its lease is over, or its process, on this host, has ended without giving it back."""
        return not self.released and (self.expired or is_gone(self.host, self.process_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRecord:
    """A knowledge line.

    Attributes
    ----------
    activation, current_from
        Its place in the succession of current lines, None before it was one, and since when (None: always).
    state
        BUILDING (it re-consolidates, and nobody reads it), LIVE (each night is fed to it) or RETIRED (it stays as it
        is, for questions as of then).
    """

    line: str
    namespace: str
    encoder_id: str
    algorithm_version: str
    activation: int | None
    current_from: datetime | None
    state: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRecord:
    """A fitted encoder as bytes; `digest` is their SHA-256."""

    encoder_id: str
    dimension: int
    fitted_until: datetime | None
    payload: bytes
    digest: str
    parameters: dict[str, Any] = field(default_factory=dict)


# --- windows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRow:
    """What can be searched of one cluster; `member_digest` identifies its member states."""

    cluster: int
    states: int
    support: int
    broad: bool
    member_digest: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRecord:
    """A staged summary; `digest` is the SHA-256 of the payload. `kind` and `partition_key` are the caller's."""

    kind: str
    partition_key: str
    input_digest: str
    settings_hash: str
    digest: str
    payload: bytes
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """One partition of a generation: the digest of its summary, or None where the partition was absent."""

    kind: str
    partition_key: str
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """A committed generation. `manifest` and its digest hold nothing that depends on a clock, a run or a namespace."""

    line: str
    window: Window
    number: int
    manifest: dict[str, Any]
    manifest_digest: str
    settings_hash: str
    recorded_cut: datetime | None
    counts: dict[str, Any]
    run_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentGeneration:
    """The current generation of a window with its summaries, sorted by kind and partition key."""

    generation: GenerationRecord
    summaries: tuple[SummaryRecord, ...]
    absent: tuple[ManifestEntry, ...]

    def of_kind(self, kind: str) -> tuple[SummaryRecord, ...]:
        """Summaries of one kind, sorted by partition key."""
        return tuple(summary for summary in self.summaries if summary.kind == kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowStatus:
    """Where one window of a line stands; `generation` is None before the first was committed."""

    line: str
    window: Window
    generation: int | None
    manifest_digest: str | None
    settings_hash: str | None
    recorded_cut: datetime | None
    counts: dict[str, Any]
    stale_since: datetime | None
    stale_reason: str | None
    sealed_since: datetime | None = None
    sealed_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedSpanRow:
    """What is archived of a window of one encoder, all sources together.

    Attributes
    ----------
    rows
        Experiences in the latest archive of each source.
    recorded_cut
        Latest time of recording that any line's current generation has seen; None where none is known.
    consolidated
        Whether a line has a current generation of the window.
    """

    window: Window
    encoder_id: str
    rows: int
    recorded_cut: datetime | None
    consolidated: bool


# --- folds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved fold state, without its items.

    `state_digest` covers all items of the state; `stamp` is what whoever saved it left there, such as the stamp of the
    projection in Redis, and no part of the state.
    """

    checkpoint_id: int
    line: str
    kind: str
    window: Window
    full: bool
    input_digest: str
    state_digest: str
    items: int
    counts: dict[str, Any]
    stamp: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefoldRecord:
    """A folding again that has begun and not ended.

    Attributes
    ----------
    first, last
        The first window to be folded again, and the last one that was folded before.
    payload
        What was known then, in the caller's form.
    """

    line: str
    first: Window
    last: Window
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldItems:
    """A fold state by named items, and the checkpoint it came from (None: the empty state before all windows)."""

    checkpoint: Checkpoint | None
    items: dict[str, bytes]


# --- operations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalRecord:
    """A removal of episodic or shared memory by a rule of age, noted before the deed.

    Attributes
    ----------
    before
        Memory of before this time goes; None in what older software noted.
    window
        The window of the run that planned it.
    planned
        Records that it is about.
    count
        Records that are known to be gone; `planned` once it is done.
    removed_at
        When it was done; None while it is open.
    """

    removal_id: int
    run_id: str
    memory_type: str
    window: Window
    before: datetime | None
    rule: str
    planned: int
    count: int
    planned_at: datetime
    removed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkMetric:
    """One figure of a benchmark."""

    metric: str
    value: float
    unit: str
    lower_is_better: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRecord:
    """A stored figure of a benchmark."""

    run_id: str
    machine: str
    metric: str
    value: float
    unit: str
    lower_is_better: bool
    details: dict[str, Any]
    recorded_at: datetime
