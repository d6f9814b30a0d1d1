"""Whether anybody answers at a Ray address. Ray itself would try for minutes, and say so on every line."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from orchestrator.errors import UserError

FIND_OURSELVES = ("auto", "local")
"""Addresses that Ray looks up by itself."""
ANSWER_SECONDS = 5.0


def check_address(address: str, answer_seconds: float = ANSWER_SECONDS) -> None:
    """Raise UserError unless `address` (HOST:PORT, or a URL of that) takes a connection now."""
    if address in FIND_OURSELVES:
        return
    host, port = _host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=answer_seconds).close()
    except OSError as error:
        raise UserError(f"Ray cluster {address}: nobody answers: {error.strerror or error}") from None


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise UserError(f"Ray cluster {address!r}: an address is HOST:PORT, or auto")
    return host, port
