"""The encoding that a Postgres database must have to hold the ledger."""

from __future__ import annotations

from memory.errors import ServerUnsuitableError

ENCODING = "UTF8"


def check_encoding(encoding: str, where: str) -> None:
    """Refuse a database whose encoding cannot hold every text, or, as SQL_ASCII, has the driver give bytes for text.

    Parameters
    ----------
    encoding
        As the server names it: ``server_encoding``.
    where
        What messages call the database; without a password.

    Raises
    ------
    ServerUnsuitableError
        It is another than UTF8.
    """
    if encoding != ENCODING:
        raise ServerUnsuitableError(
            f"the database at {where} is in {encoding}, and the ledger needs {ENCODING}.",
            # Another template's encoding is that of its texts, and cannot be changed by copying it.
            remedy=f"Create one (CREATE DATABASE coinswarm ENCODING '{ENCODING}' TEMPLATE template0) and name it in "
            "COINSWARM_DATABASE_URL.",
        )
