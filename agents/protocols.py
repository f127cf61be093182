"""What foreign code gives to be remembered: how its observations become state vectors."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from memory.records import Vector


@runtime_checkable
class ObservationEncoder(Protocol):
    """Makes states of an environment's observations; `agents.encoder.StateEncoder` does the same of market features.

    Attributes
    ----------
    id_
        Id under which its vectors are kept: vectors of different encoders are never compared. Whatever changes a
        vector must change the id.
    fitted_until_
        No data from this time on went into it, aware UTC: it is refused for questions as of an earlier time.
    """

    @property
    def id_(self) -> str: ...

    @property
    def fitted_until_(self) -> datetime: ...

    def encode(self, observation: Any) -> Vector:
        """The observation as a float32 vector of length 1, of one dimension for all observations."""
        ...

    def regime(self, observation: Any) -> str:
        """Regime of the observation: one of `memory.records.REGIMES`."""
        ...
