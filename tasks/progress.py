"""Steps announce themselves through one logger; whoever runs the flow may listen and show them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

STEPS_LOGGER = "coinswarm.steps"
logging.getLogger(STEPS_LOGGER).setLevel(logging.INFO)


def announce(text: str) -> None:
    """Tell whoever listens something that is no step."""
    logging.getLogger(STEPS_LOGGER).info("%s", text, extra={"finished": True})


def begin(text: str) -> None:
    """Tell whoever watches what is being done now; logs keep one such line in some seconds (`PassingFilter`)."""
    logging.getLogger(STEPS_LOGGER).info("%s", text, extra={"finished": False, "passing": True})


@dataclass(slots=True)
class Steps:
    """Names and seconds of the steps of one run, in order.

    Attributes
    ----------
    check
        Called before each step; what it raises ends the run there.
    under_way
        Name of the step that is being done, or in which the run ended; empty before the first and between two.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None
    under_way: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step and announce its start and end; what the block puts into the dict is shown at the end."""
        self.check()
        logger = logging.getLogger(STEPS_LOGGER)
        logger.info("%s", name, extra={"finished": False})
        shown: dict[str, Any] = {}
        begun = time.perf_counter()
        around, self.under_way = self.under_way, name
        yield shown
        self.under_way = around
        took = time.perf_counter() - begun
        self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 3)
        details = "".join(f", {key} {value}" for key, value in shown.items())
        logger.info("%s: %.1f s%s", name, took, details, extra={"finished": True})
