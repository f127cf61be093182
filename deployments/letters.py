"""`coinswarm deadletters`: records that could not be stored, and why; looked at, tried again, or dropped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

import rich.console
from rich.table import Table
from rich.text import Text

from deployments.console import print_table, printable
from deployments.local import load_settings
from memory import MemoryConnection
from memory.errors import InvalidQueryError, InvalidRecordError
from memory.store.dead_letters import DeadLetter

Result = TypeVar("Result")

DRAIN = "coinswarm run record_experiences"
REASONS_OF = 1000
"""Newest letters whose reasons are counted: some megabytes."""
LONGEST_VALUE = 200
"""Characters of a field's value that a table shows; --json has all of it."""
NO_INBOX = "its agent is not known, so that it has no inbox"
NO_MESSAGE = "it is no message, or none of the agent in whose name it was told"
STILL_AHEAD = "it is still dated ahead of the server's clock, or is no message of its agent"


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which letters a command is about: some by id, or all, of one agent or with one field at fault where given."""

    entry_ids: tuple[str, ...] = ()
    everything: bool = False
    agent_id: str | None = None
    field: str | None = None

    def check(self) -> None:
        """InvalidQueryError unless it is said plainly which letters are meant."""
        if bool(self.entry_ids) == self.everything:
            raise InvalidQueryError(
                "name the letters by their ids, or say --all."
                if not self.everything
                else "ids and --all exclude each other.",
                remedy="'coinswarm deadletters list' shows the ids; --agent and --field narrow --all down.",
                argument="entry_ids",
            )

    async def read(self, mem: MemoryConnection) -> list[DeadLetter]:
        """The letters without their content, so that any number of them fits; those that are not there are left out."""
        return [
            replace(letter, packed=b"")
            async for letter in mem.dead_letters.stream(
                entry_ids=self.entry_ids or None, agent_id=self.agent_id, field=self.field
            )
        ]


def list_letters(namespace: str | None, chosen: Chosen, limit: int) -> dict[str, Any]:
    """The newest letters, and which fields are at fault in the newest thousand.

    Cost: some milliseconds; with --agent or --field, pages of 500 letters until there are enough.
    """

    async def read(mem: MemoryConnection) -> dict[str, Any]:
        letters = await mem.dead_letters.read(
            agent_id=chosen.agent_id, field=chosen.field, limit=limit, newest_first=True
        )
        reasons = await mem.dead_letters.reasons(REASONS_OF)
        return {
            "namespace": mem.namespace,
            "count": await mem.dead_letters.count(),
            "reasons": [{"field": field, "letters": times, "newest": reason} for field, times, reason in reasons],
            "letters": [_outline(letter) for letter in letters],
        }

    return _with_memory(namespace, read)


def show_letter(namespace: str | None, entry_id: str) -> dict[str, Any]:
    """One letter with the record that it holds.

    Raises
    ------
    InvalidQueryError
        There is no such letter.
    """

    async def read(mem: MemoryConnection) -> dict[str, Any]:
        letter = await mem.dead_letters.get(entry_id)
        if letter is None:
            raise await _missing(mem, [entry_id])
        return {"namespace": mem.namespace, **_outline(letter), **_content(letter)}

    return _with_memory(namespace, read)


def retry(namespace: str | None, chosen: Chosen) -> dict[str, Any]:
    """Put experiences back into their agents' inboxes, messages back into their readers' hands, and send unsent ones.

    Killed anywhere, the same again does the rest. What a drain makes of a letter is stored under the id that follows
    from its content, and a message that was sent is not sent twice.

    Raises
    ------
    InvalidQueryError
        It is not said which letters, or none of those that are named is there.
    """
    chosen.check()

    async def move(mem: MemoryConnection) -> dict[str, Any]:
        letters = await chosen.read(mem)
        unknown = await _unknown(mem, chosen, letters)
        kept = [{"entry_id": letter.entry_id, "why": why} for letter in letters if (why := _why_kept(letter))]
        to_inbox = [letter for letter in letters if letter.agent_id and not letter.is_message]
        to_reader = [letter for letter in letters if letter.is_message and letter.reader]
        unsent = [letter.entry_id for letter in letters if letter.is_unsent]
        replayed = await mem.dead_letters.replay(chosen.entry_ids or None, agent_id=chosen.agent_id, field=chosen.field)
        redelivered = await mem.messages.redeliver([letter.entry_id for letter in to_reader]) if to_reader else 0
        sent = await mem.messages.send_unsent(unsent) if unsent else ()
        kept += [{"entry_id": entry_id, "why": STILL_AHEAD} for entry_id in unsent if entry_id not in sent]
        return {
            "namespace": mem.namespace,
            "to_inbox": replayed,
            "agents": dict(sorted(Counter(letter.agent_id for letter in to_inbox).items())),
            "to_readers": redelivered,
            "sent": len(sent),
            "kept": kept,
            "unknown": unknown,
            "left": await mem.dead_letters.count(),
        }

    return _with_memory(namespace, move)


def drop(namespace: str | None, chosen: Chosen, *, confirmed: bool) -> dict[str, Any]:
    """Remove letters for good.

    Raises
    ------
    InvalidQueryError
        It is not said which letters, none of those that are named is there, or it is not confirmed.
    """
    chosen.check()

    async def remove(mem: MemoryConnection) -> dict[str, Any]:
        letters = await chosen.read(mem)
        unknown = await _unknown(mem, chosen, letters)
        if letters and not confirmed:
            raise InvalidQueryError(
                f"{_letters(len(letters))} of namespace '{mem.namespace}' would be removed for good, with what is in "
                f"{'it' if len(letters) == 1 else 'them'}.",
                remedy="Say --yes to do so.",
                argument="yes",
            )
        dropped = await mem.dead_letters.drop([letter.entry_id for letter in letters]) if letters else 0
        return {
            "namespace": mem.namespace,
            "dropped": dropped,
            "unknown": unknown,
            "left": await mem.dead_letters.count(),
        }

    return _with_memory(namespace, remove)


# --- what they hold --------------------------------------------------------------------------------------------


def _with_memory(namespace: str | None, function: Callable[[MemoryConnection], Awaitable[Result]]) -> Result:
    from tasks.workspace import open_workspace

    settings = load_settings(namespace)
    with open_workspace(settings.namespace) as workspace:
        return workspace.with_memory(function)


async def _unknown(mem: MemoryConnection, chosen: Chosen, letters: Collection[DeadLetter]) -> list[str]:
    """Ids that were named and are not there; InvalidQueryError where none of them is."""
    found = {letter.entry_id for letter in letters}
    unknown = [entry_id for entry_id in dict.fromkeys(chosen.entry_ids) if entry_id not in found]
    if unknown and not letters:
        raise await _missing(mem, unknown)
    return unknown


async def _missing(mem: MemoryConnection, entry_ids: Collection[str]) -> InvalidQueryError:
    count = await mem.dead_letters.count()
    return InvalidQueryError(
        f"namespace '{mem.namespace}' has no dead letter {', '.join(entry_ids)}; it has "
        f"{_letters(count) if count else 'none at all'}.",
        remedy="Letters that are retried or dropped leave the list: 'coinswarm deadletters list' shows the others.",
        argument="entry_id",
    )


def _why_kept(letter: DeadLetter) -> str:
    """Why a letter cannot be tried again; empty where it can."""
    if letter.is_message:
        return "" if letter.reader or letter.is_unsent else NO_MESSAGE
    return "" if letter.agent_id else NO_INBOX


def _outline(letter: DeadLetter) -> dict[str, Any]:
    return {
        "entry_id": letter.entry_id,
        "received_at": letter.received_at.isoformat(timespec="seconds"),
        "agent_id": letter.agent_id or None,
        "origin": letter.origin,
        "field": letter.field,
        "reason": letter.reason,
        "can_be_retried": not _why_kept(letter),
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    """What a letter holds, by name; the reason why it cannot be read where it is no record."""
    from memory.messages import unpack_message

    try:
        content = asdict(unpack_message(letter.packed)) if letter.is_message else letter.content()
    except InvalidRecordError as error:
        return {"content": None, "bytes": len(letter.packed), "unreadable": str(error)}
    return {"content": {str(name): plain(value) for name, value in content.items()}, "bytes": len(letter.packed)}


def plain(value: Any) -> Any:
    """A value of a record as JSON can hold it; a number that is none, such as NaN, becomes its name."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


# --- showing ---------------------------------------------------------------------------------------------------


def show_list(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What is at fault, and the newest letters in a table."""
    if not result["count"]:
        out.print(f"Namespace {result['namespace']} has no dead letters.", highlight=False)
        return
    out.print(
        f"{_letters(result['count'])} in namespace {result['namespace']}", style="bold", highlight=False, soft_wrap=True
    )
    for item in result["reasons"]:
        out.print(
            Text(f"  {item['letters']:,} x {printable(item['field'])}, the newest: {printable(item['newest'])}"),
            soft_wrap=True,
        )
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("id", "received (UTC)", "agent", "from", "field", "reason"):
        table.add_column(title, no_wrap=title in {"id", "received (UTC)"})
    for item in result["letters"]:
        cells = (item["entry_id"], item["received_at"][:19].replace("T", " "), item["agent_id"] or "unknown")
        rest = (item["origin"], item["field"], item["reason"])
        table.add_row(*(Text(printable(text)) for text in (*cells, *rest)))
    print_table(out, table)
    if len(result["letters"]) < result["count"]:
        out.print(
            f"The newest {len(result['letters'])} of them; --limit shows more, --agent and --field choose.",
            highlight=False,
        )
    out.print(
        "'coinswarm deadletters show ID' shows one whole; 'retry ID' or 'retry --all' after the cause is gone.",
        highlight=False,
        soft_wrap=True,
    )


def show_one(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """One letter and its record."""
    agent = result["agent_id"] or "an unknown agent"
    out.print(
        Text(f"{result['entry_id']}, received {result['received_at']} from {agent} by way of {result['origin']}"),
        soft_wrap=True,
    )
    out.print(Text(f"{printable(result['field'])}: {printable(result['reason'])}"), style="bold", soft_wrap=True)
    if result["content"] is None:
        out.print(Text(f"{result['bytes']:,} bytes. {printable(result['unreadable'])}"), soft_wrap=True)
        return
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for name, value in result["content"].items():
        table.add_row(Text(printable(name)), Text(_shortened(value)))
    print_table(out, table)


def show_retry(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """What went where, and what is to be done next."""

    def say(text: str) -> None:
        out.print(Text(text), soft_wrap=True)

    if result["to_inbox"]:
        agents = ", ".join(f"{agent} ({count:,})" for agent, count in result["agents"].items())
        say(f"{_letters(result['to_inbox'])} went back to the inbox of {agents}.")
        say(f"The next drain stores them, nothing twice: '{DRAIN}'. What is still wrong comes back here.")
    if result["to_readers"]:
        say(f"{_letters(result['to_readers'])} went back to the readers of the messages.")
    if result["sent"]:
        say(f"{_letters(result['sent'])} had never been sent, and went out to whom the messages are for.")
    if not result["to_inbox"] and not result["to_readers"] and not result["sent"]:
        say("No letter was tried again.")
    for why, count in Counter(item["why"] for item in result["kept"]).items():
        last = "Retry it later, or drop it." if why == STILL_AHEAD else "It can only be dropped."
        say(f"{_letters(count)} stayed: {why}. {last}" if count == 1 else f"{count:,} stayed: {why}.")
    _show_rest(result, say)


def show_drop(result: Mapping[str, Any], out: rich.console.Console) -> None:
    """How many went."""

    def say(text: str) -> None:
        out.print(Text(text), soft_wrap=True)

    say(f"{_letters(result['dropped'])} removed." if result["dropped"] else "No letter was removed.")
    _show_rest(result, say)


def _show_rest(result: Mapping[str, Any], say: Callable[[str], None]) -> None:
    if result["unknown"]:
        say(f"Not there: {', '.join(result['unknown'])}.")
    say(f"{_letters(result['left'])} left." if result["left"] else "None is left.")


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _shortened(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8 and all(isinstance(item, int | float) for item in value):
        return f"{len(value)} numbers: {', '.join(f'{item:.4g}' for item in value[:3])}, ..., {value[-1]:.4g}"
    text = printable(str(value))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}... ({len(text):,} characters)"
