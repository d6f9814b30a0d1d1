"""Runs the migrations on the connection that `orchestrator.store.migrate` hands over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from orchestrator.store.schema import metadata


def run_on(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=False,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with: frontier db upgrade --store URL")
run_on(connection)
