"""Are messages heard? What waits for whom, and who is about to miss something."""

from __future__ import annotations

from memory.store.health_check import Check, OpenMemory, ok, warn

BEHIND_SHARE = 0.5
"""Share of the entries that are kept of one agent; a reader with more of them before it may soon miss some."""


async def check_messages(mem: OpenMemory) -> list[Check]:
    """Streams and mailboxes: a reader that falls behind is about to miss what is dropped."""
    streams = await mem.messages.streams()
    if not streams:
        return [ok("messages", "none")]
    boxes = await mem.messages.mailboxes()
    kept, runs = sum(stream.length for stream in streams), {stream.run_id for stream in streams}
    senders = {stream.sender_agent_id for stream in streams}
    seen = f"{kept:,} of {len(senders)} agents in {len(runs)} runs, {len(boxes)} readers"
    if not boxes:
        return [ok("messages", seen)]
    last = max(boxes, key=lambda box: (box.waiting, box.agent_id, box.reader))
    seen += f" (furthest behind: {last.agent_id}, {last.waiting:,})"
    missed = [box for box in boxes if box.missed]
    if missed:
        worst = max(missed, key=lambda box: (box.missed, box.agent_id, box.reader))
        seen += f"; {len(missed)} of them missed some so far (most: {worst.agent_id}, up to {worst.missed:,})"
    if last.waiting > BEHIND_SHARE * mem.settings.message_limit:
        return [
            warn(
                "messages",
                f"{seen}.",
                "Let that agent read, raise COINSWARM_MESSAGE_LIMIT, or remove a reader that is gone: "
                "mem.messages.forget_reader(...).",
            )
        ]
    return [ok("messages", seen)]
