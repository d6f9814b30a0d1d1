"""Outcomes on the local disk while the store is away: in order, each line checked, a torn tail ignored.

The workers keep the same outcomes until the store has them; the spool saves those of workers that die
meanwhile. A full disk therefore loses nothing, it only takes that second safety away.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome


class Spool:
    """An append-only file of outcomes, one checked JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_written = 0

    def append(self, outcomes: Iterable[SampleOutcome]) -> None:
        """Write and sync. Raises OSError when the disk is full; what was written stays valid."""
        lines = [_line(outcome) for outcome in outcomes]
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"\n" if self._is_torn() else b"")
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.num_written += len(lines)

    def read(self) -> Iterator[SampleOutcome]:
        """Every whole record, in order; damaged lines are skipped."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for line in file:
                outcome = _parse(line)
                if outcome is not None:
                    yield outcome

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.num_written = 0

    def _is_torn(self) -> bool:
        """The last write was cut off within a line."""
        try:
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False


def _line(outcome: SampleOutcome) -> bytes:
    body = json.dumps(asdict(outcome), separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _parse(line: bytes) -> SampleOutcome | None:
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(body):
            return None
        plain = json.loads(body)
    except ValueError:
        return None
    failure = plain.pop("failure")
    if failure is not None:
        failure = Failure(**{**failure, "kind": FailureKind(failure["kind"])})
    return SampleOutcome(**plain, failure=failure)
