"""A newcomer's first minutes: every command is one that an earlier command has printed.

init → validate → plan → run → Ctrl-C → run → results → report. The fake engine stands for the model's, unless
FRONTIER_NEWCOMER_ENGINE=vllm asks for the real one (minutes).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.models import smollm2_folder

ENGINE = os.environ.get("FRONTIER_NEWCOMER_ENGINE", "fake")
COMMAND = re.compile(r"frontier ([a-z]+(?: [^\s,;`]+)*)")
FIRST_SIGHT = "shard done" if ENGINE == "vllm" else "samples/s"
"""When Ctrl-C is pressed: the fake engine would be done before a shard is told."""
RUN_FLAGS = ["--pool", "inline", "--engine", ENGINE]


class Newcomer:
    """Types only what was printed before, and remembers what is printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: list[str] = []
        self.environment = {
            **os.environ,
            "FRONTIER_HOME": str(folder / "home"),
            "FRONTIER_CONFIG": str(folder / "none.toml"),
            "NO_COLOR": "1",
        }

    def printed(self, verb: str) -> list[str]:
        """The words of the latest printed command of this verb."""
        found = [command for command in self.known if command.split()[0] == verb]
        assert found, f"nothing printed so far says how to {verb}: {self.known}"
        return found[-1].split()

    def types(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator.cli.main", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )
        self.reads(done.stdout + done.stderr)
        return done

    def reads(self, text: str) -> None:
        self.known += [match.group(1).strip() for match in COMMAND.finditer(text)]

    def runs_until(self, words: list[str], sight: str) -> tuple[int, str]:
        """Starts a command, presses Ctrl-C when `sight` appears, and waits for its end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        watchdog = threading.Timer(500, process.kill)
        watchdog.start()
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if sight in line:
                process.send_signal(signal.SIGINT)
                break
        lines += process.stderr.readlines()
        watchdog.cancel()
        text = "".join(lines)
        self.reads(text)
        return process.wait(), text


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    made = Newcomer(tmp_path)
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "smollm2-135m").symlink_to(smollm2_folder())
    return made


@pytest.mark.slow
def test_each_command_says_how_to_go_on(newcomer: Newcomer) -> None:
    newcomer.reads(newcomer.types(["--help"]).stdout)
    assert newcomer.types(newcomer.printed("init")).returncode == 0
    assert newcomer.types(newcomer.printed("models")).returncode == 0
    assert newcomer.types(newcomer.printed("validate")).returncode == 0
    planned = newcomer.types(newcomer.printed("plan"))
    assert planned.returncode == 0, planned.stderr

    run = newcomer.printed("run")
    code, text = newcomer.runs_until([*run, *RUN_FLAGS], FIRST_SIGHT)
    assert code == 130, text
    assert "the same command goes on where this one stopped" in text
    again = newcomer.types([*run, *RUN_FLAGS])
    assert again.returncode == 0, again.stderr
    assert "complete; next: frontier results" in again.stderr

    results = newcomer.types(newcomer.printed("results"))
    assert results.returncode == 0, results.stderr
    assert "vertical_slash" in results.stdout
    report = newcomer.printed("report")
    assert newcomer.types(["report-folder" if word == "DIR" else word for word in report]).returncode == 0
    page = (newcomer.folder / "report-folder" / "report.html").read_text()
    assert "ruler_niah" in page


def test_a_mistake_in_the_file_is_found_before_anything_runs(newcomer: Newcomer) -> None:
    newcomer.reads(newcomer.types(["--help"]).stdout)
    newcomer.types(newcomer.printed("init"))
    path = newcomer.folder / newcomer.printed("validate")[-1]
    path.write_text(path.read_text().replace("token_budget: [64, 256]", "token_budgets: [64, 256]"))
    told = newcomer.types(newcomer.printed("validate"))
    assert told.returncode == 2
    assert "campaign.yaml:17:" in told.stderr
    assert "token_budget" in told.stderr
    assert not list((newcomer.folder / "home").glob("*.sqlite"))
