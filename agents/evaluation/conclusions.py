"""What an evaluation says, in plain words that follow from the intervals alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.evaluation.assembly import LESS_LOSS, POLICY, UNEVEN
from agents.evaluation.metrics import LATE, SHARPE, TOTAL
from agents.evaluation.settings import (
    BUY_AND_HOLD,
    MEMORY_FORECAST,
    PERMUTED,
    PERMUTED_FORECAST,
    REGULARISED,
    RIDGE_AND_MEMORY,
    RIDGE_AND_MEMORY_RULE,
    RIDGE_FORECAST,
    RIDGE_RULE,
    TRAILING,
    WITH_ESTIMATES,
    WITH_MEMORY,
    WITHOUT_MEMORY,
)
from memory.reporting.evaluation_data import ContestantRow, Figure, Finding, GainRow, KnowledgeRow, SizingRow

SCALES: dict[str, Callable[[float], str]] = {
    TOTAL: lambda value: f"{100 * value:+.1f} %",
    LATE: lambda value: f"{100 * value:+.1f} %",
    SHARPE: lambda value: f"{value:+.2f}",
    LESS_LOSS: lambda value: f"{value:+.4f}",
}


def conclude(
    *,
    conclusive: bool,
    reference: str,
    cells: Sequence[str],
    contestants: dict[str, list[ContestantRow]],
    gains: Sequence[GainRow],
    knowledge: Sequence[KnowledgeRow],
    sizing: Sequence[SizingRow],
    sizing_gains: Sequence[GainRow],
    variants: int,
) -> list[Finding]:
    """The findings, the first of which answers the question; each follows from an interval that it names."""
    by_pair = {(row.cell, row.ours, row.theirs): row for row in gains}
    findings = []
    if not conclusive:
        findings.append(
            Finding(
                "Too short to conclude",
                "There are fewer than four folds of thirty test days: what follows shows that the evaluation works, "
                "and says nothing about memory.",
            )
        )
    first = by_pair.get((reference, WITH_MEMORY, WITHOUT_MEMORY))
    if first is not None:
        findings.append(_does_it_help(first, reference))
        findings.extend(_why(by_pair, reference))
        findings.append(_elsewhere(by_pair, reference, cells))
    findings.extend(_what_is_known(knowledge))
    findings.extend(_risk(sizing, sizing_gains))
    findings.extend(_beside_simple_things(by_pair, contestants[reference], reference))
    findings.append(
        Finding(
            "How much was tried",
            f"{variants} combinations of contestant, cost and interval were compared here, beside those explored on "
            "earlier spans. At 95 % one interval in twenty leaves out 0 by luck alone: single cells that do are no "
            "evidence unless their neighbours agree.",
        )
    )
    return findings


def _does_it_help(row: GainRow, cell: str) -> Finding:
    total, sharpe = row.figures[TOTAL], row.figures[SHARPE]
    verdict = total.decided
    heading = {1: "Memory helps", -1: "Memory harms", 0: "No gain from memory can be shown"}[verdict]
    words = {
        1: "earned more than the same network without",
        -1: "earned less than the same network without",
        0: "cannot be told apart from the same network without",
    }[verdict]
    return Finding(
        heading,
        f"At {cell} the policy that retrieves memories {words}: {shown(total, TOTAL)} of the notional over the test "
        f"spans, Sharpe ratio {shown(sharpe, SHARPE)}, paired by day and seed.",
        verdict,
    )


def _why(by_pair: dict[tuple[str, str, str], GainRow], cell: str) -> list[Finding]:
    texts = (
        (
            PERMUTED,
            WITH_MEMORY,
            "Is it what memory holds?",
            "Against the same policy whose memories carry the outcomes of other states",
        ),
        (
            WITHOUT_MEMORY,
            WITH_ESTIMATES,
            "Do more neighbours help?",
            "A policy that is also told the mean outcome of many more neighbours, against the one without memory",
        ),
        (
            WITHOUT_MEMORY,
            REGULARISED,
            "Does MacroHFT's use of memory help?",
            "Remembered values that only steady training, against training without",
        ),
    )
    found = []
    for theirs, ours, heading, text in texts:
        row = by_pair.get((cell, ours, theirs))
        if row is not None:
            total = row.figures[TOTAL]
            found.append(
                Finding(
                    heading,
                    f"{text}: {shown(total, TOTAL)} in total return, Sharpe ratio "
                    f"{shown(row.figures[SHARPE], SHARPE)}. {verdict_words(total)}",
                    total.decided,
                )
            )
    return found


def _elsewhere(by_pair: dict[tuple[str, str, str], GainRow], reference: str, cells: Sequence[str]) -> Finding:
    rows = [by_pair[cell, WITH_MEMORY, WITHOUT_MEMORY] for cell in cells if cell != reference]
    better = [row.cell for row in rows if row.figures[TOTAL].decided > 0]
    worse = [row.cell for row in rows if row.figures[TOTAL].decided < 0]
    if not rows:
        return Finding("At other costs and intervals", "Nothing else was evaluated.")
    parts = [f"{len(rows) - len(better) - len(worse)} of {len(rows)} further cells are undecided"]
    if better:
        parts.append(f"memory earns more at {'; '.join(better)}")
    if worse:
        parts.append(f"memory earns less at {'; '.join(worse)}")
    return Finding("At other costs and intervals", ", ".join(parts) + ".", bool(better) - bool(worse))


def _what_is_known(knowledge: Sequence[KnowledgeRow]) -> list[Finding]:
    found = []
    for outcome in ("volatility", "return"):
        rows = {row.forecaster: row for row in knowledge if row.outcome == outcome}
        if f"{MEMORY_FORECAST} less {PERMUTED_FORECAST}" not in rows:
            continue
        over_chance = decided(rows[f"{MEMORY_FORECAST} less {PERMUTED_FORECAST}"])
        over_ridge = decided(rows[f"{MEMORY_FORECAST} less {RIDGE_FORECAST}"])
        added = decided(rows[f"{RIDGE_AND_MEMORY} less {RIDGE_FORECAST}"])
        texts = [
            f"Remembered neighbours rank {'the volatility that follows' if outcome == 'volatility' else 'returns'} "
            f"{_where(over_chance, 'better than memories with permuted outcomes')}"
        ]
        texts.append(f"{_where(over_ridge, 'better than ridge regression')}, {_where(over_ridge, 'worse', -1)}")
        texts.append(f"added to ridge they bring more {_where(added, '')}".rstrip())
        found.append(
            Finding(
                f"What memory knows of {'risk' if outcome == 'volatility' else 'direction'}",
                "; ".join(texts) + ".",
                int(any(value > 0 for value in over_chance.values())),
            )
        )
    return found


def _risk(sizing: Sequence[SizingRow], gains: Sequence[GainRow]) -> list[Finding]:
    rows = {(row.ours, row.theirs): row for row in gains}
    trailing, ridge = rows.get((MEMORY_FORECAST, TRAILING)), rows.get((MEMORY_FORECAST, RIDGE_FORECAST))
    if trailing is None or ridge is None:
        return []
    uneven = {row.name: row.figures[UNEVEN] for row in sizing}
    against, beside = trailing.figures[LESS_LOSS], ridge.figures[LESS_LOSS]
    values = {name: uneven[name].value for name in (MEMORY_FORECAST, TRAILING)}
    told = " and ".join(f"{value:.2f} with {name}" for name, value in values.items() if value is not None)
    return [
        Finding(
            "Sizing by remembered risk",
            f"Memory's forecast of the next hour's risk errs less than the trailing volatility by "
            f"{shown(against, LESS_LOSS)} (QLIKE), and than ridge by {shown(beside, LESS_LOSS)}. Unevenness of the "
            f"risk taken: {told}. Against the trailing volatility: {verdict_words(against)}",
            against.decided,
        )
    ]


def _beside_simple_things(
    by_pair: dict[tuple[str, str, str], GainRow], rows: Sequence[ContestantRow], cell: str
) -> list[Finding]:
    found = []
    for theirs in (RIDGE_RULE, BUY_AND_HOLD):
        row = by_pair.get((cell, WITH_MEMORY, theirs))
        if row is not None:
            total = row.figures[TOTAL]
            found.append(
                Finding(
                    f"Beside {'ridge regression' if theirs == RIDGE_RULE else theirs}",
                    f"The policy with memory less {'ridge as a trading rule' if theirs == RIDGE_RULE else theirs}: "
                    f"{shown(total, TOTAL)}. {verdict_words(total)}",
                )
            )
    rule = by_pair.get((cell, RIDGE_AND_MEMORY_RULE, RIDGE_RULE))
    if rule is not None:
        total = rule.figures[TOTAL]
        found.append(
            Finding(
                "Memory in a simple rule",
                f"Ridge that also knows what neighbours brought, less ridge alone, as trading rules: "
                f"{shown(total, TOTAL)}. {verdict_words(total)}",
                total.decided,
            )
        )
    trained = [row for row in rows if row.sort == POLICY and row.figures[LATE].value is not None]
    if trained:
        late = ", ".join(f"{row.name} {shown(row.figures[LATE], LATE)}" for row in trained)
        found.append(
            Finding(
                "Filled a bar late",
                f"The same decisions with every order filled one bar later, so that no bounce between bid and ask is "
                f"earned: {late}.",
            )
        )
    return found


def decided(row: KnowledgeRow) -> dict[int, int]:
    """By horizon: 1 above 0, -1 below, 0 undecided."""
    return {horizon: figure.decided for horizon, figure in row.by_horizon.items()}


def _where(verdicts: dict[int, int], text: str, sign: int = 1) -> str:
    horizons = [f"{horizon}" for horizon, value in verdicts.items() if value == sign]
    if not horizons:
        return f"{text} at no horizon".strip()
    return f"{text} at {', '.join(horizons)} minutes".strip()


def shown(figure: Figure, name: str) -> str:
    """A figure with its interval, in the figure's own unit."""
    scale = SCALES[name]
    if figure.value is None:
        return "unknown"
    if figure.interval is None:
        return f"{scale(figure.value)} (no interval: too few blocks)"
    return f"{scale(figure.value)} (95 %: {scale(figure.interval.low)} to {scale(figure.interval.high)})"


def verdict_words(figure: Figure) -> str:
    """What an interval decides."""
    if figure.interval is None:
        return "Too few blocks to tell."
    return {1: "Better, beyond chance.", -1: "Worse, beyond chance.", 0: "The interval holds 0: undecided."}[
        figure.decided
    ]
