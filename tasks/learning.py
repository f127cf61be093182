"""The settings of learning: the processes' settings laid over the defaults, as one value that tasks carry along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from memory.learning.quality import DEFAULT_SETTINGS as QUALITY_SETTINGS
from memory.learning.quality import QUALITY_VERSION
from memory.learning.settings import (
    CorrelationSettings,
    LearningSettings,
    LearningSettingsError,
    TransitionSettings,
    from_overrides,
    settings_hash,
)
from memory.settings import Settings
from memory.typed import json_as

OWN_SETTINGS: Mapping[str, str] = {"cost_bp": "COINSWARM_COST_BP", "market_reference": "COINSWARM_MARKET_REFERENCE"}
"""What has a variable of its own, beside COINSWARM_LEARNING."""


@dataclass(frozen=True, slots=True)
class Learning:
    """All settings that enter what is learned.

    Attributes
    ----------
    patterns
        Of summaries, fold and pruning.
    transitions, correlations
        Of what is named so.
    """

    patterns: LearningSettings = field(default_factory=LearningSettings)
    transitions: TransitionSettings = field(default_factory=TransitionSettings)
    correlations: CorrelationSettings = field(default_factory=CorrelationSettings)

    @property
    def patterns_hash(self) -> str:
        """Names the settings of clusters and their summaries."""
        # It loads scikit-learn, a second that a drain of every few minutes has no use for.
        from memory.learning.clustering import MarketStateClusterer

        return settings_hash(self.patterns, MarketStateClusterer().settings())

    @property
    def sequences_hash(self) -> str:
        """Names the settings of everything that is summarised beside the patterns."""
        return settings_hash(self.patterns, self.transitions, self.correlations, QUALITY_SETTINGS, QUALITY_VERSION)

    @property
    def digest(self) -> str:
        """Names all of them: the settings hash of a generation."""
        return settings_hash(self.patterns_hash, self.sequences_hash)

    def to_text(self) -> str:
        """As text that goes to another process."""
        return msgspec.json.encode(self, order="deterministic").decode()

    @classmethod
    def from_text(cls, text: str) -> Learning:
        """What `to_text` wrote."""
        return json_as(cls, text)


def learning_of(settings: Settings) -> Learning:
    """The settings of learning of a process: its setting `learning` names those that are not to have their defaults.

    Raises
    ------
    LearningSettingsError
        A name that does not exist, or has a variable of its own; a value of another type, or one that cannot work.
    """
    for name in sorted(settings.learning):
        own = OWN_SETTINGS.get(name.rpartition(".")[2])
        if own is not None:
            raise LearningSettingsError(
                f"COINSWARM_LEARNING sets {name}, which has a variable of its own.", remedy=f"Set {own} instead."
            )
    given: dict[str, Any] = {**settings.learning, "cost_bp": settings.cost_bp}
    if settings.market_reference is not None:
        given["market_reference"] = settings.market_reference
    return Learning(*from_overrides(given))
