"""Ports for servers that are started on this machine for a while."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_000)
"""Below what systems hand out by themselves, and above Ray's own for workers: between looking and listening nobody else
comes by one of these."""


def free_ports(count: int) -> list[int]:
    """Distinct ports of the loopback that are free now. Raises OSError when there are not so many."""
    found: list[int] = []
    # Not from the seeded generator: processes that share a seed would choose the same ports.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) < count and _is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports from {PORTS.start} to {PORTS.stop - 1}")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
