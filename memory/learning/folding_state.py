"""A state in the making: the steps of the fold, each of which changes it and writes down what it decided.

What a step changes is marked as touched, and gets new figures; all else stays the same object, and is not written
again. Loops run over sorted names, so that nothing depends on the order in which patterns came to be known.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from memory.learning import lineage
from memory.learning.conditions import ConditionRange, condition_ranges
from memory.learning.figures import Changed, read_figures
from memory.learning.knowledge import FADED, Checkpoint, FoldState, PartitionBase, PatternState
from memory.learning.lineage import LineageEvent, known_threshold, of_match
from memory.learning.matching import HomeClusters, HomeMatching, Match, drifted_pairs, match_home
from memory.learning.patterns import bases_of, confirm, found, joined, recurs, status_at, unseen_windows
from memory.learning.predictions import PredictionGain, PredictionRecord
from memory.learning.settings import LearningSettings
from memory.learning.summaries import ClusterSummary, PartitionSummary
from memory.tables import TRAILING_VOLATILITY

_NO_CONDITIONS = frozenset({TRAILING_VOLATILITY})
"""Features that are the scale of others and mean nothing across products and months."""


class FoldingState:
    """What is known while one window is folded.

    Parameters
    ----------
    state
        Knowledge before the window; left as it is.
    end_ms
        End of the window.
    settings
        Settings of the fold.

    Attributes
    ----------
    end_ms
        End of the window, from which ages count.
    events
        What was decided so far, in order.
    """

    def __init__(self, state: FoldState, end_ms: int, settings: LearningSettings) -> None:
        self.end_ms = end_ms
        self.events: list[LineageEvent] = []
        self._settings = settings
        self._patterns = dict(state.patterns)
        self._bases = dict(state.bases)
        self._records = dict(state.records)
        self._aliases = dict(state.aliases)
        self._touched: set[str] = set()
        self._by_home: dict[str, list[str]] = {}
        for key in sorted(self._patterns):
            self._by_home.setdefault(self._patterns[key].partition, []).append(key)

    def state(self, checkpoint: Checkpoint | None = None) -> FoldState:
        """The state as it is now."""
        return FoldState(dict(self._patterns), dict(self._bases), dict(self._records), dict(self._aliases), checkpoint)

    def add_bases(self, summary: PartitionSummary) -> None:
        """Merge a window's base rates."""
        for base in bases_of(summary):
            known: PartitionBase | None = self._bases.get(base.partition)
            self._bases[base.partition] = base if known is None else known.merged_with(base)

    def add_gains(self, gains: Sequence[PredictionGain]) -> None:
        """Add what the window showed about predictions; patterns that are gone meanwhile lead to their successors."""
        for gain in sorted(gains, key=lambda gain: gain.pattern_id):
            name = self._aliases.get(gain.pattern_id, gain.pattern_id)
            if name in self._patterns:
                self._records[name] = self._records.get(name, PredictionRecord()).with_gain(gain)

    def match(self, seen: HomeClusters) -> HomeMatching:
        """Confirm what was seen again, and found what was not."""
        names = list(self._by_home.get(seen.home, []))
        places = np.stack([self._patterns[name].place for name in names]) if names else np.zeros((0, 0))
        matching = match_home(seen, names, places, self._settings)
        matched = {(match.partition, match.label): match for match in matching.matches}
        lost = {(match.partition, match.label): match for match in matching.lost_clusters}
        taken = {match.pattern_id for match in matching.matches if match.confirmed}
        for summary, cluster in seen.clusters:
            place = summary.partition, cluster.label
            match = matched.get(place)
            if match is not None and match.confirmed:
                self._confirm(summary, cluster, match, matching.threshold)
            else:
                self._found(summary, cluster, match or lost.get(place), matching.threshold, taken)
        self._note_losses(seen, matching)
        return matching

    def _found(
        self,
        summary: PartitionSummary,
        cluster: ClusterSummary,
        match: Match | None,
        threshold: float,
        taken: set[str],
    ) -> None:
        """A pattern of a cluster that is none of the known ones; `match` is the one nearest to it, where one is."""
        whole = match.pattern_id if match is not None and match.confirmed and match.pattern_id in taken else None
        pattern = found(summary, cluster, split_from=whole)
        name = pattern.pattern_id
        self._patterns[name] = pattern
        self._touched.add(name)
        self._by_home.setdefault(pattern.partition, []).append(name)
        if match is None:
            self.events.append(
                LineageEvent(
                    kind=lineage.FOUNDED,
                    pattern_id=name,
                    partition=summary.partition,
                    label=cluster.label,
                    cluster_id=cluster.founding_id,
                    states=cluster.states,
                )
            )
            return
        self.events.append(of_match(lineage.FOUNDED, name, cluster, match, threshold, other_id=match.pattern_id))
        if whole is not None:
            self.events.append(of_match(lineage.SPLIT, name, cluster, match, threshold, other_id=whole))

    def _confirm(self, summary: PartitionSummary, cluster: ClusterSummary, match: Match, threshold: float) -> None:
        name = match.pattern_id
        known = self._patterns[name]
        self._patterns[name] = confirm(known, summary, cluster, match, threshold, self._settings)
        self._touched.add(name)
        self.events.append(of_match(lineage.CONFIRMED, name, cluster, match, threshold))
        if known.published and (known.pruned_ms is not None or known.status == FADED):
            self.events.append(of_match(lineage.RETURNED, name, cluster, match, threshold))

    def _note_losses(self, seen: HomeClusters, matching: HomeMatching) -> None:
        """Patterns whose nearest cluster was near enough to be them, but was another."""
        winners = {(match.partition, match.label): match.pattern_id for match in matching.matches if match.confirmed}
        clusters = {(summary.partition, cluster.label): cluster for summary, cluster in seen.clusters}
        for match in matching.lost_patterns:
            place = match.partition, match.label
            winner = winners.get(place)
            if winner is not None:
                self.events.append(
                    of_match(
                        lineage.LOST, match.pattern_id, clusters[place], match, matching.threshold, other_id=winner
                    )
                )

    def join_drifted(self, home: str, threshold: float) -> None:
        """Make one of two patterns that have come as near as a match; two that one window told apart stay two."""
        names = sorted(self._by_home.get(home, []))
        if len(names) < 2:
            return
        places = np.stack([self._patterns[name].place for name in names])
        moved = [position for position, name in enumerate(names) if name in self._touched]
        for low, high, cosine, rule in drifted_pairs(places, threshold, moved, self._settings):
            first, second = self._patterns[names[low]], self._patterns[names[high]]
            if first.windows & second.windows:
                continue
            one = joined(first, second, self._settings)
            name = one.pattern_id
            stays, gone = (first, second) if name == first.pattern_id else (second, first)
            self._replace(gone.pattern_id, one)
            self.events.append(
                LineageEvent(
                    kind=lineage.MERGED,
                    pattern_id=gone.pattern_id,
                    other_id=name,
                    cosine=cosine,
                    threshold=known_threshold(threshold),
                    rule=rule,
                )
            )
            # The one takes over what the other was.
            if one.published and not stays.published:
                self.events.append(LineageEvent(kind=lineage.PROMOTED, pattern_id=name, states=one.states))
            if one.live and stays.pruned_ms is not None:
                self.events.append(LineageEvent(kind=lineage.RETURNED, pattern_id=name, other_id=gone.pattern_id))

    def _replace(self, gone: str, one: PatternState) -> None:
        if gone in self._records:
            record = self._records.pop(gone)
            known = self._records.get(one.pattern_id)
            self._records[one.pattern_id] = record if known is None else known.merged_with(record)
        del self._patterns[gone]
        self._by_home[one.partition].remove(gone)
        self._patterns[one.pattern_id] = one
        self._touched.discard(gone)
        self._touched.add(one.pattern_id)
        for old in one.aliases:
            self._aliases[old] = one.pattern_id

    def promote_and_forget(self) -> None:
        """Publish candidates with enough occurrences; give up those not seen for long."""
        for name in sorted(self._patterns):
            pattern = self._patterns[name]
            if pattern.published:
                continue
            if name in self._touched:
                if recurs(pattern, self._settings):
                    self._patterns[name] = msgspec.structs.replace(pattern, published=True)
                    self.events.append(LineageEvent(kind=lineage.PROMOTED, pattern_id=name, states=pattern.states))
            elif unseen_windows(pattern, self.end_ms) > self._settings.candidate_windows:
                self._forget(name)

    def _forget(self, name: str) -> None:
        del self._patterns[name]
        self._records.pop(name, None)
        for old in [old for old, now in self._aliases.items() if now == name]:
            del self._aliases[old]
        self.events.append(LineageEvent(kind=lineage.FORGOTTEN, pattern_id=name))

    def update_status(self) -> None:
        """Let patterns fade, and demote those whose predictions fail; a demotion ends when they do so no more."""
        for name in sorted(self._patterns):
            pattern = self._patterns[name]
            if not pattern.live:
                continue
            status = status_at(pattern, self.end_ms, self._settings)
            demoted = name in self._records and self._records[name].fails()
            if (status, demoted) == (pattern.status, pattern.demoted):
                continue
            if status == FADED != pattern.status:
                self.events.append(LineageEvent(kind=lineage.FADED, pattern_id=name))
            if demoted != pattern.demoted:
                kind = lineage.DEMOTED if demoted else lineage.REINSTATED
                self.events.append(LineageEvent(kind=kind, pattern_id=name))
            self._patterns[name] = msgspec.structs.replace(pattern, status=status, demoted=demoted)
            self._touched.add(name)

    def read_figures(self, window: str) -> None:
        """Figures of the published patterns that changed, among all that stand."""
        names = sorted(name for name in self._touched if self._patterns[name].live)
        changed = set(names)
        others = [
            pattern.figures
            for name, pattern in sorted(self._patterns.items())
            if pattern.live and name not in changed and pattern.figures is not None
        ]
        patterns = [self._patterns[name] for name in names]
        figures = read_figures(
            window,
            [Changed(pattern.partition, pattern.outcomes, self._conditions(pattern)) for pattern in patterns],
            {home: base.outcomes for home, base in self._bases.items()},
            others,
            self._settings,
        )
        for name, pattern, read in zip(names, patterns, figures, strict=True):
            self._patterns[name] = msgspec.structs.replace(pattern, figures=read)

    def _conditions(self, pattern: PatternState) -> tuple[ConditionRange, ...]:
        base = self._bases[pattern.partition]
        return condition_ranges(
            pattern.features, base.features, base.correlation, self._settings, exclude=_NO_CONDITIONS
        )

    def prune(self, names: Sequence[str]) -> None:
        """Take patterns out of what is published; they stay known."""
        for name in names:
            self._patterns[name] = msgspec.structs.replace(self._patterns[name], pruned_ms=self.end_ms)
            self.events.append(LineageEvent(kind=lineage.PRUNED, pattern_id=name))
