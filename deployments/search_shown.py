"""What `coinswarm search` found, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
from rich.table import Table
from rich.text import Text

from deployments.console import print_table, printable
from deployments.patterns import status_of, trade
from memory.records import Side
from memory.reporting import wording

BASIS_POINTS = 1e4


def show_search(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """As of when the answer is, then experiences, patterns and what is to be expected."""

    def say(text: str, style: str = "") -> None:
        out.print(Text(printable(text), style=style), soft_wrap=True)

    say(result["as_of_says"], "bold")
    say(_state_line(result["state"]))
    for note in result["notes"]:
        say(note)
    if result["experiences"]:
        chosen = ", ".join(f"{name} {value}" for name, value in result["filters"].items())
        pool = "shared experiences" if result["shared"] else "experiences"
        say(f"The {len(result['experiences'])} nearest {pool}{f' ({chosen})' if chosen else ''}:", "bold")
        print_table(out, _experience_table(result["experiences"]))
    if result["patterns"]:
        say("The nearest patterns:", "bold")
        print_table(out, _pattern_table(result["patterns"]))
    if result["estimates"]:
        say(estimate_line(result["estimates"]))


def _state_line(state: Mapping[str, Any]) -> str:
    parts = [state["name"]]
    if state["price"] is not None:
        parts.append(f"price {state['price']:,.8g}")
    if state["regime"] is not None:
        sure = f" (confidence {state['regime_confidence']:.2f})" if state["regime_confidence"] is not None else ""
        parts.append(f"{state['regime']}{sure}")
    return f"{', '.join(parts)}; encoder {state['encoder_id']}."


def _experience_table(experiences: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("distance", justify="right")
    for heading in ("time (UTC)", "agent", "product", "regime", "action"):
        table.add_column(heading, no_wrap=heading == "time (UTC)")
    table.add_column("position", justify="right")
    table.add_column("reward bp", justify="right")
    table.add_column("age", justify="right")
    table.add_column("id")
    for item in experiences:
        table.add_row(
            f"{item['distance']:.4f}",
            item["timestamp"][:16].replace("T", " "),
            item["agent_id"],
            item["product_id"],
            item["regime"],
            item["side"] if item["side"] == Side.HOLD.value else f"{item['side']} {item['size']:g}",
            wording.number(item["position_after"], 2, signed=True),
            wording.basis_points(item["reward"]),
            _age(item["age_s"]),
            item["memory_id"],
        )
    return table


def _pattern_table(patterns: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("distance", justify="right")
    for heading in ("within reach", "id", "regime", "status"):
        table.add_column(heading)
    table.add_column("support", justify="right")
    table.add_column("best trade")
    table.add_column("what it is")
    for item in patterns:
        table.add_row(
            f"{item['distance']:.4f}",
            "yes" if item["within_reach"] else "no",
            item["pattern_id"],
            item["regime"],
            status_of(item),
            f"{item['support']:,}",
            trade(item["leading"]),
            Text(printable(item["title"])),
        )
    return table


def estimate_line(estimates: Sequence[Mapping[str, Any]]) -> str:
    """What is expected of each action, net of costs, with what it rests on; or why nothing is."""
    first = estimates[0]
    span = f"Over {wording.horizon(first['horizon_minutes'])}"
    if not first["known"]:
        return f"{span} nothing is to be said of actions: {first['reason']}"
    said = [
        f"{item['action']} {wording.basis_points(item['net_return'])} bp net"
        + ("" if item["action"] == "FLAT" else f" ({_interval(item['interval'])} before costs)")
        for item in estimates
    ]
    move = "" if first["expected_move"] is None else f" The price typically moves {_bp(first['expected_move'])} bp."
    half_hours = wording.plural(first["blocks"], "half-hour")
    if first["neighbours"]:
        pattern = "" if first["pattern_id"] is None else f" and pattern {first['pattern_id']}"
        rests_on = f"{wording.plural(first['neighbours'], 'state')} in {half_hours}{pattern}"
    else:  # Too few remembered states are near: the pattern alone speaks.
        rests_on = f"pattern {first['pattern_id']} alone, seen in {half_hours}"
    return (
        f"{span}: {', '.join(said)}.{move} From {rests_on}; the base rate of LONG is "
        f"{wording.basis_points(first['base_return'])} bp before costs."
    )


def _interval(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "no interval"
    return f"95 % {wording.basis_points(interval['low'])} to {wording.basis_points(interval['high'])}"


def _bp(value: float) -> str:
    return wording.number(BASIS_POINTS * value, 1)


def _age(seconds: float) -> str:
    """An age as people say it: minutes, hours, then days."""
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:,.0f} d"
