"""Who may write: one holder a namespace, a lease by Postgres's clock, and a token that every write is checked against.

A process that was thought dead may still run (a stopped process that goes on, a lost network that comes back). The
lease alone cannot stop it; the token does: each writing transaction locks the namespace's row in shared mode and
compares tokens, so a write either commits before the overtaker gets the row, or finds that it has been overtaken.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from memory.errors import FencedOutError, NamespaceBusyError, StoreUnavailableError
from memory.ledger.database import Database
from memory.ledger.host import host_name
from memory.ledger.models import Fence, Run, fencing_token_sequence
from memory.ledger.rows import FencingToken, Holder

POLL_S = 0.25
"""How often a waiting run looks whether the namespace became free."""
ROW_LOCK_TIMEOUT = "1s"
"""Longest wait for the row of a namespace; a writing transaction holds it for milliseconds."""

_LOCK_NOT_AVAILABLE = "55P03"
_NO_RUN = ""
_clock = sa.func.clock_timestamp


def guard(session: Session, token: FencingToken, line: str | None = None) -> None:
    """Lets a writing transaction go on only while `token` is the last one granted, and keeps it so until it ends.

    Cost: one round trip. Partitions of one run may write side by side (the lock is shared).

    Raises
    ------
    FencedOutError
        The token was overtaken or released, or does not belong to the line's namespace.
    """
    if line is not None and line.partition("/")[0] != token.namespace:
        raise FencedOutError(
            f"run {token.run_id} holds namespace {token.namespace!r} and may not write to line {line!r}.",
            remedy="Acquire the namespace that the line belongs to.",
        )
    # The name lets an overtaker find and end this very transaction, should the process be stopped within it.
    marked = sa.func.set_config("application_name", _mark(token.namespace, token.value), True)
    row = session.execute(
        sa.select(Fence.token, Fence.released, Fence.run_id, Fence.flow, Fence.host, marked)
        .where(Fence.namespace == token.namespace)
        .with_for_update(read=True)
    ).one_or_none()
    if row is None or row.token != token.value:
        by = f"run {row.run_id} ({row.flow} on {row.host})" if row is not None and row.run_id else "a later run"
        raise FencedOutError(
            f"run {token.run_id} was overtaken by {by} in namespace {token.namespace!r} and must not write any more.",
            remedy="Stop this run; the later one takes up where it stopped.",
        )
    if row.released:
        raise FencedOutError(
            f"run {token.run_id} no longer holds namespace {token.namespace!r}: it gave it back or was taken for dead.",
            remedy="Start the flow again; it takes up where this run stopped.",
        )


class FenceRepository:
    """Acquiring, renewing and giving back the right to write to a namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(
        self, namespace: str, run_id: str, *, flow: str, lease_s: float, wait_s: float = 0.0, poll_s: float = POLL_S
    ) -> FencingToken:
        """The right to write to a namespace, waiting for another holder up to `wait_s` seconds.

        A holder whose lease ran out is overtaken; what it had open in a transaction is ended.

        Raises
        ------
        NamespaceBusyError
            Somebody else holds it still; the message names the run, flow, host and since when.
        """
        deadline = time.monotonic() + wait_s
        while True:
            token = self._try(namespace, run_id, flow, lease_s)
            if token is not None:
                return token
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._busy(namespace, wait_s)
            time.sleep(min(poll_s, remaining))

    def renew(self, token: FencingToken, lease_s: float) -> None:
        """Extends the lease to `lease_s` seconds from now.

        Raises
        ------
        FencedOutError
            The namespace was overtaken or given back.
        StoreUnavailableError
            Postgres is away, or a process of this run is stopped within a writing transaction; try again.
        """
        with self._database.transaction() as session:
            _limit_lock_wait(session)
            renewed = session.execute(
                sa.update(Fence)
                .where(Fence.namespace == token.namespace, Fence.token == token.value, Fence.released.is_(False))
                .values(expires_at=_clock() + timedelta(seconds=lease_s))
                .returning(Fence.token)
            ).one_or_none()
            if renewed is None:
                guard(session, token)

    def release(self, token: FencingToken) -> bool:
        """Gives the namespace back; False where it was overtaken before."""
        with self._database.transaction() as session:
            released = session.execute(
                sa.update(Fence)
                .where(Fence.namespace == token.namespace, Fence.token == token.value, Fence.released.is_(False))
                .values(released=True)
                .returning(Fence.token)
            ).one_or_none()
        return released is not None

    def holder(self, namespace: str) -> Holder | None:
        """Who holds the namespace, or held it last; None where nobody ever did."""
        with self._database.transaction() as session:
            row = session.execute(
                sa.select(Fence, (Fence.expires_at <= _clock()).label("expired")).where(
                    Fence.namespace == namespace, Fence.token > 0
                )
            ).one_or_none()
            if row is None:
                return None
            fence: Fence = row[0]
            return Holder(
                namespace=fence.namespace,
                token=fence.token,
                run_id=fence.run_id,
                flow=fence.flow,
                host=fence.host,
                process_id=fence.process_id,
                acquired_at=fence.acquired_at,
                expires_at=fence.expires_at,
                released=fence.released,
                expired=bool(row.expired),
            )

    def check(self, token: FencingToken) -> None:
        """Raises FencedOutError where the token has been overtaken; says nothing about the next moment."""
        with self._database.transaction() as session:
            guard(session, token)

    def advance_past(self, value: int) -> None:
        """Makes all later tokens higher than `value`, such as the highest that a restored Redis has seen."""
        with self._database.transaction() as session:
            # A sequence never goes back: two calls at once leave the higher value, whichever comes last, because
            # each takes a number first and sets only a value above it.
            taken = session.execute(sa.select(fencing_token_sequence.next_value())).scalar_one()
            if taken <= value:
                session.execute(sa.select(sa.func.setval(fencing_token_sequence.name, value)))

    def revoke_dead(self, namespace: str) -> None:
        """Takes the right to write from a holder whose run has been marked dead, ending what it has open."""
        dead = sa.select(Run.run_id).where(Run.status == "DEAD", Run.namespace == namespace)
        revocation = (
            sa.update(Fence)
            .where(
                sa.or_(Fence.namespace == namespace, Fence.namespace.startswith(f"{namespace}/", autoescape=True)),
                Fence.released.is_(False),
                Fence.run_id.in_(dead),
            )
            .values(released=True)
        )
        try:
            with self._database.transaction() as session:
                _limit_lock_wait(session)
                session.execute(revocation)
        except StoreUnavailableError as error:
            if not _is_lock_timeout(error):
                raise
            self._end_transactions(namespace)
            with self._database.transaction() as session:
                session.execute(revocation)

    def _try(self, namespace: str, run_id: str, flow: str, lease_s: float) -> FencingToken | None:
        try:
            with self._database.transaction() as session:
                _limit_lock_wait(session)
                session.execute(insert(Fence).values(_unheld(namespace)).on_conflict_do_nothing())
                row = session.execute(
                    sa.select(Fence.token, Fence.released, Fence.expires_at)
                    .where(Fence.namespace == namespace)
                    .with_for_update()
                ).one()
                if not row.released and row.expires_at > session.execute(sa.select(_clock())).scalar_one():
                    return None
                value = session.execute(sa.select(fencing_token_sequence.next_value())).scalar_one()
                session.execute(
                    sa.update(Fence)
                    .where(Fence.namespace == namespace)
                    .values(
                        token=value,
                        run_id=run_id,
                        flow=flow,
                        host=host_name(),
                        process_id=os.getpid(),
                        acquired_at=_clock(),
                        expires_at=_clock() + timedelta(seconds=lease_s),
                        released=False,
                    )
                )
        except StoreUnavailableError as error:
            if not _is_lock_timeout(error):
                raise
            holder = self.holder(namespace)
            if holder is not None and (holder.expired or holder.released):
                self._end_transactions(namespace)
            return None
        return FencingToken(namespace, value, run_id, previous=row.token)

    def _end_transactions(self, namespace: str) -> None:
        """Ends the last holder's open transactions: its process is stopped, or lost, and keeps the row locked."""
        holder = self.holder(namespace)
        if holder is None:
            return
        activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("application_name"), sa.column("datname"))
        with self._database.transaction() as session:
            session.execute(
                sa.select(sa.func.pg_terminate_backend(activity.c.pid)).where(
                    activity.c.application_name == _mark(namespace, holder.token),
                    activity.c.datname == sa.func.current_database(),
                )
            )

    def _busy(self, namespace: str, wait_s: float) -> NamespaceBusyError:
        holder = self.holder(namespace)
        who = "another run"
        if holder is not None and not holder.released:
            who = (
                f"run {holder.run_id} ({holder.flow} on {holder.host}, process {holder.process_id}, "
                f"since {holder.acquired_at.isoformat(timespec='seconds')})"
            )
        return NamespaceBusyError(
            f"namespace {namespace!r} is held by {who}; waited {wait_s:g} s.",
            remedy="Wait for that run, stop it, or raise lock_wait_s; if it is dead, its lease runs out by itself"
            + (f" at {holder.expires_at.isoformat(timespec='seconds')}." if holder is not None else "."),
        )


def _limit_lock_wait(session: Session) -> None:
    session.execute(sa.select(sa.func.set_config("lock_timeout", ROW_LOCK_TIMEOUT, True)))


def _is_lock_timeout(error: StoreUnavailableError) -> bool:
    return getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE


def _mark(namespace: str, value: int) -> str:
    # At most 9 + 1 + 32 + 1 + 19 = 62 characters, and Postgres cuts names at 63.
    return f"coinswarm/{namespace}/{value}"


def _unheld(namespace: str) -> dict[str, object]:
    return {
        "namespace": namespace,
        "token": 0,
        "run_id": _NO_RUN,
        "flow": "",
        "host": "",
        "process_id": 0,
        "acquired_at": _clock(),
        "expires_at": _clock(),
        "released": True,
    }
