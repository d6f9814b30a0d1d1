"""Opening a store. Nothing happens at import: the CLI calls `open_store`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from orchestrator.address import mask_password, mask_passwords
from orchestrator.errors import StoreError
from orchestrator.store import migrate
from orchestrator.store.dialect import make_engine, sqlite_path

_log = logging.getLogger(__name__)
Connection = sa.Connection
"""A transaction's connection, for those who pass it on without knowing SQL."""


class StoreUnavailable(StoreError):
    """The store does not answer now, and may later: spool and try again."""


@dataclass(frozen=True, slots=True)
class Store:
    """An open store: transactions that read, and transactions that write."""

    url: str
    """With the password hidden."""
    writer: Engine
    reader: Engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, committed at the end. Raises StoreUnavailable when the database is away."""
        with _translated(self.url), self.writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One reading transaction: everything seen belongs to one moment."""
        with _translated(self.url), self.reader.connect() as connection:
            yield connection

    def close(self) -> None:
        self.writer.dispose()
        self.reader.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the store at `url` and bring its schema up to date.

    With `create=False` a store that does not exist, or is of another revision, raises StoreError.
    """
    parsed = _parse(url)
    path = sqlite_path(parsed)
    if path is not None and not path.exists():
        if not create:
            raise StoreError(f"store {path}: there is no such file")
        _make_folder(path)
    writer = make_engine(parsed)
    reader = make_engine(parsed, read_only=True) if path is not None else writer.execution_options(**_SNAPSHOT)
    shown = mask_password(parsed.render_as_string(hide_password=False))
    try:
        with _translated(shown):
            if not migrate.is_current(reader):
                migrate.bring_up_to_date(writer, shown, upgrade=create)
    except BaseException:
        writer.dispose()
        raise
    _log.info("store %s", shown)
    return Store(shown, writer, reader)


_SNAPSHOT = {"isolation_level": "REPEATABLE READ"}


def _parse(url: str) -> URL:
    shown = f"store URL {mask_password(url)!r}"
    try:
        parsed = sa.make_url(url)
        parsed.get_dialect()
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, ValueError) as error:
        raise StoreError(f"{shown} cannot be read: {mask_passwords(_first_line(error))}") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"{shown}: only sqlite and postgresql are supported")
    if parsed.get_backend_name() == "sqlite" and sqlite_path(parsed) is None:
        raise StoreError(f"{shown} names no file: a store in memory would be lost")
    if parsed.get_backend_name() == "sqlite" and parsed.query:
        raise StoreError(f"{shown}: a SQLite store takes no options; write sqlite:////FILE")
    if "@" in (parsed.host or ""):
        raise StoreError(f"{shown}: write an @ in the password or the user's name as %40")
    return parsed


def _make_folder(path: object) -> None:
    from pathlib import Path

    folder = Path(str(path)).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"store {path}: cannot make its folder: {error.strerror or error}") from None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Database errors that mean "not now" become StoreUnavailable; a damaged file becomes StoreError."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise StoreUnavailable(f"store {url}: {_first_line(error)}") from error
    except sa.exc.DatabaseError as error:
        if error.connection_invalidated:
            raise StoreUnavailable(f"store {url}: {_first_line(error)}") from error
        if "not a database" in str(error) or "malformed" in str(error):
            raise StoreError(f"store {url}: {_first_line(error)}") from error
        raise
    except (UnicodeDecodeError, JSONDecodeError, LookupError) as error:
        if isinstance(error, LookupError) and "enum values" not in str(error):
            raise
        # The file opens, but a text, a JSON or a state in it is none: it was written by something else, or is damaged.
        raise StoreError(f"store {url} is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
