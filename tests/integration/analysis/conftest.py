"""The same tests on SQLite and PostgreSQL."""

from tests.support.stores import postgres_server, store, store_url  # noqa: F401
