"""The browser's view: answers, escaping, and a real browser where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from orchestrator.dashboard.snapshot import Snapshot
from orchestrator.dashboard.state import View
from orchestrator.dashboard.web import answer, server, state_of
from tests.support import snapshots

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def hostile() -> Snapshot:
    snapshot = snapshots.running()
    return replace(snapshot, header=replace(snapshot.header, campaign="<script>alert(1)</script>"))


@pytest.fixture
def address() -> Iterator[str]:
    with server(snapshots.running, "127.0.0.1", 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()


def test_a_frame_has_the_view_that_was_asked_for() -> None:
    status, kind, text = answer("/frame?view=workers&width=120&height=30", snapshots.running)
    assert (status, kind) == (HTTPStatus.OK, "text/html")
    assert "in flight" in text or "tok/s" in text
    assert text.rstrip("\n").count("\n") + 1 <= 30


def test_names_are_escaped() -> None:
    assert "<script>" not in answer("/frame", hostile)[2]


def test_nonsense_in_the_address_is_ignored() -> None:
    assert state_of({"view": ["nowhere"], "length": ["long"], "columns": ["x"]}).view is View.OVERVIEW
    assert answer("/frame?width=-1&height=99999999", snapshots.running)[0] is HTTPStatus.OK
    assert answer("/../../etc/passwd", snapshots.running)[0] is HTTPStatus.NOT_FOUND


def test_the_snapshot_is_there_for_programs(address: str) -> None:
    with urllib.request.urlopen(f"{address}/snapshot.json", timeout=30) as reply:
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert json.load(reply)["header"]["num_samples"] == 172_800


def test_nothing_can_be_sent(address: str) -> None:
    request = urllib.request.Request(f"{address}/snapshot.json", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=30)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.slow
def test_a_real_browser_shows_the_heat_map(address: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=5000",
    ]
    page = f"{address}/#view=heat+map"
    done = subprocess.run(
        [BROWSER, *options, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True
    )
    assert "block_sparse" in done.stdout
    assert "Qwen2.5-72B-Instruct</option>" in done.stdout
