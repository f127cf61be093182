"""Alembic's migrations of the ledger, applied by `memory.ledger.migrate`."""

VERSION_TABLE = "coinswarm_schema"
"""Where the revision is kept; a name of our own, so that another Alembic user's table is never mistaken for it."""

HEAD = "0003"
"""Newest revision; kept here so that an up-to-date ledger opens without importing Alembic."""
