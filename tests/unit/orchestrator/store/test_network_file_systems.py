"""SQLite on a network file system is refused by the file system's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.dialect import file_system_of, refuse_network_file_system
from orchestrator.store.session import open_store

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/me/local ext4 rw 0 0
lustre /scratch\\040space lustre rw 0 0
"""


def test_the_longest_mount_point_decides() -> None:
    assert file_system_of(Path("/var/x.sqlite"), MOUNTS) == "ext4"
    assert file_system_of(Path("/home/you/x.sqlite"), MOUNTS) == "nfs4"
    assert file_system_of(Path("/home/me/local/x.sqlite"), MOUNTS) == "ext4"
    assert file_system_of(Path("/homeless/x.sqlite"), MOUNTS) == "ext4"


def test_network_file_systems_are_refused_by_name() -> None:
    refuse_network_file_system(Path("/var/x.sqlite"), MOUNTS)
    with pytest.raises(StoreError, match=r"network file system \(nfs4\)"):
        refuse_network_file_system(Path("/home/you/x.sqlite"), MOUNTS)
    with pytest.raises(StoreError, match=r"\(lustre\)"):
        refuse_network_file_system(Path("/scratch space/x.sqlite"), MOUNTS)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://host/db", "cannot be read|only sqlite and postgresql"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
def test_stores_that_cannot_be_reached_are_one_line(url: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "x.sqlite"
    other.write_text("this is a letter to my aunt, not a database" * 50)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{other}")
    with pytest.raises(StoreError, match="no such file"):
        open_store(f"sqlite:///{tmp_path / 'missing.sqlite'}", create=False)
