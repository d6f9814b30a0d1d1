"""Alembic's scripts: how the store's schema came to be, one revision a file."""
