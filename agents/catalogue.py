"""The catalogue of features: what each one is called, what it means to a trader, and how it is bounded."""

from __future__ import annotations

from dataclasses import dataclass

FEATURE_MINUTES = 180
"""Span that trailing volatilities and means are taken over; what is left of the look-back is for lags and votes."""
LONG_MINUTES = 235
"""Longest span of returns that lies within the look-back of 240 minutes, at bars of up to five."""


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What one feature is, for people and for the encoder.

    Attributes
    ----------
    name, description, unit
        What it is called, what it is in one line, and what it is counted in.
    low_phrase, high_phrase
        What a low or a high value means to a trader; `{size}` stands for the distance from `neutral`.
    low, high
        Clipping range.
    neutral
        The value that says nothing; missing inputs are imputed by it.
    weight
        Weight of the standardised feature in distances between states, beside what an encoder learns from outcomes.
    """

    name: str
    description: str
    unit: str
    low_phrase: str
    high_phrase: str
    low: float
    high: float
    neutral: float = 0.0
    weight: float = 1.0

    def phrase(self, value: float) -> str:
        """What a value means, in words; for example "price has risen 2.1 trailing volatilities in 15 minutes"."""
        template = self.high_phrase if value >= self.neutral else self.low_phrase
        return template.format(size=f"{abs(value - self.neutral):.1f}")


def _return_spec(minutes: int) -> FeatureSpec:
    span = "minute" if minutes == 1 else f"{minutes} minutes"
    return FeatureSpec(
        f"return_{minutes}m",
        f"log return of the last {span}, divided by the trailing volatility of such a span",
        "trailing volatilities",
        f"price has fallen {{size}} trailing volatilities in the last {span}",
        f"price has risen {{size}} trailing volatilities in the last {span}",
        -8.0,
        8.0,
    )


def _volatility_spec(minutes: int, span: int, past: str) -> FeatureSpec:
    return FeatureSpec(
        f"volatility_{minutes}m",
        f"log ratio of the volatility of the last {minutes} minutes to that of the last {span}",
        "log ratio",
        f"the last {minutes} minutes were calmer than the last {past}",
        f"the last {minutes} minutes were wilder than the last {past}",
        -3.0,
        3.0,
    )


def _range_position_spec(minutes: int, span: str) -> FeatureSpec:
    return FeatureSpec(
        f"range_position_{minutes}m",
        f"where the price stands in the range of the last {minutes} minutes: -1 at its low, 1 at its high",
        "share of the range",
        f"price is near its low of the last {span}",
        f"price is near its high of the last {span}",
        -1.0,
        1.0,
    )


def _volume_spec(minutes: int) -> FeatureSpec:
    span = "minute" if minutes == 1 else f"{minutes} minutes"
    return FeatureSpec(
        f"volume_{minutes}m",
        f"log ratio of the volume a minute in the last {span} to that of the last {FEATURE_MINUTES}",
        "log ratio",
        f"volume was light in the last {span}",
        f"volume was heavy in the last {span}",
        -4.0,
        4.0,
    )


QUOTE_WEIGHT = 0.25
"""Quotes are missing in many markets and bars: they refine a neighbourhood, and must not decide it."""
CLOCK_WEIGHT = 0.5
"""Two states hours apart are still alike when all else is; and in a short fit the hour stands for single events."""

FEATURES: tuple[FeatureSpec, ...] = (
    _return_spec(1),
    _return_spec(5),
    _return_spec(15),
    _return_spec(60),
    _return_spec(180),
    _volatility_spec(5, FEATURE_MINUTES, "three hours"),
    FeatureSpec(
        "volatility",
        f"log ratio of the volatility of the last 30 minutes to that of the last {FEATURE_MINUTES}",
        "log ratio",
        "volatility is low against the last three hours",
        "volatility is high against the last three hours",
        -3.0,
        3.0,
    ),
    _volatility_spec(60, LONG_MINUTES, "four hours"),
    FeatureSpec(
        "bar_range",
        "range of the last bar from low to high, in trailing volatilities of a bar, as log(1 + range)",
        "log of trailing volatilities",
        "the last bar was narrow",
        "the last bar was wide",
        0.0,
        4.0,
        neutral=0.9,
    ),
    FeatureSpec(
        "range_15m",
        "log ratio of the range of the last 15 minutes to the trailing volatility of such a span",
        "log ratio",
        "the range of the last 15 minutes was narrow",
        "the range of the last 15 minutes was wide",
        -3.0,
        3.0,
        neutral=0.4,
    ),
    FeatureSpec(
        "bar_position",
        "where the last bar closed in its own range: -1 at its low, 1 at its high; quotes bounce between the two",
        "share of the range",
        "the last bar closed near its low",
        "the last bar closed near its high",
        -1.0,
        1.0,
    ),
    FeatureSpec(
        "bar_deviation",
        "log distance of the last bar's close from the middle of its range, in trailing volatilities of a bar",
        "trailing volatilities",
        "the last bar closed {size} trailing volatilities below its middle",
        "the last bar closed {size} trailing volatilities above its middle",
        -4.0,
        4.0,
    ),
    FeatureSpec(
        "wick_60m",
        "log ratio of the mean range of a bar in the last 60 minutes to the volatility of their closes",
        "log ratio",
        "bars of the last hour hardly moved beyond their closes",
        "bars of the last hour moved far beyond their closes",
        -3.0,
        3.0,
        neutral=0.4,
    ),
    FeatureSpec(
        "evenness_60m",
        "log ratio of the mean size of a bar's move in the last 60 minutes to their root mean square; low where a few "
        "bars made the volatility",
        "log ratio",
        "few bars made most of the last hour's volatility",
        "the last hour's volatility was spread evenly over its bars",
        -3.0,
        0.0,
        neutral=-0.3,
    ),
    FeatureSpec(
        "bounce_60m",
        "autocorrelation of returns at a lag of one bar over the last 60 minutes",
        "correlation",
        "moves of the last hour were undone in the next bar",
        "moves of the last hour went on in the next bar",
        -1.0,
        1.0,
    ),
    _range_position_spec(5, "five minutes"),
    _range_position_spec(60, "hour"),
    FeatureSpec(
        "drawdown",
        f"log distance of the price from its high of the last {FEATURE_MINUTES} minutes, in trailing volatilities of "
        "that span; never above 0",
        "trailing volatilities",
        "price is {size} trailing volatilities below its high of the last three hours",
        "price is at its high of the last three hours",
        -4.0,
        0.0,
    ),
    FeatureSpec(
        "trend_strength",
        "absolute drift of the last 120 minutes, in volatilities of these 120 minutes (a random walk has about 0.8)",
        "volatilities",
        "price has gone nowhere in two hours",
        "price has drifted in one direction for two hours",
        0.0,
        4.0,
        neutral=0.8,
    ),
    FeatureSpec(
        "mean_reversion",
        f"minus log variance ratio of 5-minute to 1-minute returns over the last {FEATURE_MINUTES} minutes; above 0 "
        "moves are taken back",
        "log ratio",
        "moves have been carrying on",
        "moves have been taken back",
        -2.0,
        2.0,
    ),
    FeatureSpec(
        "autocorrelation",
        f"autocorrelation of returns at a lag of 10 minutes over the last {FEATURE_MINUTES} minutes",
        "correlation",
        "moves have tended to be undone ten minutes later",
        "moves have tended to be repeated ten minutes later",
        -1.0,
        1.0,
    ),
    FeatureSpec(
        "hurst_exponent",
        f"scaling exponent of moves over 1 to 32 minutes in the last {FEATURE_MINUTES} minutes; 0.5 is a random walk",
        "exponent",
        "price has been wandering back and forth",
        "price has been persistent",
        0.0,
        1.0,
        neutral=0.5,
    ),
    _volume_spec(1),
    _volume_spec(5),
    FeatureSpec(
        "volume_trend",
        f"log ratio of the volume a minute in the last 30 minutes to that of the last {FEATURE_MINUTES}",
        "log ratio",
        "volume is drying up",
        "volume is building up",
        -3.0,
        3.0,
    ),
    FeatureSpec(
        "volume_pressure_15m",
        "volume of rising bars less that of falling bars in the last 15 minutes, as a share of their volume",
        "share of volume",
        "sellers have dominated the volume of the last 15 minutes",
        "buyers have dominated the volume of the last 15 minutes",
        -1.0,
        1.0,
    ),
    FeatureSpec(
        "orderbook_imbalance",
        "size at the best bid less size at the best ask, as a share of both, mean of the last 5 minutes",
        "share of size",
        "the ask is heavier than the bid",
        "the bid is heavier than the ask",
        -1.0,
        1.0,
        weight=QUOTE_WEIGHT,
    ),
    FeatureSpec(
        "relative_spread",
        f"log ratio of the relative spread of the last 5 minutes to that of the last {FEATURE_MINUTES}",
        "log ratio",
        "the spread is tight",
        "the spread is wide",
        -3.0,
        3.0,
        weight=QUOTE_WEIGHT,
    ),
    FeatureSpec(
        "day_sine",
        "sine of the time of the UTC day: 1 at 06:00, -1 at 18:00",
        "",
        "in the evening (UTC)",
        "in the morning (UTC)",
        -1.0,
        1.0,
        weight=CLOCK_WEIGHT,
    ),
    FeatureSpec(
        "day_cosine",
        "cosine of the time of the UTC day: 1 at 00:00, -1 at 12:00",
        "",
        "around noon (UTC)",
        "around midnight (UTC)",
        -1.0,
        1.0,
        weight=CLOCK_WEIGHT,
    ),
)
FEATURE_NAMES: tuple[str, ...] = tuple(spec.name for spec in FEATURES)

REGIME_FEATURES: tuple[str, ...] = (
    "volatility",
    "trend_strength",
    "mean_reversion",
    "volume_trend",
    "autocorrelation",
    "hurst_exponent",
    "orderbook_imbalance",
    "relative_spread",
)
"""The eight features that tell regimes apart."""

QUOTE_FEATURES: tuple[str, ...] = ("orderbook_imbalance", "relative_spread")
"""Features that need quotes; neutral where there are none."""
