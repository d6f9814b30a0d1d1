"""Finding and signalling the processes of a drill, by what Linux says of their parents."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def parent_of() -> dict[int, int]:
    """The parent of every living process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z":
                found[int(entry.name)] = int(fields[1])
    return found


def descendants(root: int) -> list[int]:
    """All living processes below `root`, nearest first."""
    parents = parent_of()
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def command_of(process: int) -> str:
    """The command line, or empty when it is gone."""
    try:
        return (Path("/proc") / str(process) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_alive(process: int) -> bool:
    return process in parent_of()


def send(process: int, number: int) -> bool:
    """Send a signal; False when the process is gone."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


def kill_tree(root: int) -> None:
    """SIGKILL to a process and everything below it."""
    for process in [*descendants(root), root]:
        send(process, signal.SIGKILL)
