"""`coinswarm doctor`: is all of it well? Servers, the memory in Redis, the ledger, the archive, and what is scheduled.

Nothing is written. Embedded servers that hold data are started for it where they do not run, as for any command; a home
that was never used stays untouched, and no Prefect server is started. What cannot be reached is one finding, and the
rest is looked at all the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import rich.console
import rich.text

import memory
from deployments.console import Console
from deployments.doctor_ledger import check_ledger
from deployments.doctor_servers import check_archive, check_packages, check_prefect, check_servers
from deployments.examination import Examination, Part, attempt
from deployments.local import load_settings
from deployments.reaching import Reached, reach
from deployments.status import age_text
from memory.commands import command
from memory.errors import CoinswarmError
from memory.settings import Settings
from memory.store.health import Check, CheckStatus, ok, warn
from memory.store.tally import tally
from tasks.progress import Steps, begin

_ORDER = (CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.OK)
_STYLES = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}


# --- the command -----------------------------------------------------------------------------------------------


def doctor(namespace: str | None, console: Console) -> dict[str, Any]:
    """Check everything, and say what was seen and what to do; `status` is the worst of all."""
    settings, steps = load_settings(namespace), Steps()
    with console.steps("Checking"), ExitStack() as stack:
        with steps.step("finding servers"):
            case = Examination(settings, _reached(settings, stack))
        for name, part in PARTS:
            with steps.step(name):
                case.checks += part(case)
    counts = Counter(check.status for check in case.checks)
    return {
        "namespace": settings.namespace,
        "home": str(settings.home),
        "status": next(status for status in _ORDER if counts[status]).value,
        "counts": {status.value: counts[status] for status in _ORDER},
        "checks": [asdict(check) for check in case.checks],
    }


def _reached(settings: Settings, stack: ExitStack) -> Reached:
    """Where the servers are; a home that cannot be used is a finding as well."""
    try:
        return reach(settings, stack)
    except CoinswarmError as error:
        return Reached.nowhere(settings, error)


def show_checks(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """One line a check, and one more for what to do about it."""
    width = max(len(check["name"]) for check in result["checks"])
    for check in result["checks"]:
        status = CheckStatus(check["status"])
        line = rich.text.Text.assemble(
            (f"{status.value:<4}", _STYLES[status]), "  ", (f"{check['name']:<{width}}", "bold"), f"  {check['seen']}"
        )
        out.print(line, soft_wrap=True)
        if check["remedy"]:
            out.print(rich.text.Text(f"{'':<{width + 6}}  -> {check['remedy']}"), soft_wrap=True)
    counts = result["counts"]
    out.print(
        f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed: namespace {result['namespace']} in "
        f"{result['home']}",
        highlight=False,
        soft_wrap=True,
    )


# --- Redis -----------------------------------------------------------------------------------------------------


def check_memory(case: Examination) -> list[Check]:
    """Redis and the memory in it, and how old what it knows is."""
    redis_url = case.reached.redis_url
    if redis_url is None:
        return [] if case.reached.problem else [ok("redis", "nothing was recorded here yet")]

    async def look() -> list[Check]:
        async with memory.connect(redis_url=redis_url, settings=case.settings, replica_urls=()) as mem:
            checks = await mem.health(begin)
            case.experiences = await mem.episodic.count()
            case.live = await mem.episodic.count(source="live")
            case.highest_token = await mem.fence.highest()
            case.freshness = await mem.freshness()
            counted = await tally(mem.link, mem.keys)
            return [*checks, ok("decisions", f"{counted.decisions:,} traces of decisions"), _age_of_knowledge(case)]

    return attempt("redis", lambda: asyncio.run(look()))


def _age_of_knowledge(case: Examination) -> Check:
    """Whether agents act on what is known of days long gone."""
    name, fresh, limit_h = "knowledge age", case.freshness, case.settings.knowledge_max_age_h
    if fresh is None or fresh.age_s is None:
        return ok(name, "nothing was published yet")
    of = "" if fresh.window is None else f" of {fresh.window.name}"
    seen = f"the newest{of} has been known for {age_text(fresh.age_s)}"
    if not case.live:
        return ok(name, f"{seen}; nothing is recorded live")
    if fresh.older_than(timedelta(hours=limit_h)):
        return warn(
            name,
            f"{seen}, longer than {limit_h:g} h.",
            f"{command('status', case.settings.namespace)} names the run that failed, and the command; "
            "COINSWARM_KNOWLEDGE_MAX_AGE_H is the limit.",
        )
    return ok(name, seen)


PARTS: tuple[tuple[str, Part], ...] = (
    ("servers", check_servers),
    ("packages", check_packages),
    ("memory", check_memory),
    ("ledger", check_ledger),
    ("archive", check_archive),
    ("schedules", check_prefect),
)
"""What is examined, in this order: later parts look at what earlier ones found."""
