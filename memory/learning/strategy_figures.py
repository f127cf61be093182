"""What is read off an agent's sums: Sharpe ratios of shrunk means, and what agents without a direction would show.

The mean block return of an agent in a regime is mostly luck after some days. Before costs it is therefore drawn towards
no gain, by how much agents differ from one another at all (empirical Bayes, as the patterns' means are); its costs are
no luck and stay. Beside it stand random agents of the same positions and costs, whose direction is tossed in each
block: the share of them that passes a rule says what passing it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from memory.learning.figures import moderated_return_variance, sharpe_with
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Moments, deflated_sharpe, sharpe, shrinkage_weight
from memory.learning.strategies import ALL_REGIMES, StrategyCell, StrategyState
from memory.tables import Floats

_MINUTES_PER_DAY = 1440


@dataclass(frozen=True, slots=True)
class StrategyFigures:
    """One agent in one regime, or in `ALL_REGIMES`; Sharpe ratios are annualised and net of costs, NaN where unknown.

    Attributes
    ----------
    regime
        The regime.
    judged
        Whether it was active in blocks enough to be chosen for its Sharpe ratio; `ALL_REGIMES` always is.
    mean
        Shrunk mean block return.
    sharpe, raw_sharpe, sharpe_low
        From the shrunk mean; as it was; from the lower end of the interval of the mean.
    deflated
        Probability that the true Sharpe ratio exceeds what the best of as many agents and regimes shows by luck.
    random
        (RANDOM_AGENTS,): `sharpe` of the random agents, shrunk by the same prior.
    """

    regime: str
    judged: bool
    mean: float
    sharpe: float
    raw_sharpe: float
    sharpe_low: float
    deflated: float
    random: Floats


def periods_per_year(settings: LearningSettings) -> float:
    """Blocks a year that strategies' Sharpe ratios are annualised with."""
    return settings.trading_days_per_year * _MINUTES_PER_DAY / settings.block_minutes


def strategy_figures(state: StrategyState, settings: LearningSettings) -> dict[tuple[str, str], StrategyFigures]:
    """Figures of all cells, by agent and regime.

    Parameters
    ----------
    state
        The fold's state.
    settings
        Blocks, confidence, and the weight of an agent's overall variance beside that of a regime with few blocks.

    Notes
    -----
    The prior of regimes is taken from the cells of regimes, that of `ALL_REGIMES` from those: a regime's blocks are
    part of all blocks, so one prior for both would count them twice. Cells in which an agent never acted say nothing
    about skill and are left out of it. Luck is deflated by the variance that Sharpe ratios without skill have, 1 / (n -
    1) a block: that among the trials themselves would count the skill of the best against it. Cost: O(cells x random
    agents).
    """
    overall = {cell.agent: cell for cell in state.cells if cell.regime == ALL_REGIMES}
    figures: dict[tuple[str, str], StrategyFigures] = {}
    for regimes in (False, True):
        cells = [cell for cell in state.cells if (cell.regime != ALL_REGIMES) == regimes]
        between = _between(cells, overall, settings)
        errors = [
            1.0 / float(cell.net.count - 1)
            for cell in cells
            if cell.active >= settings.min_blocks and np.isfinite(sharpe(cell.net, 1.0))
        ]
        trials = float(np.mean(errors)) if errors else 0.0, len(errors)
        for cell in cells:
            figures[cell.agent, cell.regime] = _figures(cell, overall[cell.agent], between, trials, settings)
    return figures


def best_figures(figures: Sequence[StrategyFigures]) -> StrategyFigures:
    """The judged regime of one agent with the highest shrunk Sharpe ratio; `ALL_REGIMES` where none has one."""
    known = [item for item in figures if item.judged and not np.isnan(item.sharpe)]
    if not known:
        return next(item for item in figures if item.regime == ALL_REGIMES)
    return max(known, key=lambda item: (item.sharpe, item.regime))


def random_pass_share(figures: Sequence[StrategyFigures], threshold: float) -> float | None:
    """Share of one agent's random agents whose best judged regime exceeds a Sharpe ratio; None where none has any."""
    ratios = np.stack([item.random for item in figures if item.judged])
    if np.isnan(ratios).all():
        return None
    return float((np.where(np.isnan(ratios), -np.inf, ratios).max(axis=0) > threshold).mean())


def _between(cells: Sequence[StrategyCell], overall: Mapping[str, StrategyCell], settings: LearningSettings) -> float:
    """Variance of the true Sharpe ratios a block, before costs, between agents and regimes.

    The moment estimator of `statistics.between_variance`, at the lower end: of Cochran's Q only what exceeds the
    `confidence` quantile of its distribution without any skill counts. Five agents without skill would else be granted
    some in every second case, and the best of them a good part of its luck.
    """
    deviations, errors = [], []
    for cell in cells:
        variance = float(moderated_return_variance(cell.net, overall[cell.agent].net, settings))
        if cell.active and cell.net.count and variance > 0:
            deviations.append(float(cell.net.mean + _cost(cell)) / np.sqrt(variance))
            errors.append(1.0 / float(cell.net.count))
    if not errors:
        return 0.0
    weights = 1.0 / np.array(errors)
    excess = float((weights * np.array(deviations) ** 2).sum())
    excess -= float(distributions.chi2.ppf(settings.confidence, len(errors)))
    return max(excess, 0.0) / float(weights.sum())


def _figures(
    cell: StrategyCell,
    overall: StrategyCell,
    between: float,
    trials: tuple[float, int],
    settings: LearningSettings,
) -> StrategyFigures:
    periods = periods_per_year(settings)
    own = _shrunk(cell.net, cell, between)
    random = random_moments(cell)
    random_overall = random_moments(overall)
    return StrategyFigures(
        regime=cell.regime,
        judged=cell.regime == ALL_REGIMES or cell.active >= settings.min_blocks,
        mean=float(own) if cell.net.count else float("nan"),
        sharpe=_known(sharpe_with(own, cell.net, overall.net, periods, settings), cell),
        raw_sharpe=float(sharpe(cell.net, periods)),
        sharpe_low=_known(
            sharpe_with(np.asarray(_lower_end(cell, settings)), cell.net, overall.net, periods, settings), cell
        ),
        deflated=float(deflated_sharpe(cell.net, *trials)),
        random=np.where(
            cell.net.count > 1,
            sharpe_with(_shrunk(random, cell, between), random, random_overall, periods, settings),
            np.nan,
        ),
    )


def random_moments(cell: StrategyCell) -> Moments:
    """Moments of the block returns of a cell's random agents: shape (RANDOM_AGENTS,)."""
    count = np.full(len(cell.random_total), int(cell.net.count), dtype=np.int64)
    mean = cell.random_total / np.maximum(count, 1)
    nothing = np.zeros(len(count))
    return Moments(count, mean, np.maximum(cell.random_squares - count * mean**2, 0.0), nothing, nothing)


def _shrunk(net: Moments, cell: StrategyCell, between: float) -> Floats:
    """Net means whose part before costs is drawn towards 0; shape of the moments."""
    cost = _cost(cell)
    weight = shrinkage_weight(1.0 / max(float(cell.net.count), 1.0), between)
    return np.asarray(weight * (net.mean + cost) - cost)


def _cost(cell: StrategyCell) -> float:
    """Mean cost a block; 0 where the returns before costs are not known in all blocks."""
    known = cell.gross.count == cell.net.count
    return float(cell.gross.mean - cell.net.mean) if known else 0.0


def _lower_end(cell: StrategyCell, settings: LearningSettings) -> float:
    """Lower end of the interval of the mean block return: Student's t; NaN under `min_blocks`."""
    count = int(cell.net.count)
    if count < settings.min_blocks:
        return float("nan")
    quantile = float(distributions.t.ppf(0.5 + settings.confidence / 2, count - 1))
    return float(cell.net.mean) - quantile * float(np.sqrt(cell.net.variance / count))


def _known(ratio: Floats, cell: StrategyCell) -> float:
    """A Sharpe ratio of at least two blocks, as a number."""
    return float(ratio) if cell.net.count > 1 else float("nan")
