"""Sets of states around a state: its nearest ones, found by a scan of all states or among lists of them.

Random balls of the null ask for thousands of such sets. A scan costs O(n d) each: fine for a night of minutes, hours at
a million states. Above `SCAN_LIMIT`, states are kept in about sqrt(n) lists, each around one *leader*, and only the
lists nearest to a centre are looked at (an inverted file: Sivic & Zisserman, ICCV 2003), until they hold several times
the states that are wanted.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

SCAN_LIMIT = 25_000
"""Up to here all states are looked at."""
_LOOKED_AT_A_MEMBER = 8
"""States looked at for each that is wanted: a list holds what is nearest to its leader, not to the centre."""
_LEAST_LOOKED_AT = 4_096
_SCANNED_SHARE = 4
"""Where a quarter of all states would be looked at, a scan in order of memory is as fast as gathering them."""
_ROWS_AT_ONCE = 8_192


class Neighbourhoods:
    """Nearest states by cosine.

    Parameters
    ----------
    states
        (n, d) unit rows, in canonical order; kept, not copied.
    scan_limit
        Above so many states, lists are used.

    Notes
    -----
    Deterministic under a fixed number of BLAS threads: leaders are states at equal steps of the order, ties go to the
    lower position. With lists a set is slightly wider than the exact one: on market states it shares more than nine
    members in ten with it on average. Cost of building: nothing, or O(n sqrt(n) d) time and 12 n bytes.
    """

    def __init__(self, states: Vectors, *, scan_limit: int = SCAN_LIMIT) -> None:
        self._states = states
        self._leaders: Vectors | None = None
        if len(states) > scan_limit:
            count = max(math.isqrt(len(states)), 1)
            rows = np.unique(np.linspace(0, len(states) - 1, count).round().astype(np.int64))
            self._leaders = np.ascontiguousarray(states[rows])
            own = np.empty(len(states), dtype=np.int32)
            for begin in range(0, len(states), _ROWS_AT_ONCE):
                part = slice(begin, begin + _ROWS_AT_ONCE)
                own[part] = np.argmax(states[part] @ self._leaders.T, axis=1)
            self._in_lists = np.argsort(own, kind="stable")
            self._bounds = np.searchsorted(own[self._in_lists], np.arange(len(rows) + 1))

    def nearest(self, centre: int, size: int) -> IntArray:
        """The centre and the states nearest to it.

        Parameters
        ----------
        centre
            Row of the centre, which is always a member.
        size
            Members, from 1 to n.

        Returns
        -------
        (size,) ascending rows. Cost: O(n d) by a scan, else O((sqrt(n) + size) d).
        """
        looked_at = self._looked_at(centre, size)
        if looked_at is None:
            similarity = self._states @ self._states[centre]
            similarity[centre] = np.inf
            members = np.argpartition(-similarity, size - 1)[:size]
        else:
            similarity = np.empty(len(looked_at), dtype=np.float32)
            for begin in range(0, len(looked_at), _ROWS_AT_ONCE):
                part = slice(begin, begin + _ROWS_AT_ONCE)
                similarity[part] = self._states[looked_at[part]] @ self._states[centre]
            similarity[np.searchsorted(looked_at, centre)] = np.inf
            members = looked_at[np.argpartition(-similarity, size - 1)[:size]]
        return np.sort(members).astype(np.int64)

    def _looked_at(self, centre: int, size: int) -> IntArray | None:
        """Rows of the nearest lists, ascending; None where all states are looked at."""
        wanted = max(_LOOKED_AT_A_MEMBER * size, _LEAST_LOOKED_AT)
        if self._leaders is None or wanted * _SCANNED_SHARE >= len(self._states):
            return None
        order = np.argsort(-(self._leaders @ self._states[centre]), kind="stable")
        held = np.cumsum((self._bounds[1:] - self._bounds[:-1])[order])
        lists = order[: int(np.searchsorted(held, wanted)) + 1].tolist()
        return np.sort(np.concatenate([self._in_lists[self._bounds[at] : self._bounds[at + 1]] for at in lists]))
