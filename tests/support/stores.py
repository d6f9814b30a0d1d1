"""Fixtures: the same test on SQLite and on PostgreSQL. Import them into a `conftest.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store.session import Store, open_store
from tests.support.postgres import PostgresMissing, PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer(durable=False)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.database()


@pytest.fixture(scope="session")
def ready_made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, PostgresServer | None], str]:
    """Makes migrated stores by copying one that was migrated once."""
    made: dict[str, str] = {}

    def copy(url: str, server: PostgresServer | None) -> str:
        kind = url.split(":", 1)[0]
        if kind not in made:
            made[kind] = f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.sqlite'}" if server is None else url
            open_store(made[kind]).close()
        if server is not None:
            return server.database(template=made[kind].rsplit("/", 1)[1])
        shutil.copy(made[kind].removeprefix("sqlite:///"), url.removeprefix("sqlite:///"))
        return url

    return copy


@pytest.fixture
def store(
    store_url: str, ready_made: Callable[[str, PostgresServer | None], str], request: pytest.FixtureRequest
) -> Iterator[Store]:
    on_postgres = store_url.startswith("postgresql")
    server = request.getfixturevalue("postgres_server") if on_postgres else None
    with open_store(ready_made(store_url, server)) as opened:
        yield opened
