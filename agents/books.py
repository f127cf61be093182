"""The books of a trading agent: one a product, and what becomes of the experiences that they complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.episodes import EpisodeBook, Finished
from agents.feed import Tick
from agents.recorder import ExperienceRecorder


@dataclass(slots=True)
class TradingReport:
    """What an agent did since it was made.

    Attributes
    ----------
    decisions
        Decisions taken.
    settled, unrewarded
        Decisions whose reward became known, and those that no bar followed within five minutes: not recorded.
    cold
        Bars without enough history to act on.
    episodes
        Episodes that ended.
    recorded, dropped
        Experiences that the recorder took, and those that it could not keep.
    heard
        Messages that were heard.
    without_memory
        Live decisions that were taken without an answer of the memory, because Redis was away.
    """

    decisions: int = 0
    settled: int = 0
    unrewarded: int = 0
    cold: int = 0
    episodes: int = 0
    recorded: int = 0
    dropped: int = 0
    heard: int = 0
    without_memory: int = 0


class Books:
    """Keeps a book for each product, hands what is complete to a recorder, and counts.

    Parameters
    ----------
    make
        Opens the book of a product.
    recorder
        Where experiences go.
    report
        Where it is counted.
    """

    def __init__(self, make: Callable[[str], EpisodeBook], recorder: ExperienceRecorder, report: TradingReport) -> None:
        self._make = make
        self._recorder = recorder
        self._report = report
        self._books: dict[str, EpisodeBook] = {}

    def of(self, product_id: str) -> EpisodeBook:
        """The book of a product, opened where there is none."""
        if product_id not in self._books:
            self._books[product_id] = self._make(product_id)
        return self._books[product_id]

    async def arrive(self, tick: Tick) -> EpisodeBook:
        """Enter a product's next bar; returns its book."""
        book = self.of(tick.product_id)
        self._record(await book.arrive(tick))
        return book

    async def finish(self) -> None:
        """End all episodes."""
        for book in self._books.values():
            self._record(await book.finish())

    def _record(self, finished: Sequence[Finished]) -> None:
        for item in finished:
            if self._recorder.record(item.experience, item.trace):
                self._report.recorded += 1
            else:
                self._report.dropped += 1
        books = self._books.values()
        self._report.settled = sum(book.settled for book in books)
        self._report.unrewarded = sum(book.unrewarded for book in books)
        self._report.episodes = sum(book.episodes for book in books)
