from tests.support.stores import postgres_server, ready_made, store, store_url

__all__ = ["postgres_server", "ready_made", "store", "store_url"]
