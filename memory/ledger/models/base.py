"""What all tables share: names of constraints, and how windows and times are stored."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase

from memory.errors import InvalidRecordError
from memory.window import Window

JsonObject = dict[str, Any]


class WindowDate(sa.types.TypeDecorator[Window]):
    """A window of the grid, stored as its UTC date."""

    impl = sa.Date
    cache_ok = True

    def process_bind_param(self, value: Window | None, dialect: Dialect) -> date | None:  # noqa: ARG002
        return None if value is None else value.start.date()

    def process_result_value(self, value: date | None, dialect: Dialect) -> Window | None:  # noqa: ARG002
        return None if value is None else Window.of_date(value)


class UtcTimestamp(sa.types.TypeDecorator[datetime]):
    """An aware timestamp, handed back in UTC; a naive one is refused before it is sent."""

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise InvalidRecordError(
                f"{value.isoformat()} has no time zone.", remedy="Use aware UTC timestamps.", field="timestamp"
            )
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Declarative base of all tables."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (the name and form that SQLAlchemy asks for)
        str: sa.Text(),
        int: sa.BigInteger(),
        float: sa.Double(),
        bytes: sa.LargeBinary(),
        datetime: UtcTimestamp(),
        Window: WindowDate(),
        JsonObject: JSONB(),
    }
