"""The users of a namespace: what each of them needs works, and what it must not do is refused by the server."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import memory
from memory import MemoryConnection
from memory.errors import AccessDeniedError, InvalidRecordError
from memory.messages import AgentMemoryMessage
from memory.semantic_records import SemanticType
from memory.store.acl import apply_users, lets_anybody_in, password_hash, users
from memory.store.servers import with_credentials

ROLES = {"agent": 2, "reader": 1, "jobs": 0}
"""Where in `users(namespace, ["hold"])` the user of a role is."""


@dataclass
class Users:
    """The same memory as an administrator, and as each of its users; and another namespace of the same server."""

    admin: MemoryConnection
    other: MemoryConnection
    agent: MemoryConnection
    reader: MemoryConnection
    jobs: MemoryConnection


@pytest.fixture
async def opened(
    servers: Any, mem: MemoryConnection, as_user: Callable[..., str], make: Any, build: Any
) -> AsyncIterator[Users]:
    made = users(mem.namespace, ["hold"])
    other = f"{mem.namespace}-2"
    async with AsyncExitStack() as stack:

        async def enter(url: str, namespace: str = mem.namespace) -> MemoryConnection:
            return await stack.enter_async_context(memory.connect(redis_url=url, namespace=namespace))

        connections = {role: await enter(as_user(made[place])) for role, place in ROLES.items()}
        found = Users(mem, await enter(servers.redis_url, other), **connections)
        for target in (found.jobs, found.other):
            await target.episodic.add_many([make(minute) for minute in range(5)])
        for target in (found.admin, found.other):
            await target.link.execute("XADD", target.keys.inbox("momentum"), "*", "content", "x")
            await target.link.execute("XADD", target.keys.messages("momentum", "live"), "*", "c", "x")
        yield found


def command(template: str, opened: Users) -> list[str]:
    """A command in which NS and TWO stand for the namespaces."""
    return [
        word.replace("NS", opened.admin.namespace).replace("TWO", opened.other.namespace) for word in template.split()
    ]


# --- what they need --------------------------------------------------------------------------------------------


async def test_an_agent_lives_with_its_rights(opened: Users, make: Any, build: Any) -> None:
    pattern = build["pattern"]()
    await opened.jobs.fence.raise_to(1)
    await opened.jobs.semantic.publish(
        [pattern], line=pattern.line, kinds=frozenset({SemanticType.PATTERN}), token=1, valid_from=pattern.valid_from
    )
    mem = opened.agent
    await mem.inbox.append(make(7, agent_id="hold"))
    await mem.messages.send(told("storm"))
    async with mem.messages.read("hold", wait=False) as reader:
        heard = [message async for message in reader]
    assert [message.insight for message in heard] == []
    await opened.admin.messages.send(told("calm", sender="regime"))
    async with mem.messages.read("hold", wait=False, lease=timedelta(seconds=5)) as reader:
        assert [message.insight async for message in reader] == ["calm"]
        assert reader.report().handled == 1
    vector = build["vector"](3)
    assert len(await mem.retrieval.retrieve_similar_experiences(vector, agent_id="momentum", top_k=3)) == 3
    found = await mem.retrieval.retrieve_patterns(build["vector"](0), top_k=1)
    assert found
    await mem.access.flush()
    assert sum((await opened.admin.access.all_counts(datetime.now(UTC))).values()) == 1
    assert await opened.admin.inbox.length() == {"hold": 1, "momentum": 1}


async def test_the_near_cache_works_with_an_agents_rights(opened: Users, build: Any) -> None:
    near = opened.agent.near
    assert near is not None
    for seed in range(40):
        await opened.agent.retrieval.retrieve_similar_experiences(build["vector"](seed), agent_id="momentum", top_k=2)
    async with asyncio.timeout(10):
        while not near.describe().agents:
            await asyncio.sleep(0.02)
            await opened.agent.retrieval.retrieve_similar_experiences(build["vector"](1), agent_id="momentum", top_k=2)
    assert not near.describe().problems


async def test_a_reader_asks_and_writes_nothing(opened: Users, make: Any, build: Any) -> None:
    assert len(await opened.reader.retrieval.retrieve_similar_experiences(build["vector"](2), top_k=2)) == 2
    pages = [page async for page in opened.reader.episodic.read_window(make(0).timestamp, make(5).timestamp)]
    assert sum(len(page) for page in pages) == 5
    for attempt in (
        opened.reader.inbox.append(make(1)),
        opened.reader.messages.send(told("no")),
        opened.reader.episodic.add_many([make(9)]),
    ):
        with pytest.raises(AccessDeniedError):
            await attempt


async def test_rules_are_applied_again_without_a_change_and_say_what_outlives_a_restart(own_redis: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="one") as admin:
        chosen = [(user, "pass word") for user in users("one", ["hold"])]
        assert await apply_users(admin.link, chosen) is False  # This server has no ACL file.
        before = await admin.link.execute("ACL", "LIST")
        await apply_users(admin.link, chosen)
        assert await admin.link.execute("ACL", "LIST") == before
        url = with_credentials(own_redis.url, "one.agent.hold", "pass word")
        async with memory.connect(redis_url=url, namespace="one") as agent:
            with pytest.raises(AccessDeniedError, match="may not administer users"):
                await apply_users(agent.link, chosen)


async def test_a_server_lets_anybody_in_until_its_default_user_is_off_or_has_a_password(own_redis: Any) -> None:
    async with memory.connect(redis_url=own_redis.url, namespace="one") as admin:
        assert await lets_anybody_in(admin.link)
        await admin.link.execute("ACL", "SETUSER", "default", "resetpass", ">hidden-word")
        assert not await lets_anybody_in(admin.link)
        await admin.link.execute("ACL", "SETUSER", "default", "nopass", "off")
        assert not await lets_anybody_in(admin.link)
        await admin.link.execute("ACL", "SETUSER", "default", "on")


def test_rules_hold_the_hash_of_the_password_alone() -> None:
    line = users("one")[0].line("a-password")
    assert "a-password" not in line
    assert f" {password_hash('a-password')} " in line
    assert password_hash("a-password") == "#" + hashlib.sha256(b"a-password").hexdigest()


def test_no_rule_is_a_category_and_none_allows_all() -> None:
    for user in users("one", ["hold"]):
        rules = " ".join(user.rules())
        assert "+@" not in rules
        assert "~*" not in rules
        assert "allkeys" not in rules
        assert not {"+config", "+acl", "+eval", "+keys", "+flushall", "+debug", "+function"} & set(rules.split())


NOT_THE_JOBS = frozenset({"acl", "save", "auth", "select", "config"})
"""Words of `coinswarm acl`, of a greeting with another database, and of what `doctor` asks where it may."""


async def test_the_jobs_may_run_every_command_that_is_named_in_the_project(mem: MemoryConnection) -> None:
    known = {name.decode().lower() for name in await mem.link.execute("COMMAND", "LIST")}
    allowed = {command.partition("|")[0] for command in users("one")[0].root.commands}
    root = Path(memory.__file__).parents[1]
    named = {
        word.lower(): path.name
        for room in ("memory", "agents", "tasks", "flows", "deployments")
        for path in (root / room).rglob("*.py")
        for word in re.findall(r"""["']([A-Z][A-Z._]+)["']""", path.read_text(encoding="utf-8"))
    }
    assert {"hset", "ft.search", "xreadgroup"} <= named.keys() & known
    missing = {word: file for word, file in named.items() if word in known - allowed - NOT_THE_JOBS}
    assert missing == {}, "add them to the lists of memory/store/acl.py"


@pytest.mark.parametrize("agent", ["*", "a b", "a~b", "a:*", "", "a)"])
def test_a_name_that_would_change_the_rules_is_refused(agent: str) -> None:
    with pytest.raises(InvalidRecordError):
        users("one", [agent])


# --- what they must not do -------------------------------------------------------------------------------------

FOR_NOBODY = [
    "FT.SEARCH TWO:episodic:v1:rff-1 *",
    "FT.SEARCH TWO:episodic_memory_index *",
    "FT.AGGREGATE TWO:episodic:v1:rff-1 *",
    "FT.INFO TWO:episodic:v1:rff-1",
    "FT.DROPINDEX TWO:episodic:v1:rff-1 DD",
    "FT.ALTER TWO:episodic:v1:rff-1 SCHEMA ADD zz TAG",
    "FT.ALIASADD NS:alias TWO:episodic:v1:rff-1",
    "FT.ALIASUPDATE NS:alias TWO:episodic:v1:rff-1",
    "FT.CONFIG GET *",
    "GET TWO:current_encoder",
    "MGET NS:current_encoder TWO:current_encoder",
    "XRANGE TWO:inbox:momentum - +",
    "XADD TWO:inbox:hold * content x",
    "SET TWO:fence 9",
    "RENAME NS:current_encoder TWO:current_encoder",
    "COPY NS:current_encoder TWO:current_encoder",
    "MEMORY USAGE TWO:current_encoder",
    "KEYS *",
    "SELECT 1",
    "EVAL return(1) 0",
    "FUNCTION LIST",
    "ACL LIST",
    "ACL SETUSER evil on nopass +@all ~*",
    "CONFIG GET requirepass",
    "CLIENT LIST",
    "CLUSTER INFO",
    "SLOWLOG GET",
    "PUBLISH channel x",
]
FOR_JOBS_ALONE = [
    "FT.DROPINDEX NS:episodic:v1:rff-1 DD",
    "FT.CREATE NS:evil ON HASH PREFIX 1 NS: SCHEMA a TAG",
    "FT.ALIASADD NS:alias NS:episodic:v1:rff-1",
    "FT.ALTER NS:episodic:v1:rff-1 SCHEMA ADD zz TAG",
    "HSET NS:episodic:momentum:BTC-USDT:1:x body x",
    "SET NS:fence 999",
    "SET NS:current_encoder evil",
    "DEL NS:inbox:momentum",
    "XADD NS:inbox:momentum * content x",
    "XTRIM NS:inbox:momentum MAXLEN 0",
    "XTRIM NS:inbox:hold MAXLEN 0",
    "XDEL NS:inbox:momentum 1-1",
    "XADD NS:messages:momentum:live * c x",
    "XDEL NS:messages:momentum:live 1-1",
    "DEL NS:message_ids:momentum:live",
    "HSET NS:mailbox:momentum:live:x a 1",
    "XGROUP CREATE NS:inbox:momentum group $",
    "SCAN 0",
]
FOR_THE_SERVERS_OWNER = [
    "FLUSHALL",
    "FLUSHDB",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "CONFIG SET maxmemory 1",
    "CONFIG REWRITE",
    "SHUTDOWN NOSAVE",
    "REPLICAOF NO ONE",
    "FAILOVER",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "DEBUG SLEEP 0",
    "MODULE LOAD /tmp/x.so",
    "MODULE UNLOAD search",
    "CLIENT KILL TYPE normal",
    "CLIENT PAUSE 1000",
    "CLIENT NO-EVICT on",
    "MONITOR",
    "SUBSCRIBE x",
    "SWAPDB 0 1",
    "MIGRATE h 1 NS:fence 0 10",
    "LATENCY RESET",
    "SYNC",
    "WAIT 1 1",
]


async def allowed(templates: Sequence[str], opened: Users, connections: Sequence[MemoryConnection]) -> list[str]:
    """Commands that the server ran for any of some users; each is really sent."""
    ran = []
    for template in templates:
        for mem in connections:
            try:
                await mem.link.execute(*command(template, opened))
            except AccessDeniedError:
                continue
            ran.append(template)
    return ran


async def test_other_namespaces_and_the_server_are_closed_to_all_of_them(opened: Users) -> None:
    assert await allowed(FOR_NOBODY, opened, [opened.agent, opened.reader, opened.jobs]) == []


async def test_what_the_jobs_do_is_closed_to_agents_and_readers(opened: Users) -> None:
    assert await allowed(FOR_JOBS_ALONE, opened, [opened.agent, opened.reader]) == []
    jobs = users(opened.admin.namespace)[0].name
    for template in FOR_JOBS_ALONE:
        assert await opened.admin.link.execute("ACL", "DRYRUN", jobs, *command(template, opened)) == b"OK", template


async def test_no_user_may_administer_the_server(opened: Users) -> None:
    # Asked, not run: the server is everybody's.
    for user in users(opened.admin.namespace, ["hold"]):
        for template in FOR_THE_SERVERS_OWNER:
            said = await opened.admin.link.execute("ACL", "DRYRUN", user.name, *command(template, opened))
            assert b"no permission" in said, template


async def test_a_script_of_ones_own_may_do_no_more_than_its_caller(opened: Users) -> None:
    steal = "return redis.call('XADD', ARGV[1], '*', 'content', 'forged')"
    digest = await opened.agent.link.execute("SCRIPT", "LOAD", steal)
    with pytest.raises(AccessDeniedError):
        await opened.agent.link.execute("EVALSHA", digest, 0, opened.admin.keys.inbox("momentum"))
    with pytest.raises(AccessDeniedError):
        await opened.agent.link.execute("EVALSHA", digest, 1, opened.admin.keys.inbox("momentum"), "x")
    flush = await opened.agent.link.execute("SCRIPT", "LOAD", "return redis.call('KEYS', '*')")
    for mem in (opened.agent, opened.jobs):
        with pytest.raises(AccessDeniedError):
            await mem.link.execute("EVALSHA", flush, 0)


async def test_a_user_that_is_not_known_or_whose_password_is_wrong_is_told_so_without_it(
    opened: Users, servers: Any
) -> None:
    for name in (f"{opened.admin.namespace}.reader", "nobody"):
        url = with_credentials(servers.redis_url, name, "canary-password")
        with pytest.raises(memory.errors.ServerUnsuitableError, match="refused the user or password") as caught:
            async with memory.connect(redis_url=url, namespace=opened.admin.namespace):
                pass
        assert "canary-password" not in str(caught.value)


def told(insight: str, sender: str = "hold") -> AgentMemoryMessage:
    """A message to all."""
    return AgentMemoryMessage(sender_agent_id=sender, message_type="WARNING", insight=insight)
