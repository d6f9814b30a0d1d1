"""The schema's revision: upgrading, and refusing a store of another age. The migrations lie in `migrations/`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

import migrations
from orchestrator.errors import StoreError

_LOCK = 5_871_204_417
"""PostgreSQL advisory lock: two commands that start at once do not both migrate."""


def bring_up_to_date(engine: Engine, shown_url: str, *, upgrade: bool = True) -> bool:
    """Upgrade the schema to the newest revision; True when something changed.

    Raises StoreError for a database that is not ours, is newer than this program, or (with
    `upgrade=False`) is older.
    """
    with _alone(engine) as connection:
        found, newest = revision_of(connection), newest_revision()
        if found == newest:
            return False
        _check_ours(connection, found, shown_url)
        if not upgrade:
            raise StoreError(f"store {shown_url}: its schema is {found or 'empty'}; run `frontier db upgrade`")
        command.upgrade(alembic_config(connection), "head")
    return True


def is_current(reader: Engine) -> bool:
    """Whether the schema is of the newest revision; takes no lock, so that readers never wait for a writer."""
    with reader.connect() as connection:
        return revision_of(connection) == newest_revision()


def revision_of(connection: sa.Connection) -> str | None:
    """The revision that the database says it has; None for a new one."""
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None
    return head


def all_revisions() -> list[str]:
    """Every revision, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]


def alembic_config(connection: sa.Connection | None = None) -> Config:
    """Alembic's settings, with the scripts found beside the installed package `migrations`."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _check_ours(connection: sa.Connection, found: str | None, shown_url: str) -> None:
    known = all_revisions()
    if found is not None and found not in known:
        raise StoreError(f"store {shown_url}: its schema {found} is newer than this program knows ({known[-1]})")
    tables = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
    if found is None and tables:
        raise StoreError(f"store {shown_url}: it is a database of something else (table {min(tables)})")
