"""The embedded servers under a `coinswarm up`: started again where what watches over them is gone, or gave up."""

from __future__ import annotations

import logging
from collections.abc import Callable

from deployments.local import Stack
from deployments.up_log import LOGGER
from deployments.up_signals import Stopping
from memory import embedded
from memory.embedded.home import Home
from memory.embedded.process import ProcessIdentity
from memory.embedded.service import State
from memory.errors import CoinswarmError

logger = logging.getLogger(LOGGER)

REPAIRS = 3
"""Times that servers whose supervisor died are started again, one after the other, before `up` gives up."""


def keep_servers_up(
    stack: Stack, home: Home, stopping: Stopping, say: Callable[[str], None], *, thoroughly: bool
) -> None:
    """Have embedded servers started again whose supervisor was killed, or which it has given up.

    Parameters
    ----------
    stack, home
        What `up` started, and where.
    stopping
        A signal that comes meanwhile ends the attempt.
    say
        Tells the person.
    thoroughly
        Also ask a supervisor that lives; otherwise only whether it does.

    Raises
    ------
    EmbeddedServerError
        The servers do not start, however often that is tried.
    """
    if not stack.started:
        return
    identity = ProcessIdentity.read(home.run_file)
    if identity is not None and identity.is_alive():
        failed = [
            server.name
            for server in (embedded.home_status(home.directory).servers if thoroughly else ())
            if server.state == State.FAILED.value and server.name in stack.started
        ]
        if not failed:
            return
        what = f"{' and '.join(failed)} ended too often"
    else:
        what = "the supervisor of the servers was killed"
    for attempt in range(1, REPAIRS + 1):
        say(f"{what}; starting {', '.join(stack.started)} again")
        try:
            with stopping.interruptible():
                stack.repair()
        except KeyboardInterrupt:
            return
        except CoinswarmError as error:
            if attempt == REPAIRS:
                raise
            logger.warning("%s", error)
            what = error.message.splitlines()[0]
        else:
            say("The servers are back.")
            return
