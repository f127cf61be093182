"""What a training may be told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from agents.policy.extra import require_policy_extra
from flows.parameters import WindowParameters
from memory.records import IDENTIFIER_PATTERN


class Parameters(WindowParameters):
    """What to train on, for whom, and how. The window is the last day of the span."""

    days: int = Field(default=7, ge=1, le=366, description="Days of the span, the window being the last of them.")
    agent_id: str = Field(
        default="policy",
        pattern=f"^{IDENTIFIER_PATTERN.pattern}$",
        description="Agent that the policy is for; its strategy memory will point to it.",
    )
    source: Literal["live", "replay", "backtest"] | None = Field(
        default=None, description="Experiences to learn from; those of the source with the most where empty."
    )
    encoder: str | None = Field(
        default=None, description="Encoder of the experiences, by id; the namespace's current one where empty."
    )
    memory_use: Literal["none", "retrieve", "regularise", "both"] = Field(
        default="retrieve",
        description="retrieve: the policy looks at memories when it acts. regularise: memory steadies the learning "
        "only, as in MacroHFT. both, or none.",
    )
    counterfactual: bool = Field(
        default=True, description="Learn from what every action would have brought; off, from what agents did."
    )
    steps: int = Field(
        default=600,
        ge=1,
        le=10_000_000,
        description="Steps of the optimiser; many more than ten passes over the states learn their noise by heart.",
    )
    batch: int = Field(default=512, ge=1, le=65_536, description="Transitions a step.")
    learning_rate: float = Field(default=5e-4, gt=0, le=1, description="Learning rate of Adam.")
    max_states: int = Field(
        default=40_000, ge=1, description="Latest states that are learned from; all of the span are remembered."
    )
    held_out_hours: int = Field(
        default=24, ge=0, description="Last hours of the span that are shown, and not learned from."
    )
    publish: bool = Field(default=True, description="Share experiences of enough quality first.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where torch computes.")
    seed: int | None = Field(default=None, ge=0, description="Seed; COINSWARM_SEED where empty.")

    def span(self, end: datetime) -> tuple[datetime, datetime]:
        """Start and end of the span whose last window ends at a time."""
        return end - timedelta(days=self.days), end

    def check(self) -> None:
        """Raises WindowError as `window` does, and MissingExtraError where torch is not installed."""
        super().check()
        require_policy_extra()
