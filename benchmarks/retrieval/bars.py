"""The bars that retrieval and recording have to clear, and whether they did."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.retrieval.contestant import Loaded
from benchmarks.retrieval.measure import Figures
from benchmarks.retrieval.ours import BareSearch, OursNearCache, OursOverTheWire
from benchmarks.retrieval.run import AS_OF, BY_AGENT, BY_SCOPE, Outcome

JUDGED = 100_000
"""Size that the bars are set for; nothing is judged on fewer."""
JUDGED_LARGE = 1_944_000
JUDGED_AGENTS = 10
UNDER_READS = f"{BY_SCOPE}, while a window is read"


@dataclass(slots=True)
class Bar:
    """One bar, and what was measured against it: by column (who, on what) a figure and whether it clears the bar."""

    what: str
    limit: str
    measured: dict[str, tuple[str, bool]] = field(default_factory=dict)


def judge(outcomes: Sequence[Outcome], large: Sequence[Outcome]) -> list[Bar]:
    """Hold the results against the bars; those for which nothing was measured keep no figure."""
    bars = _Bars()
    for outcome in outcomes:
        if outcome.count < JUDGED:
            continue
        for name in (OursNearCache.name, OursOverTheWire.name):
            _judge_queries(bars, outcome, name)
        _judge_recording(bars, outcome)
    for outcome in large:
        for name in (OursNearCache.name, OursOverTheWire.name):
            _judge_large(bars, outcome, name)
    return list(bars.bars.values())


class _Bars:
    def __init__(self) -> None:
        self.bars = {what: Bar(what, limit) for what, (limit, _, _) in BARS.items()}

    def hold(self, what: str, column: str, value: float | None, shown: str = "{:.2f}") -> None:
        if value is not None:
            _, limit, compare = BARS[what]
            self.bars[what].measured[column] = shown.format(value), compare(value, limit)


_AT_MOST, _AT_LEAST, _BELOW = operator.le, operator.ge, operator.lt
_AT_100 = "100,000, agent+product+regime"
_AT_LARGE = "1,944,000, largest scopes"

BARS: dict[str, tuple[str, float, Callable[[float, float], bool]]] = {
    f"{_AT_100}: p50": ("<= 0.4 ms", 0.4, _AT_MOST),
    f"{_AT_100}: p50 beside bare": ("<= 2.5x", 2.5, _AT_MOST),
    f"{_AT_100}: p99": ("<= 1.5 ms", 1.5, _AT_MOST),
    f"{_AT_100}: recall@10": (">= 0.99", 0.99, _AT_LEAST),
    "100,000, agent only: p50": ("< 1 ms", 1.0, _BELOW),
    "100,000, agent only: p99": ("< 5 ms", 5.0, _BELOW),
    "100,000, as of a time: p50 beside without": ("<= 2x", 2.0, _AT_MOST),
    "100,000, 10 agents: p99": ("<= 3 ms", 3.0, _AT_MOST),
    "100,000, 10 agents: queries/s": (">= 6,000", 6_000.0, _AT_LEAST),
    "100,000: bytes a memory": ("<= 4 KB", 4096.0, _AT_MOST),
    "recording through add_many, FLAT": (">= 5,000/s", 5_000.0, _AT_LEAST),
    "a sample night replayed and stored": ("<= 20 s", 20.0, _AT_MOST),
    f"{_AT_LARGE}: size of the largest": (">= 20,000", 20_000.0, _AT_LEAST),
    f"{_AT_LARGE}: p50": ("<= 1 ms", 1.0, _AT_MOST),
    f"{_AT_LARGE}: p99": ("<= 5 ms", 5.0, _AT_MOST),
    f"{_AT_LARGE}: recall@10": (">= 0.95", 0.95, _AT_LEAST),
    f"{_AT_LARGE}: p99 while a window is read": ("<= 5 ms", 5.0, _AT_MOST),
    "1,944,000: bytes a memory, FLOAT16": ("<= 3 KB", 3072.0, _AT_MOST),
}


def _judge_queries(bars: _Bars, outcome: Outcome, name: str) -> None:
    column = f"{name}; {outcome.name}"
    own = outcome.workloads[BY_SCOPE].get(name)
    if own is None:
        return
    bars.hold(f"{_AT_100}: p50", column, own.p50, "{:.2f} ms")
    bare = outcome.workloads[BY_SCOPE].get(BareSearch.name)
    bars.hold(f"{_AT_100}: p50 beside bare", column, None if bare is None else own.p50 / bare.p50, "{:.2f}x")
    bars.hold(f"{_AT_100}: p99", column, own.p99, "{:.2f} ms")
    bars.hold(f"{_AT_100}: recall@10", column, own.recall, "{:.4f}")
    by_agent = outcome.workloads[BY_AGENT][name]
    bars.hold("100,000, agent only: p50", column, by_agent.p50, "{:.2f} ms")
    bars.hold("100,000, agent only: p99", column, by_agent.p99, "{:.2f} ms")
    slowest = max(outcome.workloads[f"{BY_SCOPE}, {words}"][name].p50 for words in AS_OF)
    bars.hold("100,000, as of a time: p50 beside without", column, slowest / own.p50, "{:.2f}x")
    together = outcome.agents.get(JUDGED_AGENTS, {}).get(name)
    if together is not None:
        bars.hold("100,000, 10 agents: p99", column, together.p99, "{:.2f} ms")
        bars.hold("100,000, 10 agents: queries/s", column, together.per_s, "{:,.0f}")


def _judge_recording(bars: _Bars, outcome: Outcome) -> None:
    column = f"{OursOverTheWire.name}; {outcome.name}"
    loaded = _recorded(outcome)
    if loaded is not None:
        bars.hold("100,000: bytes a memory", column, loaded.bytes_each, "{:,.0f}")
        bars.hold("recording through add_many, FLAT", column, outcome.count / loaded.seconds, "{:,.0f}/s")
    if outcome.replay_seconds is not None:
        bars.hold(
            "a sample night replayed and stored", column, outcome.replay_seconds + outcome.first_batch[1], "{:.1f} s"
        )


def _recorded(outcome: Outcome) -> Loaded | None:
    """What recording took; None where the contestant that records was left out."""
    return next((item.loaded for item in outcome.contestants if item.name == OursOverTheWire.name), None)


def _judge_large(bars: _Bars, outcome: Outcome, name: str) -> None:
    if outcome.count < JUDGED_LARGE:
        return
    column = f"{name}; {outcome.name}"
    own: Figures = outcome.workloads[BY_SCOPE][name]
    bars.hold(f"{_AT_LARGE}: size of the largest", column, float(outcome.scopes[3]), "{:,.0f}")
    bars.hold(f"{_AT_LARGE}: p50", column, own.p50, "{:.2f} ms")
    bars.hold(f"{_AT_LARGE}: p99", column, own.p99, "{:.2f} ms")
    bars.hold(f"{_AT_LARGE}: recall@10", column, own.recall, "{:.4f}")
    under_reads = outcome.workloads.get(UNDER_READS, {}).get(name)
    bars.hold(
        f"{_AT_LARGE}: p99 while a window is read",
        column,
        None if under_reads is None else under_reads.p99,
        "{:.2f} ms",
    )
    loaded = _recorded(outcome)
    if loaded is not None and name == OursOverTheWire.name:
        bars.hold("1,944,000: bytes a memory, FLOAT16", column, loaded.bytes_each, "{:,.0f}")
