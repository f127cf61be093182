"""Payloads as they come out of Postgres: large ones in slices, so that memory holds little beside what is asked for.

The driver receives bytes as hexadecimal text, if not told otherwise. A payload of n bytes then passes the connection's
buffer (2 n and more, which is kept), the result (2 n) and the decoder (n) before it is n bytes of its own: six times
its size for a moment, and beyond 512 MiB Postgres cannot write that text at all. As plain bytes it takes three times.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from memory.errors import StoreUnavailableError
from memory.ledger.database import AS_BYTES

SLICE_BYTES = 4 * 2**20
"""Bytes of a large payload that come at once."""
WHOLE_BYTES = 2**20
"""Payloads up to this size come with their rows."""
ROWS_AT_ONCE = 16
"""Rows that come at once, with their payloads."""


def with_payloads(
    session: Session,
    query: sa.Select[Any],
    payload: InstrumentedAttribute[Any],
    key: Sequence[InstrumentedAttribute[Any]],
) -> list[tuple[sa.Row[Any], bytes | None]]:
    """Rows of a query, each with a payload.

    Parameters
    ----------
    query
        What to select beside the payload: not the payload itself.
    payload
        The column of bytes.
    key
        Columns that name a row of the payload's table for good. What stands under a key must not change; it may vanish.

    Returns
    -------
    The query's rows in its order, with columns of this function behind its own; no payload where a row has none.
    Memory: the payloads, and some `SLICE_BYTES`; on the server twice a large payload. Cost: a round trip for
    `ROWS_AT_ONCE` rows, and for each slice of a payload above `WHOLE_BYTES`.

    Raises
    ------
    StoreUnavailableError
        A large payload was dropped while it was read.
    """
    size = sa.func.octet_length(payload)
    columns = [*key, size, sa.case((size <= WHOLE_BYTES, payload))]
    rows = session.execute(query.add_columns(*columns), execution_options={"yield_per": ROWS_AT_ONCE})
    found: list[tuple[sa.Row[Any], bytes | None]] = []
    for row in rows:
        *names, n_bytes, whole = row[-len(columns) :]
        if n_bytes is not None and whole is None:
            here = [column == name for column, name in zip(key, names, strict=True)]
            whole = _in_slices(session, payload, here, n_bytes)
        found.append((row, whole))
    return found


def _in_slices(
    session: Session, payload: InstrumentedAttribute[Any], here: Sequence[sa.ColumnElement[bool]], n_bytes: int
) -> bytes:
    # What is stored compressed is unpacked once: a part of the column itself would be unpacked anew for each slice.
    # The offset keeps the planner from taking the subquery away.
    unpacked = payload.concat(sa.literal(b"", sa.LargeBinary())).label("payload")
    row = sa.select(unpacked).where(*here).offset(0).subquery()
    start = sa.func.generate_series(1, sa.func.octet_length(row.c.payload), SLICE_BYTES)
    slices = start.table_valued("start").render_derived()
    part = sa.func.substring(row.c.payload, slices.c.start, SLICE_BYTES, type_=sa.LargeBinary())
    query = sa.select(slices.c.start, part).select_from(row.join(slices, sa.true()))
    # Allocated once, and handed out without a copy.
    whole = io.BytesIO()
    whole.seek(n_bytes - 1)
    whole.write(b"\0")
    read = 0
    for begin, held in session.execute(query, execution_options={"yield_per": 1, **AS_BYTES}):
        whole.seek(begin - 1)
        read += whole.write(held)
    if read != n_bytes:
        raise StoreUnavailableError(
            f"a row of {payload.class_.__tablename__} was dropped while its {n_bytes} bytes were read.",
            remedy="Run the same step again.",
        )
    return whole.getvalue()
