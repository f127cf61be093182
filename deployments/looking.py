"""One look at everything that serves a namespace: servers, Redis, the ledger and Prefect, as far as they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import memory
from deployments.prefect_state import FailedRun, Looked, look
from deployments.reaching import READY, Reached, ServerState, as_asked, reach
from deployments.retrying import unrecorded
from memory.embedded.home import Home
from memory.errors import CoinswarmError
from memory.ledger import Ledger
from memory.ledger.database import Database
from memory.ledger.migrate import schema_revision
from memory.ledger.migrations import HEAD
from memory.settings import Settings
from memory.store.tally import Tally
from tasks.observing import (
    LEDGER,
    REDIS,
    LedgerFacts,
    MemoryFacts,
    Observation,
    attempted,
    observe_ledger,
    observe_memory,
)

PREFECT, SERVERS = "prefect", "servers"


class LedgerSchemaError(CoinswarmError):
    """A ledger whose schema is another than this software's: it is not looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen.

    Attributes
    ----------
    reached
        Where the servers are.
    servers
        Their states after they were asked.
    problems
        What could not be asked, and why, by name.
    """

    reached: Reached
    servers: Sequence[ServerState]
    observation: Observation
    prefect: Looked
    problems: Mapping[str, CoinswarmError] = field(default_factory=dict)

    @property
    def lost_runs(self) -> list[FailedRun]:
        """Runs that failed before the ledger knew of them (`unrecorded`); none where one of the two was not asked."""
        state, ledger = self.prefect.state, self.observation.ledger
        if state is None or self.reached.database_url is None or LEDGER in self.problems:
            return []
        flows = {} if ledger is None else ledger.flows
        return unrecorded(state.failed_runs, {name: flow.last for name, flow in flows.items()})


def look_around(settings: Settings, stack: ExitStack, *, start: bool = True) -> Sight:
    """Look at everything of a namespace; embedded servers stay up until `stack` ends.

    Parameters
    ----------
    start
        As for `reach`.
    """
    reached = reach(settings, stack, start=start)
    problems: dict[str, CoinswarmError] = {} if reached.problem is None else {SERVERS: reached.problem}
    home = Home.at(settings.home)
    with ThreadPoolExecutor(max_workers=1) as aside:
        # Redis answers while Postgres does; Prefect is asked what it knows of the ledger's runs.
        redis = aside.submit(partial(attempted, REDIS, partial(ask_redis, settings, reached.redis_url), problems))
        ledger = attempted(LEDGER, partial(ask_ledger, settings.namespace, reached.database_url), problems)
        looked = look(reached.prefect_api_url, home, settings.namespace, _failed_runs(ledger))
        held = redis.result()
    if looked.problem is not None:
        problems[PREFECT] = looked.problem
    return Sight(
        reached=reached,
        servers=servers_as_asked(reached, problems, held, ledger, looked),
        observation=Observation(
            namespace=settings.namespace,
            memory=held,
            ledger=ledger,
            problems={name: error for name, error in problems.items() if name in (REDIS, LEDGER)},
            observed_at=datetime.now(UTC),
        ),
        prefect=looked,
        problems=dict(sorted(problems.items())),
    )


def ask_redis(settings: Settings, redis_url: str | None, known: Tally | None = None) -> MemoryFacts | None:
    """What Redis holds; None where there is none. Raises as `observe_memory` does."""
    if redis_url is None:
        return None

    async def ask() -> MemoryFacts:
        async with memory.connect(redis_url=redis_url, settings=settings, replica_urls=()) as mem:
            return await observe_memory(mem, known=known)

    return asyncio.run(ask())


def ask_ledger(namespace: str, database_url: str | None) -> LedgerFacts | None:
    """What the ledger holds; None where there is no database, or no ledger in it yet. It is never migrated here.

    Raises
    ------
    StoreUnavailableError, ServerUnsuitableError
        Postgres cannot be reached, or is none.
    LedgerSchemaError
        The ledger has another schema.
    """
    if database_url is None:
        return None
    database = Database.connect(database_url)
    try:
        return observe_where_current(database, namespace)
    finally:
        database.dispose()


def observe_where_current(database: Database, namespace: str) -> LedgerFacts | None:
    """What the ledger in a database holds, where its schema is this software's; None where there is no ledger yet."""
    with database.translated_errors(), database.engine.connect() as connection:
        revision = schema_revision(connection)
    if revision is None:
        return None
    if revision != HEAD:
        raise LedgerSchemaError(
            f"the ledger at {database.display_url} has schema {revision}, and this software {HEAD}.",
            remedy="Upgrade the software." if revision > HEAD else "coinswarm upgrade, or the next flow, migrates it.",
        )
    return observe_ledger(Ledger(database), namespace)


def _failed_runs(ledger: LedgerFacts | None) -> list[str]:
    """Prefect's ids of the last runs that failed."""
    if ledger is None:
        return []
    last = [flow.last for flow in ledger.flows.values() if flow.has_failed]
    return sorted(run.flow_run_id for run in last if run.flow_run_id is not None)


def servers_as_asked(
    reached: Reached,
    problems: Mapping[str, CoinswarmError],
    held: MemoryFacts | None,
    ledger: LedgerFacts | None,
    looked: Looked,
) -> list[ServerState]:
    """States of Redis, Postgres and Prefect after they were asked."""
    redis, postgres, prefect = reached.servers
    if held is not None:
        search = f" with search {held.redis.search_version}" if held.redis.search_version else ""
        redis = as_asked(redis, None, address=held.redis.address, version=f"{held.redis.version or '?'}{search}")
    else:
        redis = as_asked(redis, problems.get(REDIS))
    away = problems.get(LEDGER)
    if ledger is not None:
        postgres = as_asked(postgres, None, address=ledger.address, version=ledger.version)
    elif away is not None and not isinstance(away, LedgerSchemaError):
        postgres = as_asked(postgres, away)
    elif reached.database_url is not None:
        # It answered: there is no ledger in it yet, or one of another schema.
        postgres = replace(postgres, state=READY)
    state = looked.state
    prefect = as_asked(
        prefect,
        looked.problem,
        address="" if state is None else state.url,
        version="" if state is None else state.version,
    )
    return [redis, postgres, prefect]
