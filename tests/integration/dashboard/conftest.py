"""Every test of this folder runs on SQLite and on PostgreSQL."""

from tests.support.stores import postgres_server, ready_made, store, store_url

__all__ = ["postgres_server", "ready_made", "store", "store_url"]
