"""Every difference between SQLite and PostgreSQL, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from orchestrator.errors import StoreError

NETWORK_FILE_SYSTEMS = frozenset(
    (
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "smb3",
        "smbfs",
        "wekafs",
    )
)
"""File systems on which SQLite's write-ahead log is unsafe (https://www.sqlite.org/wal.html, "shared memory")."""

BUSY_SECONDS = 10
"""How long SQLite waits for another writer; an orchestrator then spools and goes on listening."""


class now_seconds(FunctionElement[float]):
    """The database's own clock: seconds since 1970, moving on within a transaction."""

    type = sa.Double()
    inherit_cache = True


@compiles(now_seconds, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_seconds, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "cast(extract(epoch from clock_timestamp()) as double precision)"


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """Insert the rows whose primary key is new; returns the primary keys that were. All rows have the same columns."""
    if not rows:
        return set()
    key = table.primary_key.columns
    if connection.dialect.name == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing().returning(*key)
        return {tuple(row) for row in connection.execute(statement, list(rows))}
    inserted = _insert_arrays(table, list(rows[0])).on_conflict_do_nothing().returning(*key)
    return {tuple(row) for row in connection.execute(inserted, _as_arrays(table, rows))}


def insert_all(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows with the same columns."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(sa.insert(table), list(rows))
    else:
        connection.execute(_insert_arrays(table, list(rows[0])), _as_arrays(table, rows))


def _insert_arrays(table: sa.Table, names: Sequence[str]) -> postgresql.Insert:
    """One array for each column instead of one parameter for each value: the text is the same for any number of rows.

    With a VALUES list the driver parsed hundreds of kilobytes of text for every thousand rows: 70 % of the
    orchestrator's time, and up to a hundred such texts kept as prepared statements.
    """
    arrays = [sa.bindparam(name, type_=postgresql.ARRAY(_item_type(table.c[name]))) for name in names]
    columns = [sa.column(name, table.c[name].type) for name in names]
    source = sa.func.unnest(*arrays).table_valued(*columns, name="given").render_derived()
    return postgresql.insert(table).from_select(list(names), sa.select(*source.c))


def _item_type(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    """Without a length: a cast to VARCHAR(n) would cut a text that is too long, where the column refuses it."""
    return sa.Text() if isinstance(column.type, sa.String) else column.type


def _as_arrays(table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of plain values: the driver takes no array of mixed kinds, such as 1 and 0.5."""
    return {name: _plain(table.c[name].type, [row[name] for row in rows]) for name in rows[0]}


def _plain(kind: sa.types.TypeEngine[Any], values: list[Any]) -> list[Any]:
    make: type | None = next((python for sql, python in _PLAIN if isinstance(kind, sql)), None)
    return values if make is None else [None if value is None else make(value) for value in values]


_PLAIN: tuple[tuple[type, type], ...] = ((sa.String, str), (sa.Float, float), (sa.Integer, int))


def make_engine(url: URL, *, read_only: bool = False) -> Engine:
    """An engine for the store at `url`, set up so that both databases behave alike."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, read_only=read_only)
    return sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_size=4,
        connect_args={
            "connect_timeout": 10,
            "keepalives_idle": 15,
            "application_name": "frontier",
            "options": "-c statement_timeout=60000 -c idle_in_transaction_session_timeout=60000",
        },
    )


def _sqlite_engine(url: URL, *, read_only: bool) -> Engine:
    path = sqlite_path(url)
    if path is not None:
        refuse_network_file_system(path)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_reading if read_only else _begin_writing)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_SECONDS * 1000}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "cache_size = -65536",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_writing(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def sqlite_path(url: URL) -> Path | None:
    """The database file of a SQLite URL; None for one in memory or another database."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def refuse_network_file_system(path: Path, mounts: str | None = None) -> None:
    """Raises StoreError when `path` lies on a network file system. `mounts` is the text of /proc/mounts."""
    kind = file_system_of(path, mounts if mounts is not None else _mounts())
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"store {path}: it lies on a network file system ({kind}), where SQLite loses data; "
            "put it on a local disk or use a postgresql:// URL"
        )


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, by the longest mount point; empty when unknown."""
    target = path.absolute()
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        if (target == point or point in target.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def _mounts() -> str:
    table = Path("/proc/mounts")
    return table.read_text() if table.is_file() else ""


def database_bytes(connection: sa.Connection) -> int:
    """Bytes that the store occupies."""
    if connection.dialect.name == "sqlite":
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
