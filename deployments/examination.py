"""What the parts of `coinswarm doctor` share: whom they examine, what was found so far, and how a look is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from deployments.reaching import Reached
from memory import Freshness
from memory.errors import CoinswarmError
from memory.ledger import RunRecord
from memory.settings import Settings
from memory.store.health import Check, fail


@dataclass(slots=True)
class Examination:
    """What was found so far, and what later checks need of it.

    Attributes
    ----------
    settings
        Whose memory is examined.
    reached
        Where its servers are.
    checks
        In the order in which they are shown.
    last_runs
        The latest run of each flow in the ledger, by flow; None where it could not be asked.
    experiences, live, highest_token, freshness
        What Redis holds, of which live, the highest fencing token that it has seen, and the newest knowledge; None
        where it could not be asked.
    """

    settings: Settings
    reached: Reached
    checks: list[Check] = field(default_factory=list)
    last_runs: Mapping[str, RunRecord] | None = None
    experiences: int | None = None
    live: int | None = None
    highest_token: int | None = None
    freshness: Freshness | None = None


Part = Callable[[Examination], list[Check]]
"""A part of the examination: some checks of one thing."""


def attempt(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """The checks of a function, or one that says why there are none."""
    try:
        return look()
    except CoinswarmError as error:
        return [fail(name, " ".join(error.message.split()), error.remedy)]
    except OSError as error:
        return [fail(name, f"{error.filename or ''}: {error.strerror or error}.", "Check the rights on it.")]


def hours(age: timedelta) -> str:
    """A span of time in hours."""
    return f"{age / timedelta(hours=1):,.1f} h"
