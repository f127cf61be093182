"""How regimes follow one another: per-step matrix, embedded jump chain, paths of two jumps, and how long spells last.

A *spell* is a run of states of one product in one regime without a gap. A window is condensed into counts that add up,
and into its open first and last spells, so that the fold joins them over midnight: merging the summaries of windows in
time order gives exactly what all their states at once would give.

A spell whose beginning is not known (the first of the data, or after a gap) tells which regime followed but not how
long it lasted; one that a gap or the end of the data cuts off is censored. `transition_matrices` turns the counts into
probabilities and median durations.
"""

from __future__ import annotations

import msgspec
import numpy as np

from memory.errors import InvalidRecordError
from memory.learning.settings import TransitionSettings as TransitionSettings
from memory.records import REGIMES
from memory.tables import Ints, StateTable

OPEN, GAP, UNKNOWN = -1, -2, -1
"""What follows a spell (nothing yet; a gap), and the regime before one where it is not known."""

REGIME_COUNT = len(REGIMES)


DEFAULT_SETTINGS = TransitionSettings()

Durations = tuple[tuple[int, int], ...]
"""Durations in milliseconds with their counts, sorted."""


class ProductTransitions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Transitions of one product over a span of time; K = len(REGIMES), codes index REGIMES.

    Attributes
    ----------
    product, first_ms, last_ms
        The product, and its first and last state.
    states
        int64 (K,): states in each regime.
    steps
        int64 (K, K): pairs of states one step apart, self-transitions included.
    jumps
        int64 (K, K): changes of regime, zero on the diagonal.
    paths
        int64 (K, K, K): pairs of successive changes: regime before, regime left, regime entered.
    ended, censored
        For each regime the durations of spells with a known beginning that ended in a change, or in a gap.
    head_regime, head_last_ms, head_next, head_end_ms
        First spell: its regime, last state, what followed (code, OPEN or GAP), and when (first state of the next).
    tail_regime, tail_first_ms, tail_before, tail_known
        Last spell: its regime, first state, the regime before it (or UNKNOWN), whether its beginning was seen.
    """

    product: str
    first_ms: int
    last_ms: int
    states: Ints
    steps: Ints
    jumps: Ints
    paths: Ints
    ended: tuple[Durations, ...]
    censored: tuple[Durations, ...]
    head_regime: int
    head_last_ms: int
    head_next: int
    head_end_ms: int
    tail_regime: int
    tail_first_ms: int
    tail_before: int
    tail_known: bool


class TransitionSummary(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Transitions of all products over one window, or, as the fold's state, over all windows so far."""

    step_ms: int
    gap_ms: int
    products: tuple[ProductTransitions, ...]


TransitionState = TransitionSummary


def summarise_transitions(states: StateTable, settings: TransitionSettings = DEFAULT_SETTINGS) -> TransitionSummary:
    """Condense the regimes of one window's states.

    Parameters
    ----------
    states
        Distinct states in canonical order (product, then time).
    settings
        Step and gap.

    Returns
    -------
    A summary; without states it has no products. Cost: O(n).

    Raises
    ------
    InvalidRecordError
        If the times of a product do not rise.
    """
    step_ms, gap_ms = round(settings.step_s * 1000), round(settings.gap_s * 1000)
    if not 0 < step_ms <= gap_ms:
        raise InvalidRecordError(
            f"step_s is {settings.step_s}, gap_s {settings.gap_s}.",
            remedy="Use a step above 0 and a gap that is no shorter.",
            field="step_s",
        )
    summaries = []
    for code, name in enumerate(states.products):
        rows = np.flatnonzero(states.product == code)
        if len(rows):
            summaries.append(_summarise(name, states.timestamp_ms[rows], states.regime[rows], step_ms, gap_ms))
    return TransitionSummary(step_ms=step_ms, gap_ms=gap_ms, products=tuple(sorted(summaries, key=_by_product)))


def fold_transitions(state: TransitionState | None, summary: TransitionSummary) -> TransitionState:
    """Add a window to what is known from the windows before it; pure.

    Parameters
    ----------
    state
        The state after the earlier windows; None before the first.
    summary
        The next window, in time order. Windows may be missing in between: a gap.

    Raises
    ------
    InvalidRecordError
        If the window does not come after the state, or counts other steps or gaps.
    """
    if state is None:
        return summary
    if (state.step_ms, state.gap_ms) != (summary.step_ms, summary.gap_ms):
        raise InvalidRecordError(
            f"steps of {summary.step_ms} ms and gaps of {summary.gap_ms} ms follow {state.step_ms} and {state.gap_ms}.",
            remedy="Summaries of different settings are never mixed: consolidate the windows again.",
            field="summary",
        )
    merged = {item.product: item for item in state.products}
    for later in summary.products:
        earlier = merged.get(later.product)
        merged[later.product] = later if earlier is None else _join(earlier, later, summary.step_ms, summary.gap_ms)
    return TransitionSummary(
        step_ms=summary.step_ms, gap_ms=summary.gap_ms, products=tuple(merged[name] for name in sorted(merged))
    )


def _summarise(product: str, times: Ints, regimes: Ints, step_ms: int, gap_ms: int) -> ProductTransitions:
    apart = np.diff(times)
    if np.any(apart <= 0):
        row = int(np.flatnonzero(apart <= 0)[0])
        raise InvalidRecordError(
            f"states of {product} do not rise in time after {int(times[row])} ms.",
            remedy="Collapse experiences to distinct states, sorted by product and time.",
            field="timestamp_ms",
        )
    broken = apart > gap_ms
    step = apart == step_ms
    begins = np.flatnonzero(np.concatenate([[True], broken | (regimes[1:] != regimes[:-1])]))
    ends = np.concatenate([begins[1:], [len(times)]]) - 1
    regime, first, last = regimes[begins], times[begins], times[ends]
    # Whether a spell follows the one before it without a gap, and is followed so.
    follows = np.concatenate([[False], ~broken[begins[1:] - 1]])
    followed = np.concatenate([follows[1:], [False]])
    before = np.concatenate([[UNKNOWN], regime[:-1]])
    after = np.concatenate([regime[1:], [OPEN]])
    end = np.concatenate([first[1:], [last[-1]]])
    inner = follows & followed
    cut = follows & ~followed
    cut[-1] = False
    final = len(begins) - 1
    return ProductTransitions(
        product=product,
        first_ms=int(times[0]),
        last_ms=int(times[-1]),
        states=np.bincount(regimes, minlength=REGIME_COUNT).astype(np.int64),
        steps=_count(regimes[:-1][step], regimes[1:][step]),
        jumps=_count(regime[followed], after[followed]),
        paths=_count(before[inner], regime[inner], after[inner]),
        ended=tuple(_durations((end - first)[inner & (regime == code)]) for code in range(REGIME_COUNT)),
        censored=tuple(_durations((last - first)[cut & (regime == code)]) for code in range(REGIME_COUNT)),
        head_regime=int(regime[0]),
        head_last_ms=int(last[0]),
        head_next=OPEN if final == 0 else int(after[0]) if followed[0] else GAP,
        head_end_ms=int(end[0]),
        tail_regime=int(regime[-1]),
        tail_first_ms=int(first[-1]),
        tail_before=int(before[-1]) if follows[-1] else UNKNOWN,
        tail_known=bool(follows[-1]),
    )


def _join(left: ProductTransitions, right: ProductTransitions, step_ms: int, gap_ms: int) -> ProductTransitions:
    apart = right.first_ms - left.last_ms
    if apart <= 0:
        raise InvalidRecordError(
            f"states of {right.product} from {right.first_ms} ms follow a state at {left.last_ms} ms.",
            remedy="Fold windows in time order, each once.",
            field="summary",
        )
    steps, jumps, paths = left.steps + right.steps, left.jumps + right.jumps, left.paths + right.paths
    ended, censored = DurationTally(left.ended, right.ended), DurationTally(left.censored, right.censored)
    if apart == step_ms:
        steps[left.tail_regime, right.head_regime] += 1

    unbroken = apart <= gap_ms
    continues = unbroken and left.tail_regime == right.head_regime
    changes = unbroken and not continues
    if not unbroken and left.tail_known:
        censored.add(left.tail_regime, left.last_ms - left.tail_first_ms)
    if changes:
        jumps[left.tail_regime, right.head_regime] += 1
        if left.tail_known:
            ended.add(left.tail_regime, right.first_ms - left.tail_first_ms)
            paths[left.tail_before, left.tail_regime, right.head_regime] += 1

    # The right side's first spell, now that what came before it is known.
    first_ms = left.tail_first_ms if continues else right.first_ms
    before = left.tail_before if continues else left.tail_regime if changes else UNKNOWN
    known = left.tail_known if continues else changes
    if known and right.head_next == GAP:
        censored.add(right.head_regime, right.head_last_ms - first_ms)
    elif known and right.head_next != OPEN:
        ended.add(right.head_regime, right.head_end_ms - first_ms)
        paths[before, right.head_regime, right.head_next] += 1

    # The first spell of the whole is the left one's, unless that one is still open.
    head = (left.head_regime, left.head_last_ms, left.head_next, left.head_end_ms)
    if left.head_next == OPEN:
        if continues:
            head = (left.head_regime, right.head_last_ms, right.head_next, right.head_end_ms)
        else:
            head = (left.head_regime, left.last_ms, right.head_regime if changes else GAP, right.first_ms)
    one_spell = right.head_next == OPEN
    return ProductTransitions(
        product=left.product,
        first_ms=left.first_ms,
        last_ms=right.last_ms,
        states=left.states + right.states,
        steps=steps,
        jumps=jumps,
        paths=paths,
        ended=ended.result(),
        censored=censored.result(),
        head_regime=head[0],
        head_last_ms=head[1],
        head_next=head[2],
        head_end_ms=head[3],
        tail_regime=right.tail_regime,
        tail_first_ms=first_ms if one_spell else right.tail_first_ms,
        tail_before=before if one_spell else right.tail_before,
        tail_known=known if one_spell else right.tail_known,
    )


class DurationTally:
    """Durations by regime, to be added to."""

    def __init__(self, *parts: tuple[Durations, ...]) -> None:
        self._counts: list[dict[int, int]] = [{} for _ in range(REGIME_COUNT)]
        for part in parts:
            for code, durations in enumerate(part):
                for duration, count in durations:
                    self.add(code, duration, count)

    def add(self, code: int, duration_ms: int, count: int = 1) -> None:
        counts = self._counts[code]
        counts[duration_ms] = counts.get(duration_ms, 0) + count

    def result(self) -> tuple[Durations, ...]:
        return tuple(tuple(sorted(counts.items())) for counts in self._counts)


def _by_product(item: ProductTransitions) -> str:
    return item.product


def _count(*codes: Ints) -> Ints:
    counts = np.zeros((REGIME_COUNT,) * len(codes), dtype=np.int64)
    np.add.at(counts, codes, 1)
    return counts


def _durations(values: Ints) -> Durations:
    durations, counts = np.unique(values, return_counts=True)
    return tuple(zip(durations.tolist(), counts.tolist(), strict=True))
