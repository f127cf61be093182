"""Which names have been seen, for scans that may give one twice: 16 bytes a name, whatever its length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16
_TYPE = np.dtype(f"S{DIGEST_BYTES}")
_SMALL = 4096


class Seen:
    """A set of names by their hashes, in a few sorted arrays of which each is at most half of the one before.

    Adding n names takes O(n log n) in all. That two of a billion names have one hash has a chance of 1 in 10^21.
    """

    def __init__(self) -> None:
        self._sorted: list[npt.NDArray[np.bytes_]] = []
        self._new: set[bytes] = set()

    def __len__(self) -> int:
        return sum(len(part) for part in self._sorted) + len(self._new)

    def add(self, names: Sequence[bytes]) -> list[bytes]:
        """The names that were not there before, in order, each once; they are from now on."""
        hashes = [_hash(name) for name in names]
        known = self._known(hashes)
        fresh = []
        for name, own, is_known in zip(names, hashes, known, strict=True):
            if not is_known and own not in self._new:
                self._new.add(own)
                fresh.append(name)
        if len(self._new) >= _SMALL:
            self._settle()
        return fresh

    def _known(self, hashes: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        wanted = np.array(hashes, dtype=_TYPE)
        known = np.zeros(len(wanted), dtype=np.bool_)
        for part in self._sorted:
            places = np.searchsorted(part, wanted)
            places[places == len(part)] = 0
            known |= part[places] == wanted
        return known

    def _settle(self) -> None:
        settled = np.sort(np.array(list(self._new), dtype=_TYPE))
        self._new = set()
        while self._sorted and len(self._sorted[-1]) < 2 * len(settled):
            settled = np.sort(np.concatenate([self._sorted.pop(), settled]), kind="stable")
        self._sorted.append(settled)


def _hash(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=DIGEST_BYTES).digest()
