"""How deep to fetch: how many of the nearest rows it takes to find the k that a question lets through.

A filter on a range costs the server 2 to 4 ms among 100,000 records where it lets through half of them, and a row more
than k costs 0.01 ms. So the nearest rows of the scope are fetched without it, and what it would have held back is left
out here: rows come in order of distance, so that nothing is missed. How deep that has to go is learned from question to
question, as TCP learns how long to wait (mean and mean deviation, RFC 6298): it changes cost only, never answers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

GAIN = 1 / 8
DEVIATION_GAIN = 1 / 4
"""Weight of the newest question, as in RFC 6298."""
SPARE_DEVIATIONS = 2.0
"""RFC 6298 waits four deviations; a row too many costs less than waiting, and a second question costs 0.1 ms more."""
FADING = 1 / 32
"""How much of what was learned is forgotten with each question that the server filtered and that taught nothing: after
some twenty of them, rows are fetched without the filter again, to see whether it still holds back that much."""
MOST_PER_RESULT = 6.0
MOST_ROWS_BEYOND = 300
"""No more rows for each result, and in all beyond those wanted: 300 cost 3 ms, as much as the server's filter."""
FEW_PER_RESULT = 3.0
"""Rows for each result from which the server is first asked for what lies within a range, not for what lies not
outside. Which is quicker depends on the index and on what is hidden where (0.6 against 7 ms, and the reverse): both are
timed."""
TRIED_AGAIN_AFTER = 64
"""Filtered questions until the slower form is timed again."""
KINDS = 128
"""Kinds of question that are remembered, the last ones used."""
AS_OF_BUCKET_MS = 21_600_000
"""How much `as_of` hides changes slowly: six hours of it are one kind."""
FIRST_DEVIATION = 0.25
EQUALS_OF_AGENTS = 8
"""Rows more where the server filters and several agents, who share their states, may answer."""


@dataclass(slots=True)
class Depth:
    """What was learned about one kind of question.

    Attributes
    ----------
    mean, deviation
        Rows that had to be looked at for each result wanted: mean and mean deviation.
    """

    mean: float = 1.0
    deviation: float = 0.0
    _took_s: dict[bool, float] = field(default_factory=dict)
    _filtered: int = 0

    def rows(self, wanted: int) -> int:
        """Rows to fetch for that many results: one more than they need shows that no equal ones were cut off."""
        # A hundredth of a row is what is left of something learned long ago.
        needed = math.ceil(wanted * (self.mean + SPARE_DEVIATIONS * self.deviation) - 0.01)
        return min(needed, most_rows(wanted)) + 1

    @property
    def shallow(self) -> bool:
        """Whether fetching the rows without the server's filter is the quicker way."""
        return self.mean <= MOST_PER_RESULT

    def few(self) -> bool:
        """Whether the server is to look for what lies within the limits, as few does, or for what lies not outside."""
        self._filtered += 1
        if not self._took_s:
            return self.mean > FEW_PER_RESULT
        quicker = min(self._took_s, key=self._took_s.__getitem__)
        if len(self._took_s) == 1 or self._filtered % TRIED_AGAIN_AFTER == 0:
            return not quicker
        return quicker

    def took(self, few: bool, seconds: float) -> None:
        """So long the server took over a filter of that form."""
        before = self._took_s.get(few, seconds)
        self._took_s[few] = before + GAIN * (seconds - before)

    def learn(self, wanted: int, looked_at: float) -> None:
        """So many rows had to be looked at for so many results."""
        error = looked_at / wanted - self.mean
        self.mean += GAIN * error
        self.deviation += DEVIATION_GAIN * (abs(error) - self.deviation)

    def fade(self) -> None:
        """The server filtered, and nothing was learned."""
        self.mean += FADING * (1.0 - self.mean)
        self.deviation -= FADING * self.deviation


def most_rows(wanted: int) -> int:
    """Rows for so many results up to which fetching them without the server's filter may cost less than the filter."""
    return min(math.ceil(MOST_PER_RESULT * wanted), wanted + MOST_ROWS_BEYOND)


class Depths:
    """Depths by kind of question: what limits it, as of when, and whether several agents, who share states, answer."""

    def __init__(self) -> None:
        self._by_kind: OrderedDict[tuple[int, bool, int | None], Depth] = OrderedDict()

    def of(self, limits: int, one_agent: bool, as_of_ms: int | None) -> Depth:
        """The depth of a kind; `limits` is that of `Bounds.limits`. About a microsecond."""
        kind = (limits, one_agent, None if as_of_ms is None else as_of_ms // AS_OF_BUCKET_MS)
        depth = self._by_kind.get(kind)
        if depth is None:
            depth = self._by_kind[kind] = Depth(deviation=FIRST_DEVIATION if limits else 0.0)
            if len(self._by_kind) > KINDS:
                self._by_kind.popitem(last=False)
        else:
            self._by_kind.move_to_end(kind)
        return depth
