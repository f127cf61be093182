"""The archive: what a consolidation read, as content-hashed Parquet under a configurable place.

Paths are relative to the archive's root: an archive that is moved as a whole stays readable.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO

import numpy.typing as npt

from memory.errors import ArchiveError
from memory.ledger.archive_content import ContentHash, content_digest
from memory.ledger.archive_files import ArchivedFile, NewFile, Place
from memory.ledger.archive_join import WindowJoin
from memory.ledger.archive_merge import merge
from memory.ledger.archive_reader import ArchivedTable
from memory.ledger.archive_tables import EXPERIENCES, STATES
from memory.ledger.archive_writer import ArchivedCounts, ArchiveReference, ArchiveWriter
from memory.records import SOURCES
from memory.settings import NAMESPACE_PATTERN
from memory.tables import ExperienceTable, StateTable, WindowData
from memory.validation import validate_choice, validate_identifier
from memory.window import Window

__all__ = [
    "Archive",
    "ArchiveReference",
    "ArchiveWriter",
    "ArchivedCounts",
    "ArchivedFile",
    "ArchivedTable",
    "ContentHash",
    "WindowJoin",
    "content_digest",
    "merge",
]


COPIED_BYTES = 1 << 20
"""Of a file that is copied, in memory at a time."""


class Archive:
    """An archive under any fsspec URL (`file://`, `s3://`, `memory://` ...).

    Whatever it does raises ArchiveUnavailableError where the place cannot be reached, read or written to.

    Parameters
    ----------
    url
        Root of the archive.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._place = Place(url)

    @property
    def display_url(self) -> str:
        """The URL without a user's name and password."""
        return self._place.display_url

    def writer(
        self, namespace: str, window: Window, encoder_id: str, source: str, *, derived_from: str | None = None
    ) -> ArchiveWriter:
        """A writer that takes a window part by part, for windows that do not fit into memory.

        Parameters
        ----------
        derived_from
            Encoder whose archive the states were encoded again from.
        """
        if not NAMESPACE_PATTERN.fullmatch(namespace):
            raise ArchiveError(f"{namespace!r} is no namespace.", remedy="Use 1 to 32 of a-z, 0-9 and '-'.")
        validate_identifier(encoder_id, "encoder_id")
        validate_choice(source, "source", SOURCES)
        return ArchiveWriter(self._place, namespace, window, encoder_id, source, derived_from)

    def write(
        self, namespace: str, window: Window, data: WindowData, *, derived_from: str | None = None
    ) -> ArchiveReference:
        """Archives a window's states and experiences; the same content again gives the same files.

        Raises
        ------
        ArchiveError
            The tables are not in their order.
        ArchiveUnavailableError
            The place cannot be written to; nothing that looks whole is left behind.
        """
        states = data.states
        with self.writer(namespace, window, states.encoder_id, states.source, derived_from=derived_from) as writer:
            writer.append(data)
            return writer.close()

    def read(
        self,
        reference: ArchiveReference,
        *,
        columns: Collection[str] | None = None,
        products: Collection[str] | None = None,
        rows: npt.ArrayLike | None = None,
    ) -> WindowData:
        """The archived window, bit for bit as it was written; or the states (see `states`) and products named.

        Raises
        ------
        ArchiveError
            A file is missing, or its bytes are not those that were written.
        """
        return WindowData(
            self.states(reference, columns=columns, products=products, rows=rows),
            self.experiences(reference, products=products),
        )

    def states(
        self,
        reference: ArchiveReference,
        *,
        columns: Collection[str] | None = None,
        products: Collection[str] | None = None,
        rows: npt.ArrayLike | None = None,
    ) -> StateTable:
        """Archived states, in order of products and times.

        Parameters
        ----------
        columns
            Which of the wide columns to read: `vectors`, and features by their names (those that the window lacks are
            passed over). All where None. Without `vectors` they have the shape (n, 0).
        products
            Only states of these products.
        rows
            Only the states with these numbers, out of `reference.states.rows`.

        Raises
        ------
        ArchiveError
            The file is missing, or its bytes are not those that were written.

        Memory: that of the result, and of one row group. Cost: the whole file is read once to check its hash.
        """
        with self.opened_states(reference) as table:
            return table.states(columns=columns, products=products, rows=rows)

    @contextmanager
    def opened_states(self, reference: ArchiveReference) -> Iterator[ArchivedTable]:
        """The file of states, to be read several times at the cost of one check of its hash; raises as `states`."""
        with self._place.opened(reference.states) as stream:
            yield ArchivedTable(stream, STATES)

    @contextmanager
    def opened_experiences(self, reference: ArchiveReference) -> Iterator[ArchivedTable]:
        """The file of experiences, as `opened_states` opens that of states."""
        with self._place.opened(reference.experiences) as stream:
            yield ArchivedTable(stream, EXPERIENCES)

    def experiences(
        self, reference: ArchiveReference, *, products: Collection[str] | None = None, of: StateTable | None = None
    ) -> ExperienceTable:
        """Archived experiences; raises as `states` does.

        Parameters
        ----------
        products
            Only those of these products.
        of
            Only those that were lived through in these states: of their products, at their times.

        Memory: that of the result twice, and of one row group; `of` takes 16 bytes a row of the file besides.
        """
        with self._place.opened(reference.experiences) as stream:
            table = ArchivedTable(stream, EXPERIENCES)
            rows = None if of is None else table.rows_of(of)
            return table.experiences(products=products, rows=rows)

    def parts(self, reference: ArchiveReference) -> Generator[WindowData, None, None]:
        """The archived window product by product, in order; raises as `states` does.

        Memory: that of one product, and of one row group.
        """
        with self._place.opened(reference.states) as states, self._place.opened(reference.experiences) as lived:
            state_file, experience_file = ArchivedTable(states, STATES), ArchivedTable(lived, EXPERIENCES)
            for product in sorted({*state_file.meta["products"], *experience_file.meta["products"]}):
                yield WindowData(state_file.states(products=[product]), experience_file.experiences(products=[product]))

    def verify(self, reference: ArchiveReference) -> None:
        """Raises ArchiveError where a file is missing, or its bytes are not those that were written."""
        for file in (reference.states, reference.experiences):
            with self._place.opened(file):
                pass

    def exists(self, reference: ArchiveReference) -> bool:
        """Whether both files are there with their size; their bytes are checked when they are read."""
        return all(self._place.has(file) for file in (reference.states, reference.experiences))

    def files(self, namespace: str) -> dict[str, int]:
        """Size in bytes of every file that lies in a namespace's part, by path, whole or not; raises as `states` does.

        Cost: a listing of all its folders.
        """
        return self._place.files(namespace)

    @contextmanager
    def opened(self, file: ArchivedFile) -> Iterator[Any]:
        """The stream of a file, whose bytes were found to be those that were written; raises as `states` does."""
        with self._place.opened(file) as stream:
            yield stream

    def put(self, file: ArchivedFile, source: BinaryIO) -> bool:
        """Put the bytes of a file back under its path; False where they are there already. Raises as `write` does.

        Raises
        ------
        ArchiveError
            The bytes are not those of its hash; nothing is left behind.
        """
        if self._place.has(file):
            try:
                with self._place.opened(file):
                    return False
            except ArchiveError:
                pass  # What is there is damaged: the right bytes take its place.
        folder, name = posixpath.split(file.path)
        with self._place.explained("written"):
            new = NewFile(self._place, folder, name.removesuffix(f"-{file.sha256}.parquet"))
            try:
                shutil.copyfileobj(source, new.sink, COPIED_BYTES)
                new.finish()
                if new.sink.sha256 != file.sha256:
                    raise ArchiveError(
                        f"what is to be {file.path} does not match its hash: it was changed or damaged.",
                        remedy="Use another snapshot.",
                    )
                new.commit(file.rows)
            finally:
                new.discard()
        return True

    def written_at(self, path: str) -> datetime | None:
        """When the file at a path was written last; None where it is gone, or its storage does not say."""
        return self._place.written_at(path)

    def remove(self, path: str) -> bool:
        """Remove the file at a path, whoever names it; False where it was gone already. Raises as `write` does."""
        return self._place.remove(path)
