"""Who may do what in Redis: users of a namespace, as rules of its access control lists (ACL).

Three kinds of users, whose rights `users` lists command by command. Categories (``+@read``) are not used: search has
none in some versions of Redis, and what belongs to one changes between versions.

agent
    Reads and searches its namespace; appends to its own inbox and its own messages, and keeps its own mailbox. It
    shares with other agents of its namespace what has no owner in a key: counters of accesses, traces of decisions,
    dead letters, the list of who sends messages.
reader
    Reads and searches its namespace.
jobs
    All of its namespace, the making and dropping of its indexes, and no administration of the server.

What the rules cannot do, by the way Redis works: keep agents of one namespace from reading each other (an index is
searched whole or not at all), or hide the names of keys and indexes of other namespaces (SCAN, FT._LIST, CLIENT
TRACKING).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from memory.errors import AccessDeniedError, ServerUnsuitableError
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.validation import validate_identifier

__all__ = ["Permission", "User", "apply_users", "lets_anybody_in", "password_hash", "users"]

Role = Literal["agent", "reader", "jobs"]

CONNECTION = (
    *("hello", "ping", "info", "time", "multi", "exec", "discard", "watch", "unwatch", "module|list"),
    *("client|setinfo", "client|setname", "client|tracking"),
)
"""What a connection begins with, transactions, and how the near cache hears of changes."""
READING = (
    *("exists", "get", "mget", "type", "ttl", "pttl", "pexpiretime"),
    *("hexists", "hget", "hgetall", "hkeys", "hlen", "hmget", "hscan", "hvals"),
    "lrange",
    *("scard", "sismember", "smembers", "smismember", "srandmember", "sscan"),
    *("xlen", "xrange", "xread", "xrevrange"),
    *("zcard", "zcount", "zrange", "zrangebyscore", "zrevrangebyscore", "zscore"),
)
SEARCHING = ("ft.search", "ft.aggregate", "ft.cursor", "ft.info", "ft._list")
SCRIPTS = ("evalsha", "script|load")
"""A script runs with the rights of the user who calls it: each command and key in it is checked against them."""
WRITING = (
    *("set", "del", "unlink", "incr", "incrby", "expire", "pexpire", "pexpireat", "persist"),
    *("rename", "copy", "dump", "restore", "rpush"),
    *("hset", "hsetnx", "hdel", "hincrby", "sadd", "srem"),
    *("xadd", "xack", "xdel", "xtrim", "xclaim", "xautoclaim", "xpending", "xreadgroup", "xsetid"),
    *("xgroup|create", "xgroup|createconsumer", "xgroup|delconsumer", "xgroup|destroy", "xgroup|setid"),
    *("zadd", "zrem", "zremrangebyscore"),
)
INDEXING = ("ft.create", "ft.alter", "ft.dropindex", "ft.aliasadd", "ft.aliasupdate", "ft.aliasdel")
LOOKING = ("scan", "memory|usage", "xinfo|groups", "xinfo|stream", "xinfo|consumers", "waitaof")


@dataclass(frozen=True, slots=True)
class Permission:
    """Commands that may be used on keys of some patterns.

    Attributes
    ----------
    commands
        In lower case; a subcommand follows its command and a bar.
    keys
        Patterns of keys, each with ``~`` (reading and writing) or ``%R~`` (reading) before it.
    """

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()

    def rules(self) -> tuple[str, ...]:
        """As ACL SETUSER takes them."""
        return (*self.keys, *(f"+{command}" for command in self.commands))


@dataclass(frozen=True, slots=True)
class User:
    """A user of Redis, and what it may do.

    Attributes
    ----------
    name
        ``NAMESPACE.jobs``, ``NAMESPACE.reader`` or ``NAMESPACE.agent.AGENT``: namespaces hold no dots.
    root
        What it may do; a command is allowed where this, or one of the selectors, allows the command and all its keys.
    selectors
        Further permissions, each of its own.
    """

    name: str
    role: Role
    root: Permission
    selectors: tuple[Permission, ...] = ()

    def rules(self) -> tuple[str, ...]:
        """As ACL SETUSER takes them, the password apart: from nothing, so that whatever it was before is gone."""
        selectors = [f"({' '.join(('-@all', *selector.rules()))})" for selector in self.selectors]
        return ("-@all", *self.root.rules(), *selectors)

    def line(self, password: str) -> str:
        """A line of an ACL file; of the password it holds the hash."""
        return " ".join(("user", self.name, "on", password_hash(password), *self.rules()))


def users(namespace: str, agents: Iterable[str] = (), *, also: Iterable[str] = ()) -> tuple[User, ...]:
    """The users of a namespace: its jobs, a reader, and one for each agent.

    Parameters
    ----------
    also
        Namespaces into which the jobs restore or rebuild what this one holds.

    Raises
    ------
    InvalidRecordError
        A name that is none.
    """
    keys = Keys(namespace)
    everything = f"{namespace}:*"
    jobs = User(
        f"{namespace}.jobs",
        "jobs",
        Permission(
            (*CONNECTION, *READING, *SEARCHING, *SCRIPTS, *WRITING, *INDEXING, *LOOKING),
            (f"~{everything}", *(f"~{Keys(other).namespace}:*" for other in also)),
        ),
    )
    reader = User(
        f"{namespace}.reader", "reader", Permission((*CONNECTION, *READING), (f"%R~{everything}",)), (_searching(keys),)
    )
    named = dict.fromkeys(validate_identifier(agent, "agent_id") for agent in agents)
    return (jobs, reader, *(_agent(keys, agent) for agent in named))


def _searching(keys: Keys) -> Permission:
    """To search asks for the right to write to the index's name, and newer versions to read all that it indexes."""
    return Permission(SEARCHING, (f"~{keys.namespace}:*",))


def _agent(keys: Keys, agent: str) -> User:
    streams = (f"~{keys.messages(agent, '*')}", f"~{keys.message_ids(agent, '*')}")
    mailbox = (f"~{keys.mailbox(agent, '*', '*')}", f"~{keys.mailbox_leases(agent, '*', '*')}")
    senders = f"~{keys.message_senders('*')}"
    letters = (f"~{keys.dead_letters}", f"~{keys.dead_letter_digests}")
    accesses = f"~{keys.access_prefix}*"
    traces = f"~{keys.decision_prefix}*"
    return User(
        f"{keys.namespace}.agent.{agent}",
        "agent",
        Permission((*CONNECTION, *READING, "script|load", "waitaof"), (f"%R~{keys.namespace}:*",)),
        (
            _searching(keys),
            # Scripts are called with keys of several kinds at once; each command in one is then checked on its own.
            Permission(("evalsha",), (*streams, *mailbox, senders, *letters, accesses, traces)),
            Permission(("xadd",), (f"~{keys.inbox(agent)}",)),
            Permission(("xadd", "xdel", "hset", "hdel", "pexpire"), streams),
            Permission(("hset", "hsetnx", "hdel", "hincrby", "zadd", "zrem", "pexpire"), mailbox),
            Permission(("xadd", "pexpire"), (senders,)),
            Permission(("xadd", "xdel", "hset", "hdel"), letters),
            Permission(("set", "incrby", "expire"), (accesses,)),
            Permission(("set", "pexpire"), (traces,)),
        ),
    )


def password_hash(password: str) -> str:
    """A password as rules hold it: ``#`` and its SHA-256. It cannot be turned back where the password is random."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


async def lets_anybody_in(link: RedisLink) -> bool:
    """Whether a server's default user is on and has no password: then the rights of the other users bind nobody.

    Whoever reaches the server is that user without a word, and any other one becomes it with RESET, which no rule can
    refuse.
    """
    found = await link.execute("ACL", "GETUSER", "default")
    return found is not None and {b"on", b"nopass"} <= set(found[b"flags"])


async def apply_users(link: RedisLink, chosen: Sequence[tuple[User, str]]) -> bool:
    """Give users of a server these rights and passwords, each in one step; the same again changes nothing.

    Connections that are open keep their user, and have its new rights from the next command on.

    Returns
    -------
    bool
        Whether the server wrote them down; otherwise they are gone when it restarts: it has no ACL file.

    Raises
    ------
    AccessDeniedError
        The link's user may not administer others.
    ServerUnsuitableError
        The server does not know these rules: it is older than 7.2, or has no search.
    """
    from redis.exceptions import ResponseError

    for user, password in chosen:
        try:
            await link.execute("ACL", "SETUSER", user.name, "reset", "on", password_hash(password), *user.rules())
        except AccessDeniedError as error:
            raise AccessDeniedError(
                f"the user of Redis at {link.address} may not administer users.",
                remedy="Give this command an administrator's COINSWARM_REDIS_URL, or hand on the lines that it prints.",
            ) from error
        except ResponseError as error:
            raise ServerUnsuitableError(
                f"Redis at {link.address} does not take the rules of {user.name}: {error}.",
                remedy="Use Redis 7.2 or newer with search.",
            ) from error
    try:
        await link.execute("ACL", "SAVE")
    except ResponseError as error:
        if "not configured to use an ACL file" not in str(error):
            raise
        return False
    return True
