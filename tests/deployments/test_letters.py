"""`coinswarm deadletters`: what could not be stored is listed, shown, tried again and dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import memory
from memory import MemoryConnection
from memory.messages import pack_message, validate_message
from memory.store.dead_letters import UNSENT, Refusal

RECORD: dict[str, Any] = {
    "agent_id": "momentum",
    "product_id": "BTC-USDT",
    "timestamp": datetime(2021, 6, 18, tzinfo=UTC),
    "reward": float("nan"),
    "regime": "QUIET",
    "action": {"side": "BUY", "size": 1.0},
    "state_vector": np.ones(256, np.float32) / 16,
}
REFUSALS = (
    (Refusal(RECORD, "reward is nan. Use a finite number.", "reward"), "inbox"),
    (Refusal({**RECORD, "agent_id": "hold"}, "encoder rff-9 is not known.", "encoder_id"), "inbox"),
    (Refusal(b"\xc1 no record", "the entry is no experience.", "experience"), "store"),
    (Refusal({**RECORD, "agent_id": "a b\x1b[31m"}, "agent_id \x1b[31m is no id.", "agent_id"), "store"),
    (Refusal(b"\x80", "no reader had it", "message", "scout"), "messages"),
)


@pytest.fixture
def in_memory(configured: str, servers: Any) -> Callable[[Callable[[MemoryConnection], Awaitable[Any]]], Any]:
    """Runs an async function on the test's memory."""

    def run(function: Callable[[MemoryConnection], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            async with memory.connect(redis_url=servers.redis_url, namespace=configured) as mem:
                return await function(mem)

        return asyncio.run(call())

    return run


@pytest.fixture
def ids(in_memory: Any) -> list[str]:
    """Ids of five letters, oldest first, as in `REFUSALS`."""

    async def write(mem: MemoryConnection) -> list[str]:
        return [(await mem.dead_letters.add([refusal], origin=origin))[0] for refusal, origin in REFUSALS]

    found: list[str] = in_memory(write)
    return found


def test_the_newest_come_first_with_what_is_at_fault(typed: Any, ids: list[str]) -> None:
    listed = typed("deadletters", "list", "--json", "--limit", "2").json()
    assert listed["count"] == 5
    assert [letter["entry_id"] for letter in listed["letters"]] == [ids[4], ids[3]]
    assert {item["field"]: item["letters"] for item in listed["reasons"]} == dict.fromkeys(
        ("reward", "encoder_id", "experience", "agent_id", "message"), 1
    )
    assert [letter["can_be_retried"] for letter in listed["letters"]] == [False, False]


def test_the_table_names_each_and_lets_no_record_command_the_terminal(typed: Any, ids: list[str]) -> None:
    shown = typed("deadletters", "list")
    assert shown.code == 0
    assert all(entry_id in shown.stdout for entry_id in ids)
    assert all(words in shown.stdout for words in ("encoder rff-9 is not known.", "unknown", "momentum"))
    assert "\x1b" not in shown.stdout


def test_agent_and_field_choose(typed: Any, ids: list[str]) -> None:
    by_agent = typed("deadletters", "list", "--agent", "hold", "--json").json()
    by_field = typed("deadletters", "list", "--field", "reward", "--json").json()
    assert [letter["entry_id"] for letter in by_agent["letters"]] == [ids[1]]
    assert [letter["entry_id"] for letter in by_field["letters"]] == [ids[0]]


def test_a_memory_without_letters_says_so(typed: Any, configured: str) -> None:
    assert typed("deadletters", "list").stdout == f"Namespace {configured} has no dead letters.\n"
    assert typed("deadletters", "retry", "--all").stdout == "No letter was tried again.\nNone is left.\n"


def test_one_letter_is_shown_with_its_record(typed: Any, ids: list[str]) -> None:
    letter = typed("deadletters", "show", ids[0], "--json").json()
    assert (letter["field"], letter["agent_id"], letter["can_be_retried"]) == ("reward", "momentum", True)
    assert letter["content"]["reward"] == "nan"
    assert letter["content"]["timestamp"] == "2021-06-18T00:00:00+00:00"
    assert letter["content"]["state_vector"] == [0.0625] * 256
    shown = typed("deadletters", "show", ids[0]).stdout
    assert "256 numbers: 0.0625, 0.0625, 0.0625, ..., 0.0625" in shown


def test_bytes_that_are_no_record_are_shown_as_that(typed: Any, ids: list[str]) -> None:
    assert typed("deadletters", "show", ids[2], "--json").json()["content"] is None
    assert "11 bytes" in typed("deadletters", "show", ids[2]).stdout


def test_a_retry_moves_what_has_an_inbox_and_says_what_stayed(typed: Any, ids: list[str], in_memory: Any) -> None:
    result = typed("deadletters", "retry", "--all", "--json").json()
    assert (result["to_inbox"], result["agents"], result["left"]) == (2, {"hold": 1, "momentum": 1}, 3)
    assert {item["entry_id"] for item in result["kept"]} == {*ids[2:]}

    async def waiting(mem: MemoryConnection) -> dict[str, int]:
        return await mem.inbox.length()

    assert in_memory(waiting) == {"hold": 1, "momentum": 1}
    again = typed("deadletters", "retry", "--all", "--json").json()
    assert (again["to_inbox"], again["left"]) == (0, 3)
    assert in_memory(waiting) == {"hold": 1, "momentum": 1}


def test_a_retry_in_words_names_the_next_step(typed: Any, ids: list[str]) -> None:
    shown = typed("deadletters", "retry", ids[0], "1-1")
    assert shown.code == 0
    assert "1 dead letter went back to the inbox of momentum (1)." in shown.stdout
    assert "coinswarm run record_experiences" in shown.stdout
    assert "Not there: 1-1." in shown.stdout
    assert "4 dead letters left." in shown.stdout


def test_a_message_whose_handling_failed_goes_back_to_its_reader(
    typed: Any, in_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory.store.message_reader.MAX_DELIVERIES", 1)

    async def handler(_: memory.AgentMemoryMessage) -> None:
        raise ValueError("no such pattern")

    async def fail(mem: MemoryConnection) -> None:
        await mem.messages.send(
            memory.AgentMemoryMessage(sender_agent_id="scout", message_type="WARNING", insight="a thin book")
        )
        await mem.messages.read("trader", wait=False).handle(handler)

    in_memory(fail)
    (letter,) = typed("deadletters", "list", "--json").json()["letters"]
    assert (letter["agent_id"], letter["can_be_retried"]) == ("trader", True)
    assert typed("deadletters", "show", letter["entry_id"], "--json").json()["content"]["insight"] == "a thin book"
    result = typed("deadletters", "retry", "--all", "--json").json()
    assert (result["to_inbox"], result["to_readers"], result["left"]) == (0, 1, 0)


def test_a_message_that_was_never_sent_goes_out_and_one_in_anothers_name_stays(typed: Any, in_memory: Any) -> None:
    told = memory.AgentMemoryMessage(sender_agent_id="scout", message_type="WARNING", insight="a thin book")
    packed = pack_message(validate_message(told))
    ahead = memory.AgentMemoryMessage(
        sender_agent_id="scout",
        message_type="WARNING",
        insight="a thick book",
        timestamp=datetime.now(UTC) + timedelta(hours=1),
    )

    async def bury(mem: MemoryConnection) -> list[str]:
        refusals = [
            Refusal(packed, "ahead of the clock", "timestamp", "scout"),
            Refusal(packed, "ahead of the clock", "timestamp", "mallory"),
            Refusal(pack_message(validate_message(ahead)), "ahead of the clock", "timestamp", "scout"),
        ]
        return await mem.dead_letters.add(refusals, origin=UNSENT)

    _, forged, early = in_memory(bury)
    result = typed("deadletters", "retry", "--all", "--json").json()
    assert (result["sent"], result["to_readers"], result["to_inbox"], result["left"]) == (1, 0, 0, 2)
    assert [item["entry_id"] for item in result["kept"]] == [forged, early]

    async def heard(mem: MemoryConnection) -> list[str]:
        return [message.insight for message in (await mem.messages.history("trader")).messages]

    assert in_memory(heard) == ["a thin book"]
    assert "2 stayed: it is still dated ahead of the server's clock" in typed("deadletters", "retry", "--all").stdout


def test_nothing_is_dropped_without_yes(typed: Any, ids: list[str]) -> None:
    refused = typed("deadletters", "drop", ids[2], ids[3], "--json")
    assert (refused.code, refused.stdout) == (1, "")
    assert "2 dead letters" in refused.stderr
    assert "--yes" in refused.stderr
    assert typed("deadletters", "list", "--json").json()["count"] == 5
    assert typed("deadletters", "drop", ids[2], ids[3], "--yes", "--json").json()["dropped"] == 2
    assert typed("deadletters", "drop", "--all", "--agent", "momentum", "--yes", "--json").json()["left"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("retry",), ("by their ids", "--all")),
        (("retry", "1-1", "--all"), ("exclude each other",)),
        (("retry", "1-1"), ("no dead letter 1-1", "deadletters list")),
        (("drop", "1-1", "--yes"), ("no dead letter 1-1", "none at all")),
        (("show", "1-1"), ("no dead letter 1-1",)),
        (("show", "yesterday"), ("'yesterday'", "1623931200000-0")),
        (("drop", "--all", "--namespace", "No:Colons"), ("'No:Colons'", "a-z, 0-9")),
        (("lose", "--all"), ("'lose'", "coinswarm deadletters --help")),
    ],
)
def test_wrong_words_end_in_one_line(
    typed: Any, configured: str, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    refused = typed("deadletters", *words)
    assert refused.code in {1, 2}
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("coinswarm: ")
    assert all(part in line for part in says)
