"""An address that nobody answers at is told at once."""

from __future__ import annotations

import socket

import pytest

from orchestrator.errors import UserError
from orchestrator.scheduler.ray_address import check_address


def test_somebody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
        check_address(f"ray://127.0.0.1:{port}")


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UserError, match=f"Ray cluster {address}: nobody answers"):
        check_address(address)


def test_ray_looks_up_auto_by_itself() -> None:
    check_address("auto")


@pytest.mark.parametrize("address", ["head", "head:port", "ray://", ":6379", "head:99999999"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(UserError, match=r"an address is HOST:PORT"):
        check_address(address)
