"""What an evaluation compares: cells of cost and decision interval, contestants, seeds, and the sizes that bound it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from memory.errors import InvalidQueryError

EVALUATION_VERSION = "1"
"""Changes whenever the same market and settings would bring other figures."""

WITH_MEMORY = "memory"
WITHOUT_MEMORY = "no memory"
PERMUTED = "permuted memory"
WITH_ESTIMATES = "memory and estimates"
REGULARISED = "memory in training"
POLICIES = (WITH_MEMORY, WITHOUT_MEMORY, PERMUTED, WITH_ESTIMATES, REGULARISED)
"""One network in five uses: retrieved memories at hand; nothing retrieved; memories with the outcomes of other states
of the same product and regime; memories and the mean outcome of many more neighbours; and MacroHFT's own use, where
remembered values only steady training."""

BUY_AND_HOLD = "buy and hold"
RIDGE_RULE = "ridge rule"
NEIGHBOURS_RULE = "neighbours rule"
RIDGE_AND_MEMORY_RULE = "ridge with memory rule"

TRAILING = "trailing volatility"
MEMORY_FORECAST = "memory"
PERMUTED_FORECAST = "permuted memory"
RIDGE_FORECAST = "ridge"
RIDGE_AND_MEMORY = "ridge with memory"
BASE_FORECAST = "regime's base rate"
FORECASTERS = (MEMORY_FORECAST, PERMUTED_FORECAST, RIDGE_FORECAST, RIDGE_AND_MEMORY, BASE_FORECAST)

VARIANTS_EXPLORED = (
    "forecasts of 25, 100 and 400 neighbours",
    "a memory of 15,000, 30,000 and 60,000 states",
    "retrieval within the state's regime",
    "a memory that grows while it is tested",
    "ridge with the neighbours' outcomes as further features",
    "policies that are told the neighbours' mean outcomes",
)
"""What was looked at on training spans (April and May 2018) before the settings below were chosen."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of cost and decision interval.

    Attributes
    ----------
    interval_minutes
        Minutes from one decision to the next; decisions fall on multiples of it.
    cost_bp
        Fee a side on the traded notional, basis points.
    """

    interval_minutes: int
    cost_bp: float

    @property
    def name(self) -> str:
        """Such as "15 min, 2 bp"."""
        return f"{self.interval_minutes} min, {self.cost_bp:g} bp"


REFERENCE_CELL = Cell(15, 2.0)
FURTHER_CELLS = (Cell(15, 0.0), Cell(15, 5.0), Cell(5, 2.0), Cell(1, 2.0))
"""With the reference a cross through the grid of costs and intervals: each varied with the other one fixed."""
OTHER_CELLS = (Cell(5, 0.0), Cell(5, 5.0), Cell(1, 0.0), Cell(1, 5.0))
"""What completes the grid."""


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Sizes and rules of an evaluation; the same settings, market and software give the same figures.

    Attributes
    ----------
    cells
        Combinations evaluated; the first is the reference, on which all contestants meet.
    seeds
        Paired seeds: a seed draws the same first weights and batches for each use of memory.
    steps, batch
        Gradient steps of a training and transitions a step; the same for all.
    memory_states
        States that memory holds at most, an even choice of the past.
    training_states
        States that transitions begin in at most, an even choice; all have the same.
    neighbours
        Nearest remembered states that a forecast averages.
    policy_memories
        Retrieved memories that a policy looks at, of each sort (its own, and shared).
    same_regime
        Whether only memories of the state's regime are retrieved.
    embargo_minutes
        Time before a test span, and before each training day, of which memory holds nothing: as far as features reach.
    purge_minutes
        Longest horizon of an outcome: training states whose outcome would be known later are left out.
    least_memory_days
        Days of the market before the first training state, so that there is something to remember.
    permutation_seed
        Seed of the outcomes' permutation.
    resamples, block_days, resampling_seed
        Of the bootstrap: resamples, days of a block, seed.
    confidence
        Coverage of all intervals.
    ridge_penalty
        Added to the diagonal of the features' correlation matrix.
    validation_days
        Last days of the past, on which thresholds of rules are chosen and forecasts of risk are scaled.
    sizing_horizon_minutes, sizing_band
        Horizon of the volatility that exposure is sized by, and the change of exposure that is worth a trade.
    """

    cells: tuple[Cell, ...] = (REFERENCE_CELL, *FURTHER_CELLS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 800
    batch: int = 256
    memory_states: int = 30_000
    training_states: int = 40_000
    neighbours: int = 250
    policy_memories: int = 5
    same_regime: bool = False
    embargo_minutes: int = 240
    purge_minutes: int = 60
    least_memory_days: float = 14.0
    permutation_seed: int = 20_180_601
    resamples: int = 1_000
    block_days: int = 3
    resampling_seed: int = 7
    confidence: float = 0.95
    ridge_penalty: float = 0.01
    validation_days: int = 30
    sizing_horizon_minutes: int = 60
    sizing_band: float = 0.25
    explored: tuple[str, ...] = field(default=VARIANTS_EXPLORED)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "memory_states", "training_states", "neighbours", "validation_days"):
            if getattr(self, name) < 1:
                raise InvalidQueryError(
                    f"{name} is {getattr(self, name)}.", remedy="Give a number above 0.", argument=name
                )
        for name in ("cells", "seeds"):
            given = getattr(self, name)
            if not given or len(set(given)) != len(given):
                raise InvalidQueryError(
                    f"{name} are {given}.", remedy="Give at least one, and each of them once.", argument=name
                )
        for cell in self.cells:
            if cell.interval_minutes < 1 or 1440 % cell.interval_minutes or not 0 <= cell.cost_bp <= 1_000:
                raise InvalidQueryError(
                    f"cell {cell.name} cannot be evaluated.",
                    remedy="Give an interval that divides the day, and a cost of 0 to 1,000 basis points.",
                    argument="cells",
                )

    @property
    def reference(self) -> Cell:
        """The cell on which all contestants meet."""
        return self.cells[0]

    @property
    def intervals(self) -> tuple[int, ...]:
        """Decision intervals of the cells, in order of their first cell."""
        return tuple(dict.fromkeys(cell.interval_minutes for cell in self.cells))

    def policies(self, cell: Cell) -> tuple[str, ...]:
        """Learned contestants of a cell: all on the reference, with and without memory elsewhere."""
        return POLICIES if cell == self.reference else (WITH_MEMORY, WITHOUT_MEMORY)

    def trainings(self, folds: int) -> int:
        """Policies that are trained in all."""
        return folds * len(self.seeds) * sum(len(self.policies(cell)) for cell in self.cells)

    def key(self, content: Mapping[str, Any]) -> str:
        """Hash of all that a staged result depends on; cells and seeds are in its name, and intervals come later."""
        own = {name: value for name, value in asdict(self).items() if name not in _NOT_STAGED}
        own |= {"version": EVALUATION_VERSION, "reference": asdict(self.reference)}
        text = json.dumps({**own, **content}, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


_NOT_STAGED = frozenset({"cells", "seeds", "resamples", "block_days", "resampling_seed", "confidence", "explored"})


def default_settings(*, whole_grid: bool = False) -> EvaluationSettings:
    """Settings of the default report; with the whole grid, four more cells (twice the time)."""
    settings = EvaluationSettings()
    return replace(settings, cells=(*settings.cells, *OTHER_CELLS)) if whole_grid else settings


def sample_settings() -> EvaluationSettings:
    """Settings for a market of weeks: fewer cells, shorter trainings. Too little to conclude from."""
    return EvaluationSettings(
        cells=(REFERENCE_CELL, Cell(15, 0.0)),
        steps=200,
        memory_states=10_000,
        training_states=10_000,
        least_memory_days=3.0,
        validation_days=3,
    )


def short_settings() -> EvaluationSettings:
    """Settings of the short version: every contestant once, on little, in seconds. Too little to conclude from."""
    return EvaluationSettings(
        cells=(REFERENCE_CELL, Cell(15, 0.0)),
        seeds=(0, 1),
        steps=30,
        batch=64,
        memory_states=1_500,
        training_states=1_500,
        neighbours=50,
        least_memory_days=1.0,
        resamples=200,
        block_days=1,
        validation_days=1,
    )
