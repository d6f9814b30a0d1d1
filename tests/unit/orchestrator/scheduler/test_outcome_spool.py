"""The spool: in order, checked, and indifferent to torn tails and full disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.scheduler.spool import Spool
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome


def outcome(index: int) -> SampleOutcome:
    failure = Failure(kind=FailureKind.BAD_SAMPLE, message="né") if index == 2 else None
    return SampleOutcome(
        attempt_id=1, shard_id=2, cell_key="k", index=index, completion="a\nb", failure=failure, extras={"x": [1]}
    )


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "s.spool")
    assert list(spool.read()) == []
    spool.append([outcome(0), outcome(1)])
    spool.append([outcome(2)])
    assert list(Spool(spool.path).read()) == [outcome(0), outcome(1), outcome(2)]
    spool.clear()
    assert list(spool.read()) == []


def test_a_torn_tail_loses_nothing_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.spool")
    spool.append([outcome(0), outcome(1)])
    whole = spool.path.read_bytes()
    for cut in range(2, len(whole) // 2, 7):
        spool.path.write_bytes(whole[:-cut])
        Spool(spool.path).append([outcome(3)])
        assert list(spool.read()) == [outcome(0), outcome(3)]


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.spool")
    spool.append([outcome(0), outcome(1)])
    damaged = spool.path.read_bytes().replace(b'"index":0', b'"index":9')
    spool.path.write_bytes(b"nonsense\n" + damaged + b'00000000 {"a": 1}\n')
    assert list(spool.read()) == [outcome(1)]


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "s.spool"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Spool(path).append([outcome(0)])
