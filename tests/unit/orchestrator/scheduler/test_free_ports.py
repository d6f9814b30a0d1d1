"""Ports for servers of tests and drills."""

from __future__ import annotations

import socket

import pytest

from orchestrator.scheduler.chaos import ports


def test_ports_are_distinct_and_below_those_that_the_system_hands_out() -> None:
    found = ports.free_ports(6)
    assert len(set(found)) == 6
    assert all(port in ports.PORTS for port in found)


def test_a_taken_port_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        taken = int(holder.getsockname()[1])
        monkeypatch.setattr(ports, "PORTS", range(taken, taken + 1))
        with pytest.raises(OSError, match="no 1 free ports"):
            ports.free_ports(1)


def test_every_free_port_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = ports.free_ports(1)
    monkeypatch.setattr(ports, "PORTS", range(port, port + 1))
    assert ports.free_ports(1) == [port]
