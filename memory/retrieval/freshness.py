"""How fresh is what is known? The newest window that was published, and how long ago it became known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from memory.asof import check_time
from memory.errors import StoreUnavailableError
from memory.records import SemanticType, to_ms
from memory.retrieval.context import QuestionContext
from memory.store.lines import Succession
from memory.store.link import Command
from memory.store.published_windows import KINDS, QUESTIONS_A_KIND, Newest, newest_commands, newest_of
from memory.window import Window

ATTEMPTS = 20
"""How often asking starts again because another line was chosen meanwhile; twice where nothing is known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """The newest knowledge that was published of a namespace.

    Attributes
    ----------
    namespace
        Name of the memory.
    encoder_id
        Encoder that was asked in; None where nothing is recorded yet.
    line
        The knowledge line that answers questions in it; None where there is none yet.
    lines
        All lines that are read, one for each encoder that something was published for; sorted.
    window
        The newest window of `line`; None where nothing was published, or where it was published as a snapshot, which
        names no window.
    known_at
        From when on its knowledge is known; None where nothing was published.
    age_s
        Seconds from `known_at` to `asked_at`, at least 0; None where nothing was published.
    windows
        How many windows were published of the kind of which there are most.
    by_kind
        The newest publication of each kind that there is one of: regimes may lag behind patterns.
    asked_at
        The time that `age_s` is counted to.
    """

    namespace: str
    encoder_id: str | None
    line: str | None
    lines: tuple[str, ...]
    window: Window | None
    known_at: datetime | None
    age_s: float | None
    windows: int
    asked_at: datetime
    by_kind: Mapping[SemanticType, Newest] = field(default_factory=dict)

    def older_than(self, age: timedelta) -> bool:
        """Whether the newest knowledge is older than that; so it is where nothing was published."""
        return self.age_s is None or self.age_s > age.total_seconds()


@dataclass(slots=True)
class ReadLines:
    """Which line is read for each encoder, and which ones were before, as last seen; clients of a process share it."""

    current: dict[str, str] = field(default_factory=dict)
    successions: dict[str, Succession] = field(default_factory=dict)

    def at(self, as_of_ms: int | None) -> dict[str, str]:
        """The line of each encoder, now or at a time."""
        if as_of_ms is None:
            return dict(self.current)
        past = {encoder: self.successions.get(encoder) for encoder in self.current}
        return {
            encoder: self.current[encoder] if succession is None or not succession.lines else succession.at(as_of_ms)
            for encoder, succession in past.items()
        }


class FreshnessSearch:
    """Answers `MemoryConnection.freshness` and `PastMemory.freshness`.

    Parameters
    ----------
    context
        What questions are answered with; a lock to a time lies in it.
    lines
        What is known of the lines that are read: where it still holds, one round trip answers.
    """

    def __init__(self, context: QuestionContext, lines: ReadLines | None = None) -> None:
        self._context = context
        self._lines = lines or ReadLines()

    def at(self, as_of: datetime) -> FreshnessSearch:
        """The same, locked to what was known at a time."""
        return FreshnessSearch(self._context.at(as_of), self._lines)

    async def freshness(self, *, as_of: datetime | None = None, now: datetime | None = None) -> Freshness:
        """See `MemoryConnection.freshness`."""
        as_of = self._context.bounded(as_of)
        now = as_of if now is None else check_time(now, "now")
        encoder_id = await self._context.encoder()
        read, newest, server_time = await self._ask(None if as_of is None else to_ms(as_of))
        asked_at = now or server_time
        line = None if encoder_id is None else read.get(encoder_id)
        own = {} if line is None else newest[line]
        last = max(own.values(), key=_order, default=None)
        return Freshness(
            namespace=self._context.keys.namespace,
            encoder_id=encoder_id,
            # A line that had published nothing by then was not there yet.
            line=line if own else None,
            lines=tuple(sorted(name for name, kinds in newest.items() if kinds)),
            window=None if last is None else last.window,
            known_at=None if last is None else last.known_at,
            age_s=None if last is None else max((asked_at - last.known_at).total_seconds(), 0.0),
            windows=max((kind.windows for kind in own.values()), default=0),
            by_kind=own,
            asked_at=asked_at,
        )

    async def _ask(
        self, as_of_ms: int | None
    ) -> tuple[dict[str, str], dict[str, dict[SemanticType, Newest]], datetime]:
        """The line of each encoder, what was published of each line by kind, and the server's time, of one moment."""
        keys = self._context.keys
        for _ in range(ATTEMPTS):
            encoders, guess = list(self._lines.current), self._lines.at(as_of_ms)
            histories: list[Command] = [("HGETALL", keys.line_history(encoder)) for encoder in encoders]
            commands: list[Command] = [("TIME",), ("HGETALL", keys.current_line), *histories]
            commands += [command for line in guess.values() for command in newest_commands(keys, line, as_of_ms)]
            time, current, *rest = await self._context.link.pipeline(commands)
            successions, answers = rest[: len(encoders)], rest[len(encoders) :]
            self._lines.current = {encoder.decode(): line.decode() for encoder, line in current.items()}
            self._lines.successions = {
                encoder: Succession.decode(answer) for encoder, answer in zip(encoders, successions, strict=True)
            }
            if self._lines.current.keys() == set(encoders) and self._lines.at(as_of_ms) == guess:
                each = QUESTIONS_A_KIND * len(KINDS)
                found = {line: newest_of(answers[each * n : each * (n + 1)]) for n, line in enumerate(guess.values())}
                return guess, found, _time(*time)
        raise StoreUnavailableError(
            f"which lines of {keys.namespace} are read changed {ATTEMPTS} times while it was asked how fresh they are.",
            remedy="Ask again.",
        )


def _order(newest: Newest) -> tuple[datetime, datetime]:
    # Times never decrease from window to window; of windows that became known at once the later one is the newest.
    return newest.known_at, newest.known_at if newest.window is None else newest.window.end


def _time(seconds: bytes, microseconds: bytes) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(microseconds))
