"""What `frontier submit` hands to Ray, without a cluster."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import submit as submitting
from orchestrator.cli.main import build_app
from orchestrator.errors import UserError

SECRET = "postgresql://me:hush@head/frontier"


class FakeRay:
    """Stands for `subprocess.run`: keeps the command and what was uploaded."""

    def __init__(self, code: int = 0, text: str = "") -> None:
        self.code, self.text = code, text
        self.command: list[str] = []
        self.files: dict[str, str] = {}

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.command = command
        folder = Path(command[command.index("--working-dir") + 1])
        self.files = {path.name: path.read_text() for path in folder.iterdir()}
        return subprocess.CompletedProcess(command, self.code, self.text, "")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "campaign.yaml"
    CliRunner().invoke(build_app(), ["init", str(path)])
    return path


def submit(spec: Path, *more: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(build_app(), ["submit", str(spec), "--store", SECRET, *more])
    return result.exit_code, result.stdout, result.exception


def test_the_spec_and_the_store_travel_and_the_password_stays_hidden(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay()
    monkeypatch.setattr(submitting.subprocess, "run", ray)
    code, text, _ = submit(spec)
    assert code == 0
    assert ray.files["campaign.yaml"] == spec.read_text()
    assert "hush" in tomllib.loads(ray.files["frontier.toml"])["store"]
    assert "hush" not in " ".join(ray.command)
    assert "hush" not in text
    assert "frontier watch campaign --store postgresql+psycopg://me:***@head/frontier" in text
    run = ray.command[ray.command.index("-m") :]
    assert run == ["-m", "orchestrator.cli.main", "run", "campaign.yaml", "--ray", "auto", "--engine", "vllm"]


def test_a_bad_spec_never_reaches_the_cluster(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay()
    monkeypatch.setattr(submitting.subprocess, "run", ray)
    spec.write_text(spec.read_text().replace("samples: 4", "samples: many"))
    code, _, error = submit(spec)
    assert code != 0
    assert "samples is 'many'" in str(error)
    assert ray.command == []


def test_a_refusal_is_told_in_one_line(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(1, f"Traceback\n  more\nConnectionError: cannot reach {SECRET}\n")
    monkeypatch.setattr(submitting.subprocess, "run", ray)
    _, _, error = submit(spec)
    assert isinstance(error, UserError)
    assert "ConnectionError" in str(error)
    assert "hush" not in str(error)


STARTING = [
    "Request failed: No available agent to submit job",
    "ray.exceptions.RpcError: RPC error: Received http2 header with status: 404",
]


@pytest.mark.parametrize("text", STARTING)
def test_a_cluster_that_is_just_starting_is_asked_again(spec: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    answers = iter([FakeRay(1, text), FakeRay()])
    monkeypatch.setattr(submitting, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(submitting.subprocess, "run", lambda command, **options: next(answers)(command, **options))
    assert submit(spec)[0] == 0
    assert next(answers, None) is None


def test_a_job_that_was_taken_without_an_answer_is_not_refused(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[command.index("--submission-id") + 1])
        text = (
            STARTING[1] if len(asked) == 1 else f"Job with submission_id {asked[-1]} already exists. Please use another"
        )
        return subprocess.CompletedProcess(command, 1, text, "")

    monkeypatch.setattr(submitting, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(submitting.subprocess, "run", run)
    assert submit(spec)[0] == 0
    assert asked == [asked[0]] * 2


def test_two_submissions_have_two_names() -> None:
    assert submitting.job_name("my campaign!") != submitting.job_name("my campaign!")
    assert submitting.job_name("my campaign!").startswith("frontier-my-campaign-")


def test_a_distant_head_is_asked_for_its_own_python() -> None:
    assert submitting.default_python("http://head.cluster:8265") == "python3"
    assert submitting.default_python("http://127.0.0.1:8265").startswith("/")
