"""Commands, and scripts that are commands: what is sent to Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoScriptError

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; the server runs it in one step."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[str], arguments: Sequence[Any]) -> Command:
        """The command that runs the script."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


async def with_scripts(
    run: Callable[[Sequence[Command]], Awaitable[list[Any]]], commands: Sequence[Command], known: Mapping[str, Script]
) -> list[Any]:
    """The answers to commands, which are run again behind their scripts where the server does not know one of them.

    They leave together, over one connection: a server that is restarted in between answers nothing, and scripts and
    commands cannot come to different servers.

    Parameters
    ----------
    run
        Sends commands and returns their answers, refusals among them.
    known
        Scripts by digest.
    """
    answers = await run(commands)
    if not any(isinstance(answer, NoScriptError) for answer in answers):
        return answers
    called = dict.fromkeys(command[1] for command in commands if command[0] == "EVALSHA")
    loading = [("SCRIPT", "LOAD", known[digest].text) for digest in called if digest in known]
    answers = await run([*loading, *commands])
    for answer in answers[: len(loading)]:
        if isinstance(answer, Exception):
            raise answer
    return answers[len(loading) :]
