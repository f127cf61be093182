"""What an evaluation may be told."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from agents.policy.extra import require_policy_extra
from flows.parameters import NamespaceParameters
from memory.settings import Settings


class Parameters(NamespaceParameters):
    """What to evaluate on, and how much of it."""

    market: str | None = Field(
        default=None,
        description="Market as for record_experiences; where empty history:bitfinex if COINSWARM_HISTORY names a "
        "folder that holds it, else the sample market, which is too short to conclude from.",
    )
    products: list[str] | None = Field(default=None, description="Products; all of the market where empty.")
    short: bool = Field(
        default=False, description="Every contestant once, on some sample days, in seconds: shows that it works."
    )
    final: bool = Field(
        default=False,
        description="The held-out span, October to December 2018, which is looked at once: when nothing is left to be "
        "chosen. Each look is counted and shown.",
    )
    whole_grid: bool = Field(
        default=False, description="All nine cells of costs and intervals instead of five; twice the time."
    )
    folds: int = Field(default=4, ge=1, le=12, description="Test months, from June 2018 on; September is the last.")
    seeds: int = Field(default=5, ge=1, le=50, description="Paired seeds of each training.")
    steps: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Gradient steps of a training; as the settings say where empty."
    )
    workers: int | None = Field(
        default=None, ge=1, le=64, description="Processes; as many as processors, at most 8, where empty."
    )

    @model_validator(mode="after")
    def _only_one_span(self) -> Self:
        if self.short and self.final:
            raise ValueError("short and final name different spans; choose one")
        if not self.short and not self.final and self.folds > 4:
            raise ValueError("folds beyond September 2018 would look at the held-out span; give at most 4, or final")
        return self

    def check(self) -> None:
        """Trainings need torch; the error names the extra that brings it."""
        require_policy_extra()

    def check_inputs(self) -> None:
        """Raises MarketDataError as `tasks.markets.open_evaluated` does."""
        from tasks.markets import open_evaluated

        open_evaluated(Settings(), self.market, self.products, short=self.short, final=self.final)
