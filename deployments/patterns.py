"""`coinswarm patterns`: what was learned, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import rich.console
from rich.padding import Padding

from deployments.local import load_settings


def patterns(namespace: str | None, as_of: datetime | None) -> list[dict[str, Any]]:
    """All current patterns in full, in the order of the report: by the shrunk net mean of the best trade."""
    from memory.learning.settings import DEFAULT_SETTINGS
    from memory.records import PatternMemory, SemanticType
    from memory.reporting.ranking import FADED, strongest
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace:

        async def read(mem: Any) -> list[Any]:
            semantic = mem.semantic if as_of is None else mem.at(as_of.replace(tzinfo=UTC)).semantic
            lines = await mem.semantic.current_lines()
            return [memory for line in lines for memory in await semantic.current(SemanticType.PATTERN, line=line)]

        found = [memory for memory in workspace.with_memory(read) if isinstance(memory, PatternMemory)]
    faded = sorted((memory for memory in found if memory.status == FADED), key=lambda memory: memory.pattern_id)
    ranked = [*strongest(found, DEFAULT_SETTINGS.reference_horizon_minutes), *faded]
    return [_plain(memory) for memory in ranked]


def _plain(memory: Any) -> dict[str, Any]:
    def hook(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} has no JSON form")

    plain: dict[str, Any] = msgspec.to_builtins(memory, enc_hook=hook)
    return plain


def show_patterns(found: Sequence[Mapping[str, Any]], out: rich.console.Console, limit: int) -> None:
    """The strongest patterns in a table."""
    if not found:
        out.print("No patterns yet: run 'coinswarm demo', or 'coinswarm run nightly' after recording.")
        return
    from memory.learning.settings import DEFAULT_SETTINGS

    horizon = DEFAULT_SETTINGS.reference_horizon_minutes
    out.print(f"{len(found)} patterns, strongest first", style="bold", highlight=False)
    for pattern in found[:limit]:
        best = max(
            (item for item in pattern["outcomes"] if item["horizon_minutes"] == horizon and item["action"] != "FLAT"),
            key=lambda item: item["shrunk_net_mean"],
            default=None,
        )
        trade = (
            "no trade was possible"
            if best is None
            else f"best trade {best['action']}, {horizon} min: {1e4 * best['shrunk_net_mean']:+.1f} bp net, shrunk"
        )
        out.print(
            f"[bold]{pattern['pattern_id']}[/bold]  {pattern['regime']}, {pattern['status']}, "
            f"{pattern['support']} occurrences; {trade}",
            highlight=False,
        )
        out.print(Padding(pattern["description"], (0, 0, 1, 4)), highlight=False)
    if len(found) > limit:
        out.print(f"{len(found) - limit} more: --limit {len(found)}, or --json for all of them in full.")
