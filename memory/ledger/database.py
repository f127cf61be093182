"""The connection to Postgres: engine, transactions that nest, and errors that say what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import Format
from sqlalchemy.orm import Session

from memory.database_encoding import check_encoding
from memory.errors import CoinswarmError, InvalidRecordError, ServerUnsuitableError, StoreUnavailableError
from memory.secrets import redacted, remember_url

DRIVER = "postgresql+psycopg"
CONNECT_TIMEOUT_S = 10
"""Longest wait for a connection; a server on the same network answers within milliseconds."""
IDLE_IN_TRANSACTION_TIMEOUT_MS = 300_000
"""Postgres ends a transaction whose process says nothing for so long: a stopped process must not keep its locks."""
POOL_SIZE = 5
POOL_OVERFLOW = 15
"""Connections beyond the pool, for partitions that are written in parallel."""
POOL_TIMEOUT_S = 30

AS_BYTES = {"coinswarm_binary_results": True}
"""Execution options of a statement whose results shall come in Postgres' binary form: bytea is text otherwise."""

_IDLE_IN_TRANSACTION = "25P03"
_DISK_FULL = "53100"
_TOO_MANY_CONNECTIONS = "53300"
_UNDEFINED_DATABASE = "3D000"
_RETRYABLE = ("40001", "40P01", "55P03")
"""Serialisation failure, deadlock and lock timeout: the same transaction succeeds when run again."""


class Database:
    """One Postgres database, with pooled connections. Safe for threads; not to be carried over a fork."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        # Thread-local rather than a context variable: task runners copy contexts into their threads, and a session
        # must never be used by two threads.
        self._local = threading.local()

    @classmethod
    def connect(cls, database_url: str) -> Database:
        """A database by its URL (`postgresql://...`, over TCP or a unix socket); nothing is sent yet."""
        remember_url(database_url)
        try:
            url = sa.make_url(database_url)
        except (sa.exc.ArgumentError, ValueError):  # What it says may hold a part of the password.
            raise ServerUnsuitableError(
                "the ledger's database URL cannot be read.",
                remedy="Set COINSWARM_DATABASE_URL to something like postgresql://user@host:5432/coinswarm.",
            ) from None
        if url.get_backend_name() not in ("postgresql", "postgres"):
            raise ServerUnsuitableError(
                f"the ledger needs Postgres, not {url.get_backend_name()}.",
                remedy="Set COINSWARM_DATABASE_URL to something like postgresql://user@host:5432/coinswarm.",
            )
        given = url.query.get("options", "")
        options = f"{given if isinstance(given, str) else ' '.join(given)} -c timezone=UTC " + (
            f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS}"
        )
        engine = sa.create_engine(
            url.set(drivername=DRIVER).difference_update_query(["options"]),
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "coinswarm",
                "options": options.strip(),
            },
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT_S,
            # A server that was restarted between two transactions is noticed before the second one starts.
            pool_pre_ping=True,
            hide_parameters=True,
            json_serializer=_to_json,
        )
        sa.event.listen(engine, "before_cursor_execute", _choose_format)
        database = cls(engine)
        # Before SQLAlchemy asks a new connection anything, and fails on answers that are no text.
        sa.event.listen(engine, "connect", database._check_connection, insert=True)
        return database

    @property
    def display_url(self) -> str:
        """The URL without its password."""
        return redacted(self.engine.url.render_as_string(hide_password=True))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction of this thread: committed at the end of the outermost block, rolled back on any error.

        A block inside another joins it, so that several steps become one.

        Raises
        ------
        StoreUnavailableError
            Postgres cannot be reached, went away, or cannot write.
        ServerUnsuitableError
            The database is in another encoding than UTF8.
        InvalidRecordError
            A value that Postgres cannot hold.
        """
        joined: Session | None = getattr(self._local, "session", None)
        if joined is not None:
            yield joined
            return
        with self.translated_errors(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            self._local.session = session
            try:
                yield session
                session.flush()
            finally:
                self._local.session = None

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A transaction that only reads, and sees all of the database as it is at its first question.

        What is written meanwhile is not seen; raises as `transaction` does. It joins no other transaction.
        """
        with self.translated_errors(), self.engine.connect() as connection:
            reading = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with Session(reading) as session, session.begin():
                yield session

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turns the driver's errors about the server or a value into this project's."""
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise StoreUnavailableError(
                f"no connection to the ledger at {self.display_url} became free within {POOL_TIMEOUT_S} s.",
                remedy="Run fewer partitions at once.",
            ) from error
        except sa.exc.StatementError as error:
            if isinstance(error.orig, CoinswarmError):
                raise error.orig from error
            translated = self._translate(error) if isinstance(error, sa.exc.DBAPIError) else None
            if translated is None:
                raise
            # What libpq says of a URL that it cannot read may hold a part of the password.
            raise translated from (None if isinstance(translated, ServerUnsuitableError) else error)

    def _check_connection(self, connection: psycopg.Connection, _: Any) -> None:
        encoding = connection.info.parameter_status("server_encoding") or "an unknown encoding"
        try:
            check_encoding(encoding, self.display_url)
        except CoinswarmError:
            connection.close()
            raise

    def dispose(self) -> None:
        """Closes all connections."""
        self.engine.dispose()

    def _translate(self, error: sa.exc.DBAPIError) -> Exception | None:
        state = getattr(error.orig, "sqlstate", None)
        reason = " ".join(str(error.orig).split())
        if isinstance(error, sa.exc.DataError):
            return InvalidRecordError(
                f"Postgres cannot hold a value: {reason}.", remedy="Correct the value.", field="value"
            )
        if isinstance(error, sa.exc.ProgrammingError) and error.statement is None:
            return ServerUnsuitableError(
                f"the database URL {self.display_url} cannot be used: libpq does not know an option of it.",
                remedy="Correct COINSWARM_DATABASE_URL; the options are libpq's (sslmode, sslrootcert, host).",
            )
        unavailable = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
        if not (unavailable or error.connection_invalidated or state == _IDLE_IN_TRANSACTION):
            return None
        if state in _RETRYABLE:
            remedy = "Run the same step again: nothing was written."
        elif state == _DISK_FULL:
            remedy = "Free space on the disk of the database and run the step again: nothing was written."
        elif state == _TOO_MANY_CONNECTIONS:
            remedy = "Raise max_connections of the server, or run fewer jobs at once."
        elif state == _UNDEFINED_DATABASE or "does not exist" in reason:
            remedy = "Create the database (and its role), or correct COINSWARM_DATABASE_URL."
        else:
            remedy = "Check that Postgres runs and that COINSWARM_DATABASE_URL is right; then run the step again."
        return StoreUnavailableError(f"the ledger at {self.display_url} is not available: {reason}.", remedy=remedy)


def _choose_format(connection: Any, cursor: Any, *rest: Any) -> None:  # noqa: ARG001 (what SQLAlchemy calls)
    _, _, context, _ = rest
    if context is not None and AS_BYTES.items() <= context.execution_options.items():
        cursor.format = Format.BINARY


def _to_json(value: Any) -> str:
    """JSON with sorted keys; NaN and infinity, which JSON does not have, are refused."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise InvalidRecordError(
            f"a value cannot be written as JSON: {error}.",
            remedy="Pass plain dicts, lists, strings, booleans and finite numbers; leave out what is unknown.",
            field="json",
        ) from error
