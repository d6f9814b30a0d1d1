"""Prepared samples on disk, shared by the workers of a node: content-addressed, bounded, safe to write concurrently.

A file is named by its sample's key and carries a checksum of its bytes. It is written aside and moved into place, so
that a reader sees all of it or none; a torn or foreign file counts as absent and is replaced. Losing an entry costs one
generation, so nothing is locked.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tasks.home import home_folder
from tasks.parameters import TaskParameters
from tasks.sample import Sample
from tasks.task import Task
from tasks.tokenizer import Tokenizer

P = TypeVar("P", bound=TaskParameters)
SIZE_VARIABLE = "FRONTIER_SAMPLE_CACHE_GIB"
_MAGIC = b"frontier sample 2\n"
_SUFFIX = ".sample"
_TRIM_TO = 0.8


class SampleCache:
    """Samples under `folder`, at most about `max_bytes` of them; the least recently used go first.

    Sizes are counted again after each 1/16 of the bound that this process writes, so that n writers may exceed the
    bound by n/16 of it.
    """

    def __init__(self, folder: str | Path, max_bytes: int = 4 << 30) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._written_since_trim = 0

    def path(self, key: str) -> Path:
        """Where the sample of this key lies, if it is there."""
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def get(self, key: str) -> Sample | None:
        """The sample of this key, or None when it is absent, torn or unreadable."""
        path = self.path(key)
        try:
            content = path.read_bytes()
            with suppress(OSError):
                os.utime(path)
            return _decode(content, key)
        except (OSError, ValueError, KeyError, TypeError, struct.error, zlib.error):
            return None

    def put(self, sample: Sample) -> None:
        """Store a sample; a full or read-only disk is not an error, the sample is just not kept."""
        content = _encode(sample)
        with suppress(OSError):
            _replace(self.path(sample.key), content)
            self._written_since_trim += len(content)
            if self._written_since_trim > self.max_bytes // 16:
                self._written_since_trim = 0
                self.trim()

    def trim(self) -> None:
        """Remove the least recently used samples until 80 % of the bound are left, if the bound is exceeded."""
        entries = _entries(self.folder)
        total = sum(entry.size for entry in entries)
        if total <= self.max_bytes:
            return
        for entry in sorted(entries, key=lambda entry: entry.used):
            with suppress(OSError):
                entry.path.unlink()
            total -= entry.size
            if total <= self.max_bytes * _TRIM_TO:
                return


def node_cache() -> SampleCache | None:
    """The cache that all workers of this machine share, in FRONTIER_HOME/samples.

    FRONTIER_SAMPLE_CACHE_GIB bounds it (default 4); 0 switches it off. Raises ValueError for what is no number.
    """
    text = os.environ.get(SIZE_VARIABLE, "4")
    try:
        size_gib = float(text)
    except ValueError:
        raise ValueError(f"{SIZE_VARIABLE} is {text!r}; it must be a number of GiB") from None
    return SampleCache(home_folder() / "samples", int(size_gib * 2**30)) if size_gib > 0 else None


def prepared_sample(
    cache: SampleCache | None,
    task: Task[P],
    parameters: P,
    *,
    length_tokens: int,
    tokenizer: Tokenizer,
    seed: int,
    index: int,
) -> Sample:
    """The sample from the cache, else generated and put there. Raises what `Task.sample` raises."""
    if cache is None:
        return task.sample(parameters, length_tokens=length_tokens, tokenizer=tokenizer, seed=seed, index=index)
    identity = task.identity(parameters, length_tokens=length_tokens, tokenizer=tokenizer, seed=seed, index=index)
    known = cache.get(identity.key)
    if known is not None:
        return known
    sample = task.sample(parameters, length_tokens=length_tokens, tokenizer=tokenizer, seed=seed, index=index)
    cache.put(sample)
    return sample


class _Entry(NamedTuple):
    path: Path
    size: int
    used: float


def _entries(folder: Path) -> list[_Entry]:
    """All stored files, abandoned temporary ones included."""
    entries = []
    for path in folder.glob("??/*"):
        with suppress(OSError):
            status = path.stat()
            entries.append(_Entry(path, status.st_size, status.st_mtime))
    return entries


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise


def _encode(sample: Sample) -> bytes:
    values = {field.name: getattr(sample, field.name) for field in fields(sample) if field.name != "prompt_token_ids"}
    described = json.dumps(values).encode()
    ids = struct.pack(f"<{len(sample.prompt_token_ids)}I", *sample.prompt_token_ids)
    body = zlib.compress(len(described).to_bytes(8, "little") + described + ids, level=1)
    return _MAGIC + hashlib.sha256(body).digest() + body


def _decode(content: bytes, key: str) -> Sample:
    start = len(_MAGIC) + 32
    body = content[start:]
    if content[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        raise ValueError("torn or foreign file")
    raw = zlib.decompress(body)
    size = int.from_bytes(raw[:8], "little")
    values: dict[str, Any] = json.loads(raw[8 : 8 + size])
    if values["key"] != key:
        raise ValueError("the file holds another sample")
    ids = struct.unpack(f"<{(len(raw) - 8 - size) // 4}I", raw[8 + size :])
    return Sample(prompt_token_ids=ids, **values)
