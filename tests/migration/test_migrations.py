"""History equals schema, and every step carries a populated database along, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from orchestrator.errors import StoreError
from orchestrator.store import migrate
from orchestrator.store.dialect import make_engine
from orchestrator.store.schema import metadata
from orchestrator.store.session import open_store

TIME = 1.7e9
TEXTS = {
    "state": {"shards": "ready", "campaigns": "running", "workers": "ready"},
    "ending": "done",
    "verdict": "correct",
}
NUMBERS = {"closed_at": None, "ending": None, "failure_kind": None, "score": 0.5, "num_recorded": 0}


def upgrade(engine: sa.Engine, revision: str) -> None:
    with engine.begin() as connection:
        command.upgrade(migrate.alembic_config(connection), revision)


def populate(engine: sa.Engine) -> dict[str, int]:
    """One row in every table, made from the columns that the tables have at this revision."""
    found = sa.MetaData()
    found.reflect(engine)
    with engine.begin() as connection:
        for table in found.sorted_tables:
            if table.name != "alembic_version":
                connection.execute(sa.insert(table).values({c.name: value_for(table, c) for c in table.columns}))
        return count(connection, found)


def count(connection: sa.Connection, found: sa.MetaData) -> dict[str, int]:
    tables = [t for t in found.sorted_tables if t.name != "alembic_version"]
    return {t.name: connection.scalar(sa.select(sa.func.count()).select_from(t)) or 0 for t in tables}


def value_for(table: sa.Table, column: sa.Column[object]) -> object:
    if column.name == "state":
        return {"shards": "ready", "campaigns": "running", "workers": "ready"}[table.name]
    if column.name in NUMBERS:
        return NUMBERS[column.name]
    if column.name == "verdict":
        return "correct"
    if column.name == "kind" and table.name in ("failures", "suspects"):
        return "timeout"
    if isinstance(column.type, sa.JSON) or column.name in ("spec", "settings", "engine", "method", "sampling"):
        return {} if isinstance(column.type, sa.JSON) else "{}"
    if isinstance(column.type, sa.Boolean):
        return False
    if isinstance(column.type, sa.Integer):
        return 1
    if isinstance(column.type, (sa.Float, sa.Numeric)):
        return 1.0
    return "1"


def test_history_equals_schema(store_url: str) -> None:
    engine = make_engine(sa.make_url(store_url))
    upgrade(engine, "head")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_alembic_check_is_clean(store_url: str) -> None:
    engine = make_engine(sa.make_url(store_url))
    upgrade(engine, "head")
    with engine.begin() as connection:
        command.check(migrate.alembic_config(connection))
    engine.dispose()


@pytest.mark.parametrize("start", migrate.all_revisions())
def test_a_populated_database_of_each_revision_becomes_the_newest(store_url: str, start: str) -> None:
    engine = make_engine(sa.make_url(store_url))
    upgrade(engine, start)
    before = populate(engine)
    upgrade(engine, "head")
    with engine.connect() as connection:
        after = count(connection, metadata)
    engine.dispose()
    assert {name: after[name] for name in before} == before
    assert min(before.values()) == 1
    open_store(store_url, create=False).close()


def test_there_is_one_head_and_an_unbroken_line() -> None:
    revisions = migrate.all_revisions()
    assert revisions[-1] == migrate.newest_revision()
    assert revisions == sorted(revisions)


def test_a_store_of_the_future_and_one_of_the_past_are_refused(store_url: str) -> None:
    engine = make_engine(sa.make_url(store_url))
    upgrade(engine, migrate.all_revisions()[0])
    if len(migrate.all_revisions()) > 1:
        with pytest.raises(StoreError, match="frontier db upgrade"):
            open_store(store_url, create=False)
    upgrade(engine, "head")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="9999 is newer than this program"):
        open_store(store_url)
    engine.dispose()


def test_a_database_of_something_else_is_refused(store_url: str) -> None:
    engine = make_engine(sa.make_url(store_url))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE cats (id INTEGER)"))
    with pytest.raises(StoreError, match="something else"):
        open_store(store_url)
    engine.dispose()
