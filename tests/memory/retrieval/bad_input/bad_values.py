"""Values that no question can be answered with, by the name of the argument."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import numpy as np

import memory
from memory import MarketPhase, Regime, RelevanceWeights, Side

DAY = datetime(2021, 6, 17, tzinfo=UTC)

HOUR = timedelta(hours=1)
MAX_TOP_K = 50


def unit_vector(seed: int, dimension: int = 256) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Timeless(tzinfo):
    """A time zone that does not know its offset: its times are as naive as those without any."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    def dst(self, _: datetime | None) -> None:
        return None


class Text:
    """Something that merely looks like a name."""

    def __str__(self) -> str:
        return "QUIET"


async def keep_all(hits: list[Any]) -> list[Any]:
    return hits


def with_value(index: int, value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = unit_vector(1)
    vector[index] = value
    return vector


def without(values: list[Any], name: str) -> list[Any]:
    return [value for value in values if not (isinstance(value, str) and value == name)]


VECTORS: list[Any] = [
    *(None, [], (), "", b"\x00" * 1024, 1.0, object(), unit_vector(1).tolist(), unit_vector(1).tobytes()),
    *(np.zeros(0, np.float32), np.zeros(256, np.float32), np.full(256, np.nan, np.float32), np.float32(1.0)),
    *(with_value(0, np.nan), with_value(255, np.inf), with_value(7, -np.inf), with_value(7, 3e38)),
    *(unit_vector(1, 255), unit_vector(1, 257), unit_vector(1, 1), unit_vector(1, 512)),
    *(unit_vector(1).astype(dtype) for dtype in (np.float64, np.float16, np.int64, np.complex64, object, ">f4")),
    *(unit_vector(1)[None], unit_vector(1)[:, None], unit_vector(1).reshape(16, 16), np.array(1.0, np.float32)),
    *(2 * unit_vector(1), unit_vector(1) / 2, 1.002 * unit_vector(1), np.ones(256, np.float32)),
]
IDS: list[Any] = [
    *("", " ", "*", "|", "}", "{", '"', "'", "\\", "a|b", "a}b", "{a}", "a*", "a?", "a b", " a", "a ", "a,b", "a:b"),
    *("a=b", "$scope", "@scope", "(a)", "a~", "%a%", "-a", "_a", ".a", "..", "../a", "a/b", "a;b", "a&b", "#a", "a[0]"),
    *("a\n", "\na", "a\tb", "a\r\nPING", "\x00", "a\x00", "\x1b[31ma", "\x7f", "a" * 129, "a" * 10_000, "*" * 10_000),
    *("\u00e9", "\u0430", "\uff41", "a\u200b", "\u0661", "a\u202eb", "\u212a", "\U0001d41a", "\ud800"),
    *(b"a", 7, 1.5, True, ["a"], ("a",), {"a"}, object(), np.array(["a"])),
]
NO_IDS: list[Any] = [*IDS, None]
NAMES: list[Any] = [
    *(
        "",
        " ",
        "UNKNOWN",
        "*",
        "|",
        "}",
        "a\x00",
        "\\",
        '"',
        "Q" * 10_000,
        "QUIET ",
        " QUIET",
        "QUIET\n",
        "QUIET|VOLATILE",
    ),
    *(b"QUIET", 7, True, ["QUIET"], ("QUIET",), Text(), object(), np.array(["QUIET"]), np.array(["QUIET", "CRISIS"])),
]
REGIMES: list[Any] = [*NAMES, "quiet", "Quiet", "MIXED", "ALL", MarketPhase.OPEN]
TIMES: list[Any] = [
    *(datetime(2021, 6, 17), date(2021, 6, 17), "2021-06-17T00:00:00+00:00", 1_623_888_000, 1_623_888_000.0, True, ""),
    *(timedelta(hours=1), np.datetime64("2021-06-17T00:00"), [DAY], object(), datetime(2021, 6, 17, tzinfo=Timeless())),
    *(datetime.min.replace(tzinfo=timezone(HOUR)), datetime.max.replace(tzinfo=timezone(-HOUR))),
]
COUNTS: list[Any] = [
    *(0, -1, MAX_TOP_K + 1, 10**30, -(10**30), True, False, 1.0, 1.5, float("nan"), float("inf"), "5", b"5", "", [5]),
    *(None, Decimal(5), np.float32(5), np.bool_(True), np.array([5]), np.array([5, 6]), object()),
    *(np.int64(0), np.int64(MAX_TOP_K + 1)),
]
NOT_FINITE: list[Any] = [
    *(float("nan"), float("inf"), float("-inf"), np.float32("nan"), 10**400, -(10**400), "0", "", b"0", True, [0.0]),
    *(Decimal(0), 1j, np.array([0.0]), np.array([0.0, 1.0]), object(), timedelta(0)),
]
FLAGS: list[Any] = [None, 0, 1, "", "no", "True", [], np.bool_(True), object()]
WORTHLESS = RelevanceWeights()
"""Weights where nothing is ranked by relevance."""

BAD: dict[str, list[Any]] = {
    "state_vector": VECTORS,
    "feature_vector": VECTORS,
    "agent_id": IDS,
    "product_id": IDS,
    "exclude_agent_id": IDS,
    "regime": REGIMES,
    "market_phase": [*NAMES, "open", "Open", "NIGHT", Regime.QUIET],
    "since": TIMES,
    "until": TIMES,
    "as_of": TIMES,
    "min_reward": NOT_FINITE,
    "min_sharpe": NOT_FINITE,
    "min_quality": [*NOT_FINITE, -0.1, 1.1],
    "top_k": COUNTS,
    "ranking": [*NAMES, None, "Similarity", "SIMILARITY", "relevance "],
    "post_filter": [1, "keep", [], True, keep_all, object()],
    "weights": [WORTHLESS, RelevanceWeights, {}, {"similarity": 1.0}, (0.8, 0.1, 0.1), 1.0, "even"],
    "with_next_state": FLAGS,
    "min_similarity": [*NOT_FINITE, -1.1, 1.1],
    "action": [*NAMES, None, "BUY", "long", "Long", Side.BUY, memory.Action(Side.BUY)],
    "horizon": [0, -1, 2, 61, 10**30, True, 5.0, "5", None, [5], float("nan"), np.float64(5), np.array([5, 15])],
    "trailing_volatility": [*NOT_FINITE, 0, 0.0, -0.001, 11.0],
    "current_regime": [*REGIMES, None],
    "previous_regimes": [
        *(None, "QUIET", b"QUIET", 7, {"QUIET"}, iter(["QUIET"]), np.array(["QUIET"]), object()),
        *([name] for name in (*REGIMES, None)),
        ["QUIET", "quiet"],
    ],
    "source": [*NAMES, "LIVE", "paper", "Replay"],
    "bar_minutes": [0, -1, 1.0, True, "1", [1], float("nan"), np.float64(1), np.array([1, 2]), object()],
    "ahead_minutes": [0, -1, 1.0, True, "1", [1], float("nan"), np.float64(1), np.array([1, 2]), object()],
    "claimed_only": FLAGS,
    "timeout_s": [*NOT_FINITE, -1, -1e-9, 1e6],
}
SPECIAL: dict[tuple[str, str], list[Any]] = {
    ("retrieve_patterns", "regime"): without(REGIMES, "MIXED"),
    ("find_similar_pattern", "regime"): without(REGIMES, "MIXED"),
    ("retrieve_correlations", "regime"): without(REGIMES, "ALL"),
    ("retrieve_correlations", "product_id"): NO_IDS,
}
