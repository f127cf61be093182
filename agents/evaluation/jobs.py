"""The work of an evaluation in pieces that can be done in any order, in any process, and found again by a retry."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from agents.candles import Candles
from agents.catalogue import FEATURES
from agents.encoder import FORMAT as ENCODER_FORMAT
from agents.encoder import StateEncoder
from agents.evaluation.contestants import Prepared, fixed_contestants, prepared_of
from agents.evaluation.folds import Fold
from agents.evaluation.grid import Minutes
from agents.evaluation.learner_settings import learner_settings
from agents.evaluation.material import Material, prepare
from agents.evaluation.neighbours import NeighbourCache
from agents.evaluation.settings import POLICIES, Cell, EvaluationSettings
from agents.evaluation.tracks import Track
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """Fit a fold's encoder, ask memory for all its states at one interval, and judge forecasts."""

    fold: int
    interval_minutes: int


@dataclass(frozen=True, slots=True)
class FixedJob:
    """Those who learn nothing by gradient, in one cell of a fold."""

    fold: int
    cell: Cell


@dataclass(frozen=True, slots=True)
class PolicyJob:
    """One learned contestant in one cell of a fold, all seeds."""

    fold: int
    cell: Cell
    contestant: str


Job = PrepareJob | FixedJob | PolicyJob


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evaluation is to do: plain values that can go to another process.

    Attributes
    ----------
    folds, settings
        What is evaluated.
    folder
        Where results are staged, under the plan's key.
    key
        Hash of all that results follow from.
    """

    folds: tuple[Fold, ...]
    settings: EvaluationSettings
    folder: Path
    key: str

    @classmethod
    def of(cls, market: Market, folds: Sequence[Fold], settings: EvaluationSettings, folder: Path) -> Plan:
        """The plan over a market; what is staged under another market, software or settings is left alone."""
        content = {
            "market": market.identity,
            "candles": {product: _content(candles) for product, candles in market.products.items()},
            "folds": [asdict(fold) for fold in folds],
            "features": [asdict(spec) for spec in FEATURES],
            # Changes with the software that fits encoders.
            "encoder": [ENCODER_FORMAT, default_encoder().id_],
            "learner": {name: asdict(learner_settings(name, settings.batch)) for name in POLICIES},
        }
        key = settings.key(content)
        return cls(tuple(folds), settings, folder / key, key)

    def prepare_jobs(self) -> list[PrepareJob]:
        """What has to be done before anything else."""
        intervals = sorted(self.settings.intervals)
        return [PrepareJob(fold, interval) for interval in intervals for fold in range(len(self.folds))]

    def fixed_jobs(self) -> list[FixedJob]:
        """Agents and rules."""
        return [FixedJob(fold, cell) for cell in self.settings.cells for fold in range(len(self.folds))]

    def policy_jobs(self) -> list[PolicyJob]:
        """Trainings, the reference cell first; those of a fold one after the other, so that it is prepared once."""
        return [
            PolicyJob(fold, cell, contestant)
            for cell in self.settings.cells
            for fold in range(len(self.folds))
            for contestant in self.settings.policies(cell)
        ]

    def is_done(self, job: Job) -> bool:
        """Whether all results of a job are staged and can be read; some milliseconds a result."""
        if isinstance(job, PrepareJob):
            return read_staged(self.prepared_path(job.fold, job.interval_minutes), Prepared) is not None
        if isinstance(job, FixedJob):
            return read_staged(self.fixed_path(job.fold, job.cell), list[Track]) is not None
        paths = (self.policy_path(job.fold, job.cell, job.contestant, seed) for seed in self.settings.seeds)
        return all(read_staged(path, Track) is not None for path in paths)

    def prepared_path(self, fold: int, interval_minutes: int) -> Path:
        """Where a `PrepareJob` stages its result."""
        return self.path(fold, f"prepared-{interval_minutes}")

    def fixed_path(self, fold: int, cell: Cell) -> Path:
        """Where a `FixedJob` stages its result."""
        return self.path(fold, f"fixed-{_file_name(cell)}")

    def policy_path(self, fold: int, cell: Cell, contestant: str, seed: int) -> Path:
        """Where a `PolicyJob` stages the result of a seed."""
        return self.path(fold, f"policy-{_file_name(cell)}-{contestant.replace(' ', '_')}-{seed}")

    def path(self, fold: int, name: str) -> Path:
        """A file of a fold."""
        return self.folder / f"fold-{self.folds[fold].name}" / f"{name}.json"


class Workshop:
    """Does jobs over one market: keeps what consecutive jobs share, and stages what they bring.

    Parameters
    ----------
    market
        The candles.
    plan
        What is to be done.
    """

    def __init__(self, market: Market, plan: Plan) -> None:
        self.market, self.plan = market, plan
        self._held: tuple[tuple[int, int], Material] | None = None

    @cached_property
    def minutes(self) -> Minutes:
        """Features and outcomes of all folds' spans."""
        folds = self.plan.folds
        return Minutes(self.market, min(fold.start for fold in folds), max(fold.test_end for fold in folds))

    def do(self, job: Job) -> None:
        """Do a job; nothing where it is staged already."""
        if isinstance(job, PrepareJob):
            self.prepared(job.fold, job.interval_minutes)
        elif isinstance(job, FixedJob):
            self.fixed(job.fold, job.cell)
        else:
            for _ in self.policies(job.fold, job.cell, job.contestant):
                pass

    def prepared(self, fold: int, interval_minutes: int) -> Prepared:
        """Sizes, forecasts and, at the reference interval, sizing of a fold."""
        path = self.plan.prepared_path(fold, interval_minutes)
        held = read_staged(path, Prepared)
        if held is None:
            reference = self.plan.settings.reference
            held = prepared_of(
                self._material(fold, interval_minutes),
                reference if interval_minutes == reference.interval_minutes else None,
            )
            stage(path, held)
        return held

    def fixed(self, fold: int, cell: Cell) -> list[Track]:
        """Track records of agents and rules."""
        path = self.plan.fixed_path(fold, cell)
        held = read_staged(path, list[Track])
        if held is None:
            held = fixed_contestants(
                self._material(fold, cell.interval_minutes), cell, forecasts=cell == self.plan.settings.reference
            )
            stage(path, held)
        return held

    def policies(self, fold: int, cell: Cell, contestant: str) -> Iterator[Track]:
        """Track records of a learned contestant, each staged as soon as it is there."""
        paths = {seed: self.plan.policy_path(fold, cell, contestant, seed) for seed in self.plan.settings.seeds}
        held = {seed: read_staged(path, Track) for seed, path in paths.items()}
        if all(track is not None for track in held.values()):
            yield from (track for track in held.values() if track is not None)
            return
        # torch is imported by those who train alone.
        from agents.evaluation.learned import policies

        material = self._material(fold, cell.interval_minutes)
        for track, trained in policies(material, cell, contestant, held):
            if trained and track.seed is not None:
                stage(paths[track.seed], track)
            yield track

    def _material(self, fold: int, interval_minutes: int) -> Material:
        if self._held is None or self._held[0] != (fold, interval_minutes):
            self._held = None
            settings = self.plan.settings
            material = prepare(
                self.minutes,
                self.plan.folds[fold],
                self.encoder(fold),
                interval_minutes,
                settings,
                NeighbourCache(self.plan.folder / "neighbours"),
                reference=interval_minutes == settings.reference.interval_minutes,
            )
            self._held = (fold, interval_minutes), material
        return self._held[1]

    def encoder(self, fold: int) -> StateEncoder:
        """The encoder of a fold, fitted on its past; kept as a file."""
        path = self.plan.path(fold, "encoder")
        if path.exists():
            return StateEncoder.load(path)
        span = self.plan.folds[fold]
        encoder = fit_encoder(self.market, span.known_until, since=span.start, name="evaluation")
        _replace(path, encoder.to_json().encode())
        return encoder


def _file_name(cell: Cell) -> str:
    return f"{cell.interval_minutes}m-{cell.cost_bp:g}bp"


def _content(candles: Candles) -> dict[str, object]:
    """What tells one product's candles from others."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (candles.decision_ms, candles.close, candles.volume):
        digest.update(array.tobytes())
    return {"bars": len(candles.decision_ms), "digest": digest.hexdigest()}


def stage(path: Path, content: object) -> None:
    """Write a result as JSON, whole or not at all."""
    _replace(path, msgspec.json.encode(content))


def read_staged(path: Path, sort: type[Content]) -> Content | None:
    """A staged result; None where there is none. One that cannot be read is a damaged file, and is computed again."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=sort)
    except msgspec.DecodeError:
        path.unlink(missing_ok=True)
        return None


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
