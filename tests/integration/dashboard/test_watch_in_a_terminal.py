"""A second terminal watches a running campaign and sees it finish (tmux plays the terminals)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store.session import open_store
from tests.support.campaigns import make_campaign
from tests.support.models import smollm2_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
FRONTIER = [sys.executable, "-m", "orchestrator.cli.main"]
ROOT = Path(__file__).parents[3]
SPEC = """\
name: seen
models: [{{source: {model}, name: tiny, options: {{seconds: {seconds}}}, max_in_flight: 4}}]
methods: [dense, quest: {{token_budget: [64, 128]}}]
tasks: [ruler_niah: {{num_queries: 1, needle: numbers, haystack: sentences}}]
lengths: [512]
samples: 24
max_output_tokens: 8
shard_samples: 10
"""


class Terminal:
    """One window of a private tmux server."""

    def __init__(self, folder: Path) -> None:
        self._server = f"frontier-{uuid.uuid4().hex[:8]}"
        self._folder = folder

    def open(self, name: str, command: list[str], width: int = 80, height: int = 24) -> None:
        line = f"cd {shlex.quote(str(ROOT))} && {shlex.join(command)}; echo left with $?; sleep 600"
        self._tmux("new-session", "-d", "-s", name, "-x", str(width), "-y", str(height), line)

    def text(self, name: str, padded: bool = False) -> str:
        """What the window shows; `padded` keeps the spaces that were written at the end of a line."""
        return self._tmux("capture-pane", "-p", *(["-N"] if padded else []), "-t", name)

    def press(self, name: str, *keys: str) -> None:
        self._tmux("send-keys", "-t", name, *keys)

    def resize(self, name: str, width: int, height: int) -> None:
        self._tmux("resize-window", "-t", name, "-x", str(width), "-y", str(height))

    def until(
        self, name: str, seen: Callable[[str], bool], what: str, seconds: float = 90, padded: bool = False
    ) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            text = self.text(name, padded)
            if seen(text):
                return text
            time.sleep(0.2)
        raise AssertionError(f"{what} was not seen; the terminal shows:\n{self.text(name)}")

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._server, "kill-server"], check=False, capture_output=True)

    def _tmux(self, *arguments: str) -> str:
        # Some shells export the first two; a viewer must follow its window all the same.
        size = {"COLUMNS": "80", "LINES": "24"}
        environment = {**os.environ, **size, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        command = ["tmux", "-u", "-L", self._server, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


def test_a_second_watch_attaches_while_a_campaign_runs_and_sees_it_finish(terminal: Terminal, tmp_path: Path) -> None:
    spec, store = tmp_path / "seen.yaml", str(tmp_path / "seen.sqlite")
    # Long enough for a second viewer to start on a busy machine while the campaign runs.
    spec.write_text(SPEC.format(model=smollm2_folder(), seconds=1.5))
    terminal.open("run", [*FRONTIER, "run", str(spec), "--store", store, "--engine", "fake", "--pool", "inline"])
    terminal.until("run", lambda t: "seen  running" in t and "of 72 samples" in t, "the dashboard of run")
    terminal.open("watch", [*FRONTIER, "watch", "seen", "--store", store])
    terminal.until("watch", lambda t: "seen  running" in t, "the second viewer's dashboard")

    terminal.press("watch", "2")
    heat = terminal.until("watch", lambda t: "Scores  by task" in t, "the heat map")
    assert "quest" in heat
    terminal.resize("watch", 140, 40)
    terminal.until("watch", lambda t: {len(line) for line in t.splitlines()} == {140}, "the wider picture", padded=True)
    assert terminal.text("watch").count("seen  ") == 1
    terminal.press("watch", "3")
    terminal.until("watch", lambda t: "Workers" in t and "seen" in t, "the workers")
    terminal.press("watch", "/", *"nothing-like-this", "Enter")
    terminal.until("watch", lambda t: "only “nothing-like-this”" in t, "the filter")
    terminal.press("watch", "Escape")

    terminal.until("watch", lambda t: "seen  complete" in t and "72 of 72" in t, "the end in the second viewer", 180)
    terminal.until("run", lambda t: "left with 0" in t, "the end of run", 60)
    terminal.press("watch", "q")
    left = terminal.until("watch", lambda t: "left with 0" in t, "the shell after q", 30)
    assert "complete: 100.0 % (72/72 samples)" in left


def test_a_terminal_that_cannot_draw_gets_lines(tmp_path: Path, terminal: Terminal) -> None:
    store = str(tmp_path / "seen.sqlite")
    with open_store(f"sqlite:///{store}") as opened:
        make_campaign(opened)
    terminal.open("dumb", ["env", "TERM=dumb", *FRONTIER, "watch", "drill", "--store", store])
    terminal.until("dumb", lambda t: "drill ready: 0.0 % (0/" in t, "the progress as a line", 30)


def test_once_is_as_wide_as_columns_says(tmp_path: Path) -> None:
    store = str(tmp_path / "seen.sqlite")
    with open_store(f"sqlite:///{store}") as opened:
        make_campaign(opened)
    watch = [*FRONTIER, "watch", "--once", "--store", store]
    for columns, width in (("60", 60), ("200", 200), ("no", 120)):
        environment = {**os.environ, "COLUMNS": columns}
        done = subprocess.run(watch, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert max(len(line) for line in done.stdout.splitlines()) == width


def test_a_piped_watch_tells_lines_and_ends_with_the_campaign(tmp_path: Path) -> None:
    spec, store = tmp_path / "seen.yaml", str(tmp_path / "seen.sqlite")
    spec.write_text(SPEC.format(model=smollm2_folder(), seconds=0.05).replace("samples: 24", "samples: 10"))
    run = subprocess.Popen(
        [*FRONTIER, "run", str(spec), "--store", store, "--engine", "fake", "--pool", "inline", "--plain"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        watch = [*FRONTIER, "watch", "seen", "--store", store, "--interval", "0.5"]
        done = _watch_once_there(watch)
        assert run.wait(timeout=120) == 0
    finally:
        run.kill()
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert lines[-1].split(" ", 1)[1].startswith("seen complete: 100.0 % (30/30 samples)")


def _watch_once_there(command: list[str]) -> subprocess.CompletedProcess[str]:
    """The store appears a moment after `run` starts."""
    for _ in range(40):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            return done
        time.sleep(0.5)
    raise AssertionError(done.stderr)
