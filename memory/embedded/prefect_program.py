"""``prefect``, whose transactions take SQLite's write lock when they begin: what runs as the Prefect server of a home.

Most of its transactions read and then write. SQLite begins such a one as a reader, and cannot let it write once anybody
else has written meanwhile: what it read is old. It says "database is locked" at once, however long it may wait
(SQLITE_BUSY_SNAPSHOT). Of the events that change the state of a run, which come some milliseconds apart, Prefect tries
each three times again and then drops it, together with the alert or the restart that hangs on it; and an event that
failed half way counts twice. A transaction that begins as a writer waits for its turn instead. What only reads needs no
transaction there, and waits for nobody.

The one module below `memory` that imports Prefect, in a process of its own.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def begin_as_writers() -> None:
    """Let transactions on SQLite begin with ``BEGIN IMMEDIATE``, in this process."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_transaction(
        self: AioSqliteConfiguration,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: ARG001  # the signature of what it stands for
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[method-assign,assignment]


def main() -> int:
    """Run Prefect's command line with the arguments of this process."""
    begin_as_writers()
    from prefect.cli import app

    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
