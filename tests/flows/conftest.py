"""Two nights that flows can be tried on, and what they must end in when nothing disturbs them."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

import memory
from agents.baselines import baseline_agents
from agents.fitting import default_encoder
from agents.market import Market
from agents.simulation import simulate
from memory.ledger import Ledger
from memory.records import EpisodicMemory
from tasks.recording import register_encoder

FIRST, SECOND = dt.date(2021, 6, 17), dt.date(2021, 6, 18)
PRODUCT = "BTC-USDT"
MINUTES = 1440
OBSERVERS = ("breakout", "random")
"""Agents whose experiences are consolidated: two see the same states as five, and are stored sooner."""


@dataclass(frozen=True)
class Nights:
    """What the agents lived through in one product on two days, and what can be done with it.

    Attributes
    ----------
    first, second
        The days.
    product
        What was traded.
    lived
        Experiences of all agents.
    recorded
        How many there are of each day.
    filled
        How many of each day `fill` stores.
    """

    first: dt.date
    second: dt.date
    product: str
    lived: tuple[EpisodicMemory, ...]
    recorded: int
    filled: int

    def fill(self, namespace: str, servers: Any) -> None:
        """Put what two of the agents lived through into a namespace, as a recording does."""
        asyncio.run(self._fill(namespace, servers.redis_url))

    async def _fill(self, namespace: str, redis_url: str) -> None:
        async with memory.connect(redis_url=redis_url, namespace=namespace) as mem:
            await register_encoder(mem, default_encoder())
            report = await mem.episodic.add_many([item for item in self.lived if item.agent_id in OBSERVERS])
            assert len(report.stored) == 2 * self.filled

    def consolidate(self, namespace: str, day: dt.date) -> dict[str, Any]:
        """Run the flow in this process."""
        from flows.consolidate_memories import Parameters, consolidate_memories

        return consolidate_memories(Parameters(namespace=namespace, date=day))

    async def semantic_digest(self, namespace: str, servers: Any) -> str:
        """Digest of all knowledge in Redis."""
        async with memory.connect(redis_url=servers.redis_url, namespace=namespace) as mem:
            return await mem.semantic.digest()

    def digests(self, namespace: str, servers: Any) -> tuple[str, str]:
        """Digests of all knowledge in the ledger and in Redis."""
        with Ledger.open(servers.database_url) as ledger:
            return ledger.digest(namespace).digest, asyncio.run(self.semantic_digest(namespace, servers))


@pytest.fixture(scope="session")
def nights() -> Nights:
    """Two sample days of one product."""
    start = dt.datetime.combine(FIRST, dt.time(), tzinfo=dt.UTC)
    agents = baseline_agents(0)
    simulated = simulate(
        Market.sample("binance", [PRODUCT]), start, start + dt.timedelta(days=2), agents, default_encoder()
    )
    return Nights(
        FIRST, SECOND, PRODUCT, tuple(simulated.experiences()), len(agents) * MINUTES, len(OBSERVERS) * MINUTES
    )


@pytest.fixture(scope="session")
def undisturbed(
    nights: Nights, servers: Any, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """Digests of both days, consolidated by runs that nothing disturbed."""
    assert prefect_server
    namespace = f"t-calm-{uuid.uuid4().hex[:12]}"
    nights.fill(namespace, servers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COINSWARM_HOME", str(tmp_path_factory.mktemp("calm")))
        patch.setenv("COINSWARM_REDIS_URL", servers.redis_url)
        patch.setenv("COINSWARM_DATABASE_URL", servers.database_url)
        for day in (nights.first, nights.second):
            counts = nights.consolidate(namespace, day)["lines"]
    (line,) = counts.values()
    assert line["patterns"] > line["patterns_new"] > 0  # both days left their mark in what is compared
    return nights.digests(namespace, servers)
