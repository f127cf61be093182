"""Run by Alembic: migrates over the connection that `memory.ledger.migrate` hands in."""

from alembic import context

from memory.ledger.migrations import VERSION_TABLE
from memory.ledger.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
