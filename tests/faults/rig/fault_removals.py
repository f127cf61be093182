"""Safeguards that can be taken out of a process, to show that a test would fail without them.

A removal replaces some text of one function, and the function's code with what that compiles to: in the process that
asks for it, and nowhere else. Text that is not found exactly once is an error: a safeguard that was rewritten must be
named here anew, or the test that leans on it proves nothing.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Cut:
    """One function, and what is replaced in it: pairs of old text and new text."""

    module: str
    function: str
    texts: tuple[tuple[str, str], ...]

    def apply(self) -> None:
        """Replace the function's code in this process; LookupError as `compiled` raises it."""
        function, code = self.compiled()
        function.__code__ = code

    def compiled(self) -> tuple[FunctionType, CodeType]:
        """The function, and the code without the safeguard.

        Raises
        ------
        LookupError
            A text is not in the function, or not once.
        """
        module = importlib.import_module(self.module)
        source = Path(inspect.getfile(module)).read_text(encoding="utf-8").splitlines(keepends=True)
        function = _function(module, self.function)
        lines, first = inspect.getsourcelines(function)
        body = "".join(lines)
        for old, new in self.texts:
            if body.count(old) != 1:
                raise LookupError(
                    f"{self.module}.{self.function} holds {body.count(old)} times what the removal names:\n{old}"
                )
            body = body.replace(old, new)
        changed = "".join([*source[: first - 1], body, *source[first - 1 + len(lines) :]])
        compiled = compile(changed, inspect.getfile(module), "exec", dont_inherit=True)
        (code,) = [code for code in _codes(compiled) if code.co_qualname == function.__code__.co_qualname]
        return function, code


def _function(module: Any, name: str) -> FunctionType:
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
    found = getattr(found, "__func__", found)
    found = getattr(found, "fn", found)  # A task of Prefect's holds its function so.
    found = inspect.unwrap(found)
    if not isinstance(found, FunctionType):
        raise LookupError(f"{module.__name__}.{name} is no function")
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


REMOVALS: dict[str, tuple[Cut, ...]] = {
    # Every statement is a transaction of its own. Cursors of the server live in one, so results come whole then.
    "transactions": (
        Cut(
            "memory.ledger.database",
            "Database.connect",
            (("pool_pre_ping=True,", 'pool_pre_ping=True, isolation_level="AUTOCOMMIT",'),),
        ),
        Cut("memory.ledger.payloads", "with_payloads", (('{"yield_per": ROWS_AT_ONCE}', "{}"),)),
        Cut("memory.ledger.payloads", "_in_slices", (('{"yield_per": 1, **AS_BYTES}', "AS_BYTES"),)),
    ),
    # The ledger takes what a run writes after it was overtaken.
    "fence of the ledger": (
        Cut(
            "memory.ledger.fence",
            "guard",
            (
                ("if row is None or row.token != token.value:", "if False:"),
                ("if row.released:", "if False:"),
            ),
        ),
    ),
    # Redis takes it: its number is not compared, and keys that changed since they were read are written all the same.
    "fence of Redis": (
        Cut(
            "memory.store.fence",
            "Fence.check",
            (("if token < highest:", "if False:"), ("if token > highest:", "if False:")),
        ),
        Cut(
            "memory.store.link",
            "RedisLink.transaction",
            (("await pipe.watch(*watched)", 'await pipe.watch("nothing")'),),
        ),
    ),
    # A Redis that lost its number of who may write lets everybody write.
    "lost fence": (Cut("memory.store.fence", "Fence.check", (("if token > highest:", "if False:"),)),),
    # Publication is many small steps.
    "one step": (
        Cut(
            "memory.store.link",
            "RedisLink.transaction",
            (
                ("pipe.multi()", "None"),
                ("pipe.execute_command(*command)", "await pipe.execute_command(*command)"),
                ("await pipe.execute()", "pass"),
            ),
        ),
    ),
    # Whether Redis is what it was left as is not looked at.
    "stamp": (Cut("tasks.publishing", "publish", (("lost = bool(stamps) and ", "lost = False and "),)),),
    # Nobody waits for the disk of Redis.
    "disk": (
        Cut("tasks.publishing", "_send", (("await mem.link.on_disk()", "pass"),)),
        Cut("memory.store.fence", "Fence.raise_to", (("await self._link.on_disk()", "pass"),)),
    ),
    # No task is tried again.
    "task retries": (
        Cut("tasks.retry", "may_pass", (("return isinstance(error, StoreUnavailableError)", "return False"),)),
    ),
    # Nothing is sent to Redis again where a connection broke.
    "link retries": (
        Cut(
            "memory.store.link",
            "RedisLink._attempt",
            (("if not retry or loop.time() + delay_s >= deadline:", "if True:"),),
        ),
    ),
    # A stopped process keeps what it has locked.
    "end of transactions": (
        Cut("memory.ledger.fence", "FenceRepository._try", (("self._end_transactions(namespace)", "pass"),)),
        Cut("memory.ledger.fence", "FenceRepository.revoke_dead", (("self._end_transactions(namespace)", "raise"),)),
    ),
    # The same summaries make a new generation each time that they are committed.
    "one generation": (
        Cut(
            "memory.ledger.windows",
            "WindowRepository.commit_generation",
            (("if generation is None:", "if True:"),),
        ),
    ),
    # What is staged already is not looked for.
    "staged work": (Cut("tasks.consolidation", "summarise_patterns", (("if staged is None:", "if True:"),)),),
    # Names are not kept before they are overwritten.
    "old names": (Cut("tasks.folding", "fold_knowledge", (("if plan.is_refold:", "if False:"),)),),
    # A file is referred to whether or not it could be written.
    "whole files": (
        Cut(
            "tasks.window_input",
            "_SourceIntake.__init__",
            (
                (
                    "workspace.archive.writer(",
                    "__import__('fault_removals').WriterThatNeverFails(workspace.archive, ",
                ),
            ),
        ),
    ),
    # Entries of an inbox are acknowledged before they are stored.
    "acknowledged last": (
        Cut(
            "tasks.recording",
            "drain_inbox",
            (("kept, refused = await _store(", "await mem.inbox.acknowledge(entries); kept, refused = await _store("),),
        ),
    ),
    # What another drain has left behind is not asked for.
    "left behind": (
        Cut(
            "memory.store.inbox",
            "Inbox._take",
            (("entries += await self._claim(agent, consumer, share, idle, refused)", "pass"),),
        ),
    ),
    # Storing an experience again makes another record of it.
    "same key": (
        Cut(
            "memory.store.record_commands",
            "RecordCommands.pack",
            (
                (
                    "key = self._collection.key(memory)",
                    'key = self._collection.key(memory) + __import__("secrets").token_hex(4)',
                ),
            ),
        ),
    ),
    # The plan of a run that died is not looked for.
    "open plans": (
        Cut("tasks.pruning", "_remove", (("for plan in removals.open(workspace.namespace):", "for plan in ():"),)),
    ),
    # A take-over that was killed waits for the person who began it.
    "finished take-overs": (
        Cut(
            "flows.consolidate_memories",
            "consolidate_memories",
            (("taken_over = finish_take_over(context)", "taken_over = []"),),
        ),
    ),
    # The namespace is given to whoever asks.
    "lock": (
        Cut(
            "memory.ledger.fence",
            "FenceRepository._try",
            (
                (
                    "if not row.released and row.expires_at > session.execute(sa.select(_clock())).scalar_one():",
                    "if False:",
                ),
            ),
        ),
    ),
}
"""Safeguards by name. Each function is cut once in a removal, and in no two removals of one run."""


def remove(names: tuple[str, ...]) -> None:
    """Take safeguards out of this process."""
    for name in names:
        for cut in REMOVALS[name]:
            cut.apply()


class WriterThatNeverFails:
    """A writer whose reference names files that may not have been written."""

    def __init__(self, archive: Any, *window: Any) -> None:
        self._archive = archive
        self._window = window
        self._parts: list[Any] = []
        self.counts: Any = None

    def __enter__(self) -> WriterThatNeverFails:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def append(self, part: Any) -> None:
        """Keep a part until all are there."""
        self._parts.append(part)

    def close(self) -> Any:
        """Write all of it, where it can be written or elsewhere."""
        from memory.errors import ArchiveError
        from memory.ledger import Archive

        try:
            return self._written(self._archive)
        except ArchiveError:
            return self._written(Archive("memory://nowhere"))

    def _written(self, archive: Any) -> Any:
        with archive.writer(*self._window) as writer:
            for part in self._parts:
                writer.append(part)
            self.counts = writer.counts
            return writer.close()
