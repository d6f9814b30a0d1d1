"""Getting a public data set into this machine's cache, checked before it is put in place."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.errors import DataError
from tasks.qa.documents import Collection
from tasks.qa.sources import SOURCES, Source, fetched_path

_TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set that is now in the cache; also written beside it as JSON."""

    source: str
    origin: str
    """Address or file that it came from."""
    revision: str
    sha256: str
    checked: bool
    """Whether the checksum was known beforehand and agreed."""
    num_documents: int
    num_questions: int
    skipped: tuple[str, ...]
    """A line "file:line: why" for each malformed row that is left out."""


def fetch(name: str, *, from_file: Path | None = None, url: str | None = None, sha256: str | None = None) -> Fetched:
    """Put a data set into the cache, from its public address, another `url`, or a file. Raises DataError.

    A given checksum must agree. Without one, the published checksum must agree with what comes from the published
    address, or, where none is published, the checksum that an earlier fetch recorded.
    """
    if name not in SOURCES:
        raise DataError(f"unknown data set {name!r}; there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    origin = str(from_file) if from_file else url or source.url
    target = fetched_path(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _aside(target) as path:
        digest = _copy(from_file, path) if from_file else _download(origin, path)
        published = origin == source.url
        expected = sha256 or ((source.sha256 or _recorded(source)) if published else None)
        if expected and digest != expected:
            raise DataError(f"{origin} has the checksum {digest}, expected {expected}; nothing was kept")
        collection = _read(source, path, origin)
        os.replace(path, target)
    fetched = Fetched(
        source=name,
        origin=origin,
        revision=source.revision if published else "as given",
        sha256=digest,
        checked=digest == (expected or source.sha256),
        num_documents=len(collection.documents),
        num_questions=len(collection.questions),
        skipped=collection.skipped,
    )
    _manifest(source).write_text(json.dumps(asdict(fetched), indent=1) + "\n", "utf-8")
    return fetched


def _read(source: Source, path: Path, origin: str) -> Collection:
    """The collection in the file `path`, whose messages name where it came from."""
    try:
        found = source.read(path, source.name)
    except DataError as error:
        raise DataError(str(error).replace(str(path), origin)) from None
    return replace(found, skipped=tuple(line.replace(str(path), origin) for line in found.skipped))


def _manifest(source: Source) -> Path:
    return fetched_path(source).with_suffix(".fetched.json")


def _recorded(source: Source) -> str | None:
    """The checksum of an earlier fetch from the published address."""
    try:
        known = json.loads(_manifest(source).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(known["sha256"]) if known.get("origin") == source.url else None


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A file beside the target that is gone afterwards unless it was moved."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".fetching-")
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> str:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from None
    target.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _download(url: str, target: Path) -> str:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response, target.open("wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise DataError(f"cannot fetch {url}: {getattr(error, 'reason', error)}") from None
    return digest.hexdigest()
