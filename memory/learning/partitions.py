"""Partitions: the parts of a window that are clustered each on its own.

A partition key is (encoder, source, regime). Regimes with too few states are pooled into one MIXED partition, because
very small partitions fragment: one true pattern comes out as several.

Which regimes are small changes from night to night. What is found in a partition is therefore compared over nights by
its *home*, the regime that nearly all of its states have, and not by the partition that it happened to be clustered in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memory.errors import InvalidRecordError
from memory.records import MIXED

MIN_PARTITION_STATES = 300
"""Fewer states than this are pooled: at 300, a cluster of the least size is about 3 % of its partition."""
HOME_SHARE = 0.9
"""Share of its states that gives a set its home: the few others of a pooled cluster lie at the edge of a regime, where
the label turns within a minute; a set with fewer is of no regime."""


def assign_partitions(regimes: npt.ArrayLike, *, min_states: int = MIN_PARTITION_STATES) -> npt.NDArray[np.str_]:
    """Partition of each distinct state of one window, one encoder and one source.

    Parameters
    ----------
    regimes
        (states,) regime labels of distinct states.
    min_states
        Regimes with fewer states are pooled into `MIXED`.

    Returns
    -------
    (states,) text: the state's own regime, or `MIXED`. MIXED may itself hold fewer than `min_states`; it is then
    clustered all the same, since adding it to a large regime would blur that regime's patterns. No state is left
    out. Depends on the counts alone, not on the order. Cost: O(n log n).
    """
    labels = np.asarray(regimes, dtype=np.str_)
    width = max(labels.dtype.itemsize // 4, len(MIXED))
    if not len(labels):
        return labels.astype(f"<U{width}")
    held, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    partition_of = partition_by_regime(dict(zip(held.tolist(), counts.tolist(), strict=True)), min_states=min_states)
    return np.array([partition_of[regime] for regime in held.tolist()], dtype=f"<U{width}")[inverse]


def partition_by_regime(counts: Mapping[str, int], *, min_states: int = MIN_PARTITION_STATES) -> dict[str, str]:
    """Partition of the states of each regime, by how many there are: what `assign_partitions` goes by.

    Parameters
    ----------
    counts
        Distinct states of each regime, of one window, one encoder and one source.
    min_states
        Regimes with fewer states are pooled into `MIXED`.
    """
    return {regime: regime if count >= min_states else MIXED for regime, count in counts.items()}


def home_of(regimes: Mapping[str, int]) -> str:
    """Home of a set of states: the regime of at least `HOME_SHARE` of them, or `MIXED`.

    A set clustered in the partition of one regime has that regime for its home. One of a pooled partition has it where
    that regime dominates it, and so stays the same thing on a night when the regime has a partition of its own.

    Parameters
    ----------
    regimes
        States of each regime; at least one state in all.

    Raises
    ------
    InvalidRecordError
        Where there is no state.
    """
    states = sum(regimes.values())
    if states <= 0:
        raise InvalidRecordError(
            f"{dict(regimes)} holds no state.", remedy="Give the regimes of a set of states.", field="regimes"
        )
    # More than half, so at most one regime qualifies.
    return next((regime for regime, held in regimes.items() if held >= HOME_SHARE * states), MIXED)


def partition_seed(*parts: str) -> int:
    """Seed of a partition's random choices: 63 bits of BLAKE2b over what names it.

    The same partition of the same window has the same seed everywhere and always; different ones are independent.

    Parameters
    ----------
    parts
        What names the partition: window, encoder, source, regime.
    """
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
