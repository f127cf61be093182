"""What is known after some windows: the patterns and base rates that the fold carries from window to window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.learning import serial
from memory.learning.blocks import BlockSums
from memory.learning.figures import Figures
from memory.learning.predictions import PredictionRecord
from memory.learning.sketches import FeatureSketch
from memory.learning.statistics import Drawdown
from memory.learning.sums import OutcomeSums, RealisedSums
from memory.learning.support import Occurrences
from memory.tables import Floats

NEW, CONFIRMED, FADED = "new", "confirmed", "faded"


class Sighting(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One window in which a pattern was seen: its lineage, and what only merges in time order.

    A sighting never changes. It is kept as an item of its own, so that what a window adds to a checkpoint does not grow
    with the age of its patterns.

    Attributes
    ----------
    window, start_ms, end_ms
        Name and bounds of the window.
    partition, label, cluster_id, states
        The cluster that was the pattern: the partition that it was clustered in (its own regime's or MIXED), its label
        there, the id that it would have founded, its members.
    cosine, threshold, rule
        How near it was, what it had to exceed, and the rule by which the match counted (`matching.RULES`; the
        unmistakable ones need not exceed the threshold); NaN and "" where it founded the pattern.
    occurrences, drawdown
        Of that window alone.
    """

    window: str
    start_ms: int
    end_ms: int
    partition: str
    label: int
    cluster_id: str
    states: int
    cosine: float
    threshold: float
    rule: str
    occurrences: Occurrences
    drawdown: Drawdown


class Judged(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """How the best action, named on earlier windows, did in later ones: net returns at the reference horizon.

    Attributes
    ----------
    windows
        Later windows that it was judged on; those for which flat was best are not counted.
    sums
        Block sums of the net return of the action named, shape ().
    """

    windows: int
    sums: BlockSums

    def merged_with(self, other: Judged) -> Judged:
        """Both together."""
        return Judged(windows=self.windows + other.windows, sums=self.sums.merged_with(other.sums))


NOT_JUDGED = Judged(windows=0, sums=BlockSums.empty(()))


class PatternState(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A pattern, or a candidate for one.

    Attributes
    ----------
    pattern_id
        Hash of home key, founding window and founding members.
    partition, encoder_id, source, regime
        Home key and its parts (`partitions.home_of`): what its founding cluster was at home in, and what clusters it is
        compared with ever after. The partitions that they were clustered in are in the sightings.
    place
        float64 (dimension,): where the pattern is now: mean direction of its sightings, later ones counting more, so
        that slow drift is followed. What clusters are matched with, and what is published.
    vector_sum, states
        Sum of all member vectors, and their number.
    products, outcomes, features, cosine_distance, realised
        Merged from its clusters (`summaries.ClusterSummary`).
    support, drawdown
        Occurrences, and running sums of net block returns (H, 2), long and short, over all sightings in time order; an
        occurrence that crosses midnight is one.
    largest_run
        States that its largest occurrence within one window holds.
    sightings
        In time order, one a window.
    broad
        Whether the latest cluster was kept although above the cap.
    published
        False for a candidate, which has too few occurrences yet.
    status
        new (seen in one window), confirmed (in more), faded (not of late).
    pruned_ms
        End of the window that pruned it; None while it stands. A pruned pattern is not published, but a cluster that
        matches it brings it back with its past.
    demoted
        Whether its predictions fail.
    judged
        Its best action, out of sample.
    figures
        Read off when it last changed; None for a candidate.
    aliases
        Ids of patterns that became one with it.
    split_from
        Id of the pattern that its founding cluster was near enough to be, but which another cluster was nearer to; None
        where there was none.
    """

    pattern_id: str
    partition: str
    encoder_id: str
    source: str
    regime: str
    place: npt.NDArray[np.float64]
    vector_sum: npt.NDArray[np.float64]
    states: int
    products: dict[str, int]
    outcomes: OutcomeSums
    features: FeatureSketch
    cosine_distance: FeatureSketch
    realised: dict[str, RealisedSums]
    support: Occurrences
    drawdown: Drawdown
    largest_run: int
    sightings: tuple[Sighting, ...]
    broad: bool
    published: bool = False
    status: str = NEW
    pruned_ms: int | None = None
    demoted: bool = False
    judged: Judged = NOT_JUDGED
    figures: Figures | None = None
    aliases: tuple[str, ...] = ()
    split_from: str | None = None

    @property
    def live(self) -> bool:
        """Whether it is a pattern that stands: published and not pruned."""
        return self.published and self.pruned_ms is None

    @property
    def founded_ms(self) -> int:
        """End of the window of its first sighting."""
        return self.sightings[0].end_ms

    @property
    def last_window_ms(self) -> int:
        """End of the window of its latest sighting."""
        return self.sightings[-1].end_ms

    @property
    def windows(self) -> frozenset[str]:
        """Names of the windows that it was seen in."""
        return frozenset(sighting.window for sighting in self.sightings)


class PartitionBase(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Base rate of a home over all windows so far.

    That of a regime is over all its states, on nights with a partition of its own and on nights when it was pooled;
    that of MIXED is over all pooled states.

    Attributes
    ----------
    partition
        Home key.
    windows, states
        Windows that had such states, and their number, distinct ones.
    outcomes, features
        Merged from its summaries.
    correlation
        Rank correlations of the features, averaged over windows by states, in order of `features.features`; None where
        windows named different features.
    """

    partition: str
    windows: int
    states: int
    outcomes: OutcomeSums
    features: FeatureSketch
    correlation: npt.NDArray[np.float64] | None

    def merged_with(self, later: PartitionBase) -> PartitionBase:
        """Base rate of both spans of windows."""
        correlation = None
        states = self.states + later.states
        same = self.features.features == later.features.features and states > 0
        if same and self.correlation is not None and later.correlation is not None:
            correlation = (self.states * self.correlation + later.states * later.correlation) / states
        return PartitionBase(
            partition=self.partition,
            windows=self.windows + later.windows,
            states=states,
            outcomes=self.outcomes.merged_with(later.outcomes),
            features=self.features.merged_with(later.features),
            correlation=correlation,
        )


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the fold stands.

    Attributes
    ----------
    window, end_ms
        The window folded last.
    algorithm_version, settings_hash
        What all summaries so far were computed with.
    thresholds
        Cosine that a match had to exceed in that window, by home key.
    """

    window: str
    end_ms: int
    algorithm_version: str
    settings_hash: str
    thresholds: dict[str, float]


_PATTERN, _SIGHTING, _BASE, _RECORD, _ALIAS = "pattern:", "sighting:", "base:", "record:", "alias:"
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class FoldState:
    """All that the fold of the patterns carries from one window to the next; empty before the first.

    Attributes
    ----------
    patterns
        Patterns and candidates by id, the pruned ones included.
    bases
        Base rates by home key.
    records
        How the predictions of patterns turned out, by id: apart, because they change more often than patterns.
    aliases
        Old id -> id of the pattern that it leads to now.
    checkpoint
        None before the first window.
    """

    patterns: Mapping[str, PatternState] = field(default_factory=dict)
    bases: Mapping[str, PartitionBase] = field(default_factory=dict)
    records: Mapping[str, PredictionRecord] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None

    def items(self) -> dict[str, bytes]:
        """The state as named items, in sorted order: what a full checkpoint holds.

        A pattern and each of its sightings are items of their own.
        """
        return {key: _encoded(content) for key, content in sorted(self._contents().items())}

    @classmethod
    def from_items(cls, items: Mapping[str, bytes]) -> FoldState:
        """The state that `items` wrote (or that a chain of changes to it amounts to).

        Raises
        ------
        InvalidRecordError
            For an item of an unknown kind, bytes that cannot be read, or a pattern and sightings that do not belong
            together.
        """
        patterns: dict[str, PatternState] = {}
        sightings: dict[str, list[Sighting]] = {}
        bases: dict[str, PartitionBase] = {}
        records: dict[str, PredictionRecord] = {}
        aliases: dict[str, str] = {}
        checkpoint = None
        for key, data in sorted(items.items()):
            kind, _, name = key.partition(":")
            if key == _CHECKPOINT:
                checkpoint = serial.decode(data, Checkpoint)
            elif f"{kind}:" == _PATTERN:
                patterns[name] = serial.decode(data, PatternState)
            elif f"{kind}:" == _SIGHTING:
                sightings.setdefault(name.rpartition(":")[0], []).append(serial.decode(data, Sighting))
            elif f"{kind}:" == _BASE:
                bases[name] = serial.decode(data, PartitionBase)
            elif f"{kind}:" == _RECORD:
                records[name] = serial.decode(data, PredictionRecord)
            elif f"{kind}:" == _ALIAS:
                aliases[name] = serial.decode(data, str)
            else:
                raise InvalidRecordError(
                    f"a checkpoint holds an item {key!r} of an unknown kind.",
                    remedy="It was written by a newer version: upgrade, or fold the line again from its summaries.",
                    field="items",
                )
        if set(patterns) != set(sightings):
            astray = min(set(patterns) ^ set(sightings))
            raise InvalidRecordError(
                f"a checkpoint holds {'no sighting of' if astray in patterns else 'sightings of no pattern'} {astray}.",
                remedy="Items are missing: fold the line again from its summaries.",
                field="items",
            )
        for name, pattern in patterns.items():
            seen = tuple(sorted(sightings[name], key=lambda sighting: sighting.end_ms))
            patterns[name] = msgspec.structs.replace(pattern, sightings=seen)
        return cls(patterns, bases, records, aliases, checkpoint)

    def changes_from(self, before: FoldState) -> StateChanges:
        """What to write and what to delete, to come from `before` to this state: what a delta checkpoint holds.

        Objects that the fold did not touch are the same objects, and are not even encoded.
        """
        old, new = before._contents(other=self), self._contents(other=before)
        changed = {
            key: _encoded(content)
            for key, content in sorted(new.items())
            if key not in old or (old[key] is not content and old[key] != content)
        }
        return StateChanges(changed, tuple(sorted(key for key in old if key not in new)))

    def live_patterns(self) -> Iterable[PatternState]:
        """Published patterns that stand, in order of ids."""
        return (self.patterns[key] for key in sorted(self.patterns) if self.patterns[key].live)

    def _contents(self, other: FoldState | None = None) -> dict[str, object]:
        """What the items hold, by key; without patterns, bases and the like that are the same objects in `other`."""
        apart = FoldState() if other is None else other
        contents: dict[str, object] = {}
        for name, pattern in self.patterns.items():
            if apart.patterns.get(name) is not pattern:
                contents[f"{_PATTERN}{name}"] = pattern
                # By start, not by name: names are for people.
                contents |= {f"{_SIGHTING}{name}:{seen.start_ms}": seen for seen in pattern.sightings}
        contents |= {f"{_BASE}{key}": base for key, base in self.bases.items() if apart.bases.get(key) is not base}
        contents |= {
            f"{_RECORD}{key}": record for key, record in self.records.items() if apart.records.get(key) is not record
        }
        contents |= {f"{_ALIAS}{key}": name for key, name in self.aliases.items() if apart.aliases.get(key) != name}
        if self.checkpoint is not None and apart.checkpoint is not self.checkpoint:
            contents[_CHECKPOINT] = self.checkpoint
        return contents


@dataclass(frozen=True, slots=True)
class StateChanges:
    """Difference between two states: items to write, keys to delete."""

    changed: dict[str, bytes]
    removed: tuple[str, ...]


def _encoded(content: object) -> bytes:
    """Bytes of an item; a pattern's sightings are items of their own."""
    if isinstance(content, PatternState):
        content = msgspec.structs.replace(content, sightings=())
    return serial.encode(content)


def unit(vector: Floats) -> Floats:
    """The vector at length 1."""
    scaled: Floats = vector / np.linalg.norm(vector)
    return scaled
