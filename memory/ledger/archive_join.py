"""Archiving a window anew from what is archived of it and what is read again, in the memory of one product."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np

from memory.errors import ArchiveError
from memory.ledger.archive_merge import merge, without_unknown_features
from memory.ledger.archive_writer import ArchiveReference, ArchiveWriter
from memory.tables import WindowData


class WindowJoin:
    """Puts parts of a window into an archive, each joined with what is archived of its product already.

    The outcome is that of merging the whole windows, file by file and byte by byte; where no part is added, it is what
    is archived. Memory: one part where nothing is archived, otherwise what both sides hold of one product.

    Parameters
    ----------
    writer
        Where the joined parts go; the caller discards it where something fails.
    archived
        What is archived, product by product in order, as `Archive.parts` gives it; nothing by default.
    """

    def __init__(self, writer: ArchiveWriter, archived: Iterable[WindowData] = ()) -> None:
        self._writer = writer
        self._archived = iter(archived)
        self._next = next(self._archived, None)
        self._joins = self._next is not None
        self._fresh: list[WindowData] = []
        self._product = ""

    def append(self, part: WindowData) -> None:
        """Adds a part that was read; parts come in the order of products.

        Raises
        ------
        ArchiveError
            The part comes before one that was added already, or is of another encoder or source.
        """
        if not self._joins:
            self._writer.append(part)
            return
        for product, piece in _by_product(part):
            if product < self._product:
                raise ArchiveError(
                    f"a part of {product} comes after one of {self._product}.",
                    remedy="Read and append the parts of a window in the order of their products.",
                )
            if product != self._product:
                self._flush()
            self._fresh.append(piece)
            self._product = product

    def close(self) -> ArchiveReference:
        """Adds what is left of the archived window, and closes the writer."""
        self._flush()
        while self._next is not None:
            self._keep(self._next)
        return self._writer.close()

    def _flush(self) -> None:
        """Writes the product that was read last, and what is archived up to it."""
        if not self._fresh:
            return
        fresh, self._fresh = _merged(self._fresh), []
        while self._next is not None and _product_of(self._next) < self._product:
            self._keep(self._next)
        if self._next is not None and _product_of(self._next) == self._product:
            self._writer.append(merge(self._next, fresh))
            self._next = next(self._archived, None)
        else:
            self._writer.append(fresh)

    def _keep(self, archived: WindowData) -> None:
        # What only other products' states had may be gone by now.
        states = without_unknown_features(archived.states) if self._product else archived.states
        self._writer.append(WindowData(states, archived.experiences))
        self._next = next(self._archived, None)


def _merged(pieces: list[WindowData]) -> WindowData:
    """All pieces, merged two by two: one after the other, the first of many would be copied again for each."""
    while len(pieces) > 1:
        pieces = [functools.reduce(merge, pieces[start : start + 2]) for start in range(0, len(pieces), 2)]
    return pieces[0]


def _product_of(part: WindowData) -> str:
    return min((*part.states.products, *part.experiences.products))


def _by_product(part: WindowData) -> Iterator[tuple[str, WindowData]]:
    """The part, or its pieces where it is about several products; in order."""
    names = sorted({*part.states.products, *part.experiences.products})
    if len(names) == 1:
        yield names[0], part
        return
    for name in names:
        rows = []
        for table in (part.states, part.experiences):
            codes = [code for code, product in enumerate(table.products) if product == name]
            rows.append(np.flatnonzero(np.isin(table.product, codes)))
        yield name, WindowData(part.states.take(rows[0]), part.experiences.take(rows[1]))
