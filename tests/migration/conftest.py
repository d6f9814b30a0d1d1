from tests.support.stores import postgres_server, store_url

__all__ = ["postgres_server", "store_url"]
