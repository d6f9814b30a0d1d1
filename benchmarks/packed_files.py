"""What a benchmark sends home: compressed copies of stores, reports and logs."""

from __future__ import annotations

import lzma
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path


def pack_store(store: Path, out: Path) -> None:
    """A consistent copy of an SQLite store, compressed, as `store.sqlite.xz` in out."""
    copy = store.with_name("copy.sqlite")
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    with lzma.open(out / "store.sqlite.xz", "wb", preset=3) as packed, copy.open("rb") as plain:
        shutil.copyfileobj(plain, packed)


def pack(paths: Sequence[Path], archive: Path, largest: int | None = None) -> None:
    """A tar of files and folders; of files over `largest` bytes only the end."""
    with tarfile.open(archive, "w:xz", preset=3) as tar:
        for path in paths:
            if largest is not None and path.is_file() and path.stat().st_size > largest:
                path = _end_of(path, largest)
            if path.exists():
                tar.add(path, arcname=path.name)


def _end_of(path: Path, size: int) -> Path:
    copy = Path(tempfile.mkdtemp()) / path.name
    with path.open("rb") as stream:
        stream.seek(-size, os.SEEK_END)
        copy.write_bytes(stream.read())
    return copy


def unpack_store(packed: Path, target: Path) -> None:
    """The counterpart of `pack_store`."""
    with lzma.open(packed) as source, target.open("wb") as plain:
        shutil.copyfileobj(source, plain)
