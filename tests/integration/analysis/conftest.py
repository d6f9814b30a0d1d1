"""The same tests on SQLite and PostgreSQL."""

from tests.support.stores import postgres_server, ready_made, store, store_url  # noqa: F401
