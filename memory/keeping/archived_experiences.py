"""Experiences out of the archive: those that Redis has let go of, as far as the archive keeps them.

The archive keeps what learning reads: state, features, price, action, reward and times. It keeps no next state, no
cumulative return, no ids of patterns, and nothing of what others did: those are left out. The market's phase follows
from the time; features and price are those of the record that speaks for its state (`memory.ledger.archive_merge`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from memory.backup.seen import Seen
from memory.errors import ArchiveError, ArchiveUnavailableError
from memory.keeping.selection import Selection
from memory.ledger import Archive, ArchiveReference, Ledger
from memory.ledger.archive import ArchivedTable
from memory.records import REGIMES, Action, EpisodicMemory, Side, experience_id, from_ms, market_phase, to_ms
from memory.tables import ExperienceTable, StateTable
from memory.window import Window

_SIDES = {1: Side.BUY, -1: Side.SELL, 0: Side.HOLD}
Rows = npt.NDArray[np.intp]


@dataclass(slots=True)
class ArchivedExperiences:
    """Reads what is archived of a selection, window by window.

    Attributes
    ----------
    missing
        Windows whose archive is gone or damaged, as far as it has read, each with its source: what is only there is not
        to be had.
    elsewhere
        Other encoders, by id, with how many windows are archived in their vectors and not in those that are wanted.
    """

    ledger: Ledger
    archive: Archive
    namespace: str
    missing: list[str] = field(default_factory=list)
    elsewhere: dict[str, int] = field(default_factory=dict)

    def encoders(self) -> set[str]:
        """Encoders in whose vectors a window is archived."""
        return {span.encoder_id for span in self.ledger.windows.spans(self.namespace)}

    def pieces(self, selection: Selection, encoder_id: str, seen: Seen) -> Iterator[list[EpisodicMemory]]:
        """The experiences selected whose ids are not among those seen, which they join; by product and window.

        Raises
        ------
        ArchiveUnavailableError
            The archive cannot be reached.

        Cost: reads the files of all windows in the span, 40 microseconds a row that is selected. Memory: one window of
        one product.
        """
        for reference in self._references(selection, encoder_id):
            try:
                with self.archive.opened_experiences(reference) as lived, self.archive.opened_states(reference) as met:
                    yield from _of_window(lived, met, selection, seen)
            except ArchiveUnavailableError:
                raise
            except ArchiveError:
                self.missing.append(f"{reference.window.name} ({reference.source})")

    def _references(self, selection: Selection, encoder_id: str) -> Iterator[ArchiveReference]:
        encoders: dict[Window, list[str]] = {}
        for span in self.ledger.windows.spans(self.namespace):
            begins_late = selection.until is not None and span.window.start >= selection.until
            ends_early = selection.since is not None and span.window.end <= selection.since
            if not (begins_late or ends_early):
                encoders.setdefault(span.window, []).append(span.encoder_id)
        for window, held in sorted(encoders.items()):
            if encoder_id in held:
                yield from self.ledger.windows.archives(self.namespace, window, encoder_id)
            else:
                for other in held:
                    self.elsewhere[other] = self.elsewhere.get(other, 0) + 1


def _of_window(
    lived: ArchivedTable, met: ArchivedTable, selection: Selection, seen: Seen
) -> Iterator[list[EpisodicMemory]]:
    for product in lived.meta["products"]:
        if selection.product_id not in (None, product):
            continue
        table = lived.experiences(products=[product])
        table = table.take(_selected(table, selection))
        ids = [_id_of(table, row) for row in range(len(table))]
        fresh = set(seen.add([own.encode() for own in ids]))
        rows = [row for row, own in enumerate(ids) if own.encode() in fresh]
        if rows:
            states = met.states(products=[product])
            found = _in_states(table.take(np.array(rows, dtype=np.intp)), [ids[row] for row in rows], states)
            yield selection.known(found)


def _selected(table: ExperienceTable, selection: Selection) -> Rows:
    chosen = np.ones(len(table), dtype=np.bool_)
    if selection.agent_id is not None:
        names = np.array(table.agents)
        chosen &= (names == selection.agent_id)[table.agent] if len(names) else False
    for time, bound in ((selection.since, np.greater_equal), (selection.until, np.less)):
        if time is not None:
            chosen &= bound(table.timestamp_ms, _ms_up(time))
    if selection.as_of is not None:
        chosen &= table.known_at_ms <= to_ms(selection.as_of)
    return np.flatnonzero(chosen)


def _id_of(table: ExperienceTable, row: int) -> str:
    return experience_id(
        table.source,
        table.runs[table.run[row]],
        table.agents[table.agent[row]],
        table.products[table.product[row]],
        from_ms(int(table.timestamp_ms[row])),
        int(table.step[row]),
    )


def _in_states(table: ExperienceTable, ids: list[str], states: StateTable) -> list[EpisodicMemory]:
    """Experiences of one product, with the states that they were lived through in."""
    place = np.searchsorted(states.timestamp_ms, table.timestamp_ms)
    if not np.isin(table.timestamp_ms, states.timestamp_ms).all():
        raise ArchiveError(
            f"archived experiences of {table.products} lack their states.", remedy="Restore the archive from a backup."
        )
    found = []
    for row, state in enumerate(place.tolist()):
        timestamp = from_ms(int(table.timestamp_ms[row]))
        features = states.features[state]
        known = np.isfinite(features)
        names = states.feature_names if known.all() else np.array(states.feature_names)[known].tolist()
        found.append(
            EpisodicMemory(
                memory_id=ids[row],
                agent_id=table.agents[table.agent[row]],
                product_id=table.products[table.product[row]],
                timestamp=timestamp,
                market_phase=market_phase(timestamp),
                regime=REGIMES[table.regime[row]],
                state_vector=states.vectors[state],
                features=dict(zip(names, features[known].tolist(), strict=True)),
                price=_number(states.price[state]),
                spread=_number(states.spread[state]),
                action=Action(_SIDES[int(table.side[row])], float(table.size[row])),
                reward=float(table.reward[row]),
                gross_return=_number(table.gross_return[row]),
                cost=_number(table.cost[row]),
                position_before=_number(table.position_before[row]),
                position_after=_number(table.position_after[row]),
                confidence=float(table.confidence[row]),
                quality=_number(table.quality[row]),
                terminal=bool(table.terminal[row]),
                encoder_id=table.encoder_id,
                source=table.source,
                run_id=table.runs[table.run[row]],
                step=int(table.step[row]),
                known_at=from_ms(int(table.known_at_ms[row])),
                recorded_at=from_ms(int(table.recorded_at_ms[row])),
            )
        )
    return found


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _ms_up(time: datetime) -> int:
    """The first whole millisecond that is not before a time, as bounds of spans are taken everywhere."""
    return -(-(time - from_ms(0)) // timedelta(milliseconds=1))
