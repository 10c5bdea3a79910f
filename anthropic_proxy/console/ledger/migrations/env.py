"""Script that Alembic runs for each of its commands.

It migrates the database on the connection that `upgrade_schema` passes to Alembic.
"""

from alembic import context

from anthropic_proxy.console.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
