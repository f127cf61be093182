"""What a report shows of a window's archive: read without the vectors, but for those of a few states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memory.ledger import Archive, ArchiveReference, Ledger
from memory.records import from_ms
from memory.reporting import data as report
from memory.tables import StateTable
from memory.window import Window
from tasks.part_reading import VECTORS

CLOUD_STATES = 2500
"""States on the pattern map: enough to see the shape, few enough to draw."""
LONGEST_MINUTES = 5.0
"""Longest time between two states of a product that is no gap: what ends an episode."""


@dataclass(frozen=True, slots=True)
class LivedWindow:
    """What was lived through in a window, of one source.

    Attributes
    ----------
    reference
        Where it is archived.
    states
        All states, without vectors and features.
    agents
        Who lived through them.
    """

    reference: ArchiveReference
    states: StateTable
    agents: tuple[str, ...]


def read_lived(
    archive: Archive, ledger: Ledger, namespace: str, window: Window, encoder_id: str
) -> dict[str, LivedWindow]:
    """What was archived of a window, by source; empty where nothing was. About 100 bytes a state.

    Raises
    ------
    ArchiveError
        A file is missing or damaged.
    """
    found = {}
    for reference in ledger.windows.archives(namespace, window, encoder_id):
        with archive.opened_experiences(reference) as table:
            agents = tuple(table.meta["agents"])
        found[reference.source] = LivedWindow(reference, archive.states(reference, columns=()), agents)
    return found


def cloud_of(archive: Archive, lived: LivedWindow) -> report.StateCloud:
    """Some states, evenly spread over all, with their vectors: for a picture of where they lie."""
    rows = np.unique(np.linspace(0, len(lived.states) - 1, CLOUD_STATES).round().astype(np.int64))
    chosen = archive.states(lived.reference, columns=(VECTORS,), rows=rows)
    return report.StateCloud(vectors=chosen.vectors, regimes=tuple(chosen.regime_names))


def gaps_of(lived: Mapping[str, LivedWindow]) -> tuple[report.Gap, ...]:
    """Spans within the window without a state, longer than what ends an episode."""
    gaps = []
    for data in lived.values():
        states = data.states
        for code, product in enumerate(states.products):
            times = states.timestamp_ms[states.product == code]
            for at in np.flatnonzero(np.diff(times) > LONGEST_MINUTES * 60_000).tolist():
                gaps.append(
                    report.Gap(product_id=product, start=from_ms(int(times[at])), end=from_ms(int(times[at + 1])))
                )
    return tuple(sorted(gaps, key=lambda gap: (gap.start, gap.product_id)))


def prices_of(states: StateTable) -> tuple[report.PricePath, ...]:
    """Prices and regimes of each product over the window."""
    paths = []
    for code, product in enumerate(states.products):
        own = states.take(states.product == code)
        paths.append(
            report.PricePath(
                product_id=product, timestamp_ms=own.timestamp_ms, price=own.price, regimes=tuple(own.regime_names)
            )
        )
    return tuple(paths)
