"""What the columns of a policy's inputs mean, and the constants that they are made with.

Arrays of one layout fit one network: a checkpoint holds the layout, and a policy refuses states and memories of another
encoder than the layout's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from memory.errors import EncoderError, InvalidRecordError
from memory.learning.evidence import ESTIMATE_HORIZONS
from memory.records import REGIMES, VECTOR_DIMENSION

if TYPE_CHECKING:
    from agents.encoder import StateEncoder

Floats = npt.NDArray[np.float64]

LAYOUT_VERSION = 1
"""Changes whenever the same states and memories would give other inputs."""
PROJECTED = 16
"""Dimensions that vectors are compressed to: enough to tell neighbourhoods apart at a sixteenth of the room."""
OWN_MEMORIES = SHARED_MEMORIES = 5
"""Memories looked at; ten in all, as many as a question brings by default."""
MIN_AGE_MINUTES = 240
"""Age of the youngest memory looked at: features look back this far, so a younger state is the present once more."""
SCORE_CLIP = 4.0
"""Standardised features, in robust standard deviations, as in the encoder."""
OUTCOME_CLIP = 8.0
"""Returns, rewards and costs, in trailing volatilities: a single crash must not decide."""
VOLATILITY_FLOOR = 1e-6
"""Least trailing volatility of a minute that is divided by, a fraction: a market that stands still has none."""
FALLBACK_VOLATILITY = 1e-3
"""Where an experience does not say how volatile its market was: a usual minute of the large coins."""

TOKEN_FIGURES: tuple[str, ...] = (
    "position_after",
    "position_before",
    "reward",
    "move",
    "move_known",
    "cost",
    "distance",
    "log_age",
    "own",
    "same_product",
    "same_regime",
    "has_next",
)
"""Figures of one retrieved memory, before its compressed state and what changed until the next state.

Exposures are shares of notional; reward, cost and the market's move over the next bar are in the memory's own trailing
volatilities, clipped; the move is known where the memory held a position. Distance is 1 - cosine, age is
log(1 + days), the rest is 0 or 1.
"""
KNOWLEDGE_NAMES: tuple[str, ...] = (
    *(f"base_return_{horizon}m" for horizon in ESTIMATE_HORIZONS),
    *(f"base_volatility_{horizon}m" for horizon in ESTIMATE_HORIZONS),
    *(f"next_{regime}" for regime in REGIMES),
    "log_duration",
    *(f"pattern_long_{horizon}m" for horizon in ESTIMATE_HORIZONS),
    *(f"pattern_short_{horizon}m" for horizon in ESTIMATE_HORIZONS),
    *(f"pattern_volatility_{horizon}m" for horizon in ESTIMATE_HORIZONS),
    "pattern_distance",
    "pattern_log_support",
)
"""What is known of the regime and of the pattern that the state is an occurrence of.

Base returns are in trailing volatilities of the horizon; volatility is the mean of log |return / trailing volatility|;
next regimes are probabilities; duration is log(1 + minutes). A pattern's means for long and short are net, shrunk, and
divided by the state's trailing volatility of the horizon; its volatility is in excess of the base rate.
"""
REGIME_COLUMNS = slice(0, 2 * len(ESTIMATE_HORIZONS) + len(REGIMES) + 1)
PATTERN_COLUMNS = slice(REGIME_COLUMNS.stop, len(KNOWLEDGE_NAMES))


_ARRAYS = ("center", "scale", "weight", "projection")


@dataclass(frozen=True, eq=False)
class InputLayout:
    """The layout of a policy's inputs.

    Attributes
    ----------
    encoder_id
        Encoder of the vectors; states and memories of another are refused.
    feature_names
        Raw features that enter, in order.
    center, scale, weight
        Of each feature: standardised is weight * (value - center) / scale, shape (n_features,). A weight of 0 takes a
        feature out.
    projection
        Fixed orthonormal columns that vectors are compressed by, shape (256, projected).
    own, shared
        Memories looked at: the agent's own, and those that others have shared.
    min_age_minutes
        Age of the youngest memory looked at.
    cost_bp, half_spread
        Costs of trading that the state is told, as in `agents.experiences.Costs`.
    """

    encoder_id: str
    feature_names: tuple[str, ...]
    center: Floats
    scale: Floats
    weight: Floats
    projection: Floats
    own: int = OWN_MEMORIES
    shared: int = SHARED_MEMORIES
    min_age_minutes: int = MIN_AGE_MINUTES
    cost_bp: float = 2.0
    half_spread: bool = True

    @classmethod
    def of_encoder(
        cls,
        encoder: StateEncoder,
        *,
        projected: int = PROJECTED,
        own: int = OWN_MEMORIES,
        shared: int = SHARED_MEMORIES,
        min_age_minutes: int = MIN_AGE_MINUTES,
        cost_bp: float = 2.0,
        half_spread: bool = True,
        random_state: int = 0,
    ) -> InputLayout:
        """The layout over a fitted encoder: its statistics, and a projection drawn by a seed.

        A random orthonormal projection keeps distances in the mean (W. Johnson and J. Lindenstrauss, 1984) and learns
        nothing, so that it cannot leak.
        """
        generator = np.random.Generator(np.random.PCG64(random_state))
        columns, _ = np.linalg.qr(generator.standard_normal((VECTOR_DIMENSION, projected)))
        # Six decimals take away what LAPACK implementations differ by.
        projection = np.round(columns * np.sqrt(VECTOR_DIMENSION / projected), 6)
        return cls(
            encoder_id=encoder.id_,
            feature_names=tuple(encoder.feature_names_),
            center=encoder.center_,
            scale=encoder.scale_,
            weight=(encoder.weight_ > 0).astype(np.float64),
            projection=projection,
            own=own,
            shared=shared,
            min_age_minutes=min_age_minutes,
            cost_bp=cost_bp,
            half_spread=half_spread,
        )

    @property
    def projected(self) -> int:
        """Dimensions of a compressed vector."""
        return int(self.projection.shape[1])

    @property
    def memories(self) -> int:
        """Tokens a state, own and shared."""
        return self.own + self.shared

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """Columns of the state: features, the regime, costs against volatility, the compressed vector."""
        compressed = tuple(f"vector_{number}" for number in range(self.projected))
        return (*self.feature_names, *REGIMES, "log_cost", *compressed)

    @cached_property
    def token_names(self) -> tuple[str, ...]:
        """Columns of a token."""
        numbers = range(self.projected)
        return (
            *TOKEN_FIGURES,
            *(f"state_{number}" for number in numbers),
            *(f"change_{number}" for number in numbers),
        )

    @property
    def shape(self) -> dict[str, int]:
        """Sizes that a network must have to fit."""
        return {
            "state": len(self.state_names),
            "token": len(self.token_names),
            "knowledge": len(KNOWLEDGE_NAMES),
        }

    def check_encoder(self, encoder_id: str | None) -> None:
        """EncoderError where vectors are of another encoder than the layout's."""
        if encoder_id != self.encoder_id:
            raise EncoderError(
                f"the policy was made for encoder {self.encoder_id}, and the memory answers in {encoder_id}.",
                remedy="Connect with encoder_id= of the policy's encoder, or train a policy for the memory's.",
            )

    def compress(self, vectors: npt.NDArray[Any]) -> Floats:
        """Compressed vectors, float64 of shape (..., projected)."""
        return np.asarray(vectors, dtype=np.float64) @ self.projection

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, JSON-ready."""
        return {
            "version": LAYOUT_VERSION,
            "encoder_id": self.encoder_id,
            "feature_names": list(self.feature_names),
            "own": self.own,
            "shared": self.shared,
            "min_age_minutes": self.min_age_minutes,
            "cost_bp": self.cost_bp,
            "half_spread": self.half_spread,
        }

    def arrays(self) -> dict[str, Floats]:
        """The arrays, by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_parts(cls, data: Mapping[str, Any], arrays: Mapping[str, Floats]) -> InputLayout:
        """The layout of `to_dict` and `arrays`; InvalidRecordError where it is of another version."""
        if data.get("version") != LAYOUT_VERSION:
            raise InvalidRecordError(
                f"the inputs are laid out by version {data.get('version')!r}, and this software by {LAYOUT_VERSION}.",
                remedy="Train the policy again, or use the software version that trained it.",
                field="version",
            )
        return cls(
            encoder_id=data["encoder_id"],
            feature_names=tuple(data["feature_names"]),
            own=int(data["own"]),
            shared=int(data["shared"]),
            min_age_minutes=int(data["min_age_minutes"]),
            cost_bp=float(data["cost_bp"]),
            half_spread=bool(data["half_spread"]),
            **{
                name: np.asarray(arrays[name], dtype=np.float64) for name in ("center", "scale", "weight", "projection")
            },
        )
