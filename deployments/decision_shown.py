"""A decision in words: what it read, what it rested on, and whether it comes out the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
from rich.table import Table

from deployments.console import print_table

NIGHTS_SHOWN = 7


def show_decision(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """A decision, what it read, and whether it comes out the same."""

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    decision = result["decision"]
    action = decision["action"]
    say(
        f"{decision['agent_id']} decided {action['side']} {action['size']:g} in {decision['product_id']} at "
        f"{decision['timestamp']}, confidence {decision['confidence']:.3f}, from position "
        f"{decision['position_before']:+g}"
    )
    say(f"regime {decision['regime']}, policy {decision['policy']}, encoder {decision['encoder_id']}")
    if decision["probabilities"]:
        chances = ", ".join(f"{value:.3f}" for value in decision["probabilities"])
        say(f"probabilities of short, flat, long, hold: {chances}; seed {decision['seed']}, draw {decision['draw']}")
    say("state: " + ", ".join(f"{name} {value:+.4g}" for name, value in decision["features"].items()))
    say("parameters: " + ", ".join(f"{name} {value}" for name, value in decision["policy_parameters"].items()))
    if not (result["own"] or result["shared"] or result["knowledge"] or decision["messages"]):
        say("it read no memory and heard no message: it rests on state, position and parameters alone")
    if result["unread"]:
        say("known then, and not read, nearest first:")
    for version in result["unread"]:
        say(f"  {_version_in_words(version)}")
        say(f"    {version['description']}")
    for name in ("own", "shared"):
        _show_reads(name, result[name], out)
    for version in result["knowledge"]:
        say(_version_in_words(version))
    for night in result["nights"]:
        run = next((run for run in result["runs"] if run["run_id"] == night["run"]), None)
        by = f"run {night['run']}" if run is None else f"{run['flow']} {run['run_id']}, {run['parameters']}"
        say(f"night {night['window']}: generation {night['generation']}, settings {night['settings_hash']}, by {by}")
    policy = result["policy"]
    if policy is not None:
        trained = "" if policy["trained_until"] is None else f", trained on data until {policy['trained_until']}"
        run = "" if policy["run"] is None else f" by {policy['run']['flow']} {policy['run']['run_id']}"
        say(f"checkpoint {policy['checkpoint']}{trained}{run}")
    replay = result["replay"]
    say(f"taken again: {replay['status']} ({replay['values']} values; {replay['how']})")
    for text in replay["differences"]:
        say(f"  {text}")


def _version_in_words(version: Mapping[str, Any]) -> str:
    nights = version["nights"]
    shown = ", ".join(nights[-NIGHTS_SHOWN:]) or "none in the ledger"
    more = f" and {len(nights) - NIGHTS_SHOWN} before" if len(nights) > NIGHTS_SHOWN else ""
    far = "" if version["distance"] is None else f", distance {version['distance']:.4f}"
    return f"{version['kind']} {version['memory_id']} as of {version['valid_from']}{far}; nights: {shown}{more}"


def _show_reads(name: str, reads: Sequence[Mapping[str, Any]], out: rich.console.Console) -> None:
    if not reads:
        return
    table = Table(title=f"{name} memories", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for title in ("distance", "of", "decided", "known", "regime", "action", "reward, bp", "id"):
        table.add_column(title, justify="right" if title in ("distance", "reward, bp") else "left")
    for read in reads:
        held = read["held"]
        table.add_row(
            f"{read['distance']:.4f}",
            f"{read['agent_id']} {read['product_id']}" if held else "not held any more",
            read["timestamp"][:16] if held else "",
            read["known_at"][:16],
            read["regime"] if held else "",
            f"{read['side']} {read['size']:g}" if held else "",
            f"{1e4 * read['reward']:+.2f}" if held else "",
            read["memory_id"],
        )
    print_table(out, table)
