"""Keys from a terminal, without waiting for Enter, and without taking Ctrl-C away from the process."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Self

_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
}
_SINGLE = {b"\t": "tab", b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace", b"\x03": "ctrl-c"}


def decode(data: bytes) -> list[str]:
    """The keys in what a terminal sent; sequences that we do not know are swallowed whole."""
    keys: list[str] = []
    while data:
        name, length = _first_key(data)
        if name:
            keys.append(name)
        data = data[length:]
    return keys


def _first_key(data: bytes) -> tuple[str, int]:
    for sequence, name in _SEQUENCES.items():
        if data.startswith(sequence):
            return name, len(sequence)
    if data[:1] in _SINGLE:
        return _SINGLE[data[:1]], 1
    if data[:1] == b"\x1b":
        return _escape(data)
    length = 1 if data[0] < 0x80 else 2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4
    text = data[:length].decode(errors="ignore")
    return (text if text.isprintable() else ""), length


def _escape(data: bytes) -> tuple[str, int]:
    """A lone Esc, or an unknown sequence up to its final letter."""
    if data[1:2] not in (b"[", b"O"):
        return "escape", 1
    end = 2
    while end < len(data) and not 0x40 <= data[end] <= 0x7E:
        end += 1
    return "", end + 1


class KeyReader:
    """Reads keys while it is open; where standard input is no terminal there are none, and `read` only waits."""

    def __init__(self) -> None:
        self._file = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before: list[object] | None = None

    def __enter__(self) -> Self:
        if self._file is not None:
            self._before = list(termios.tcgetattr(self._file))
            tty.setcbreak(self._file, termios.TCSANOW)
        return self

    def read(self, timeout_seconds: float) -> list[str]:
        """The keys pressed within `timeout_seconds`; returns at once when there is one."""
        if self._file is None:
            time.sleep(timeout_seconds)
            return []
        ready, _, _ = select.select([self._file], [], [], timeout_seconds)
        if not ready:
            return []
        data = os.read(self._file, 256)
        if not data:
            self._file = None
        return decode(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None and self._file is not None:
            termios.tcsetattr(self._file, termios.TCSANOW, self._before)  # type: ignore[arg-type]
