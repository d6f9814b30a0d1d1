"""Every `--json` answer has the form that docs/json.md tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import build_app
from tests.support.json_forms import differences, read_forms
from tests.support.models import smollm2_folder

FORMS = read_forms(Path(__file__).parents[2] / "docs" / "json.md")
SPEC = """\
name: forms
models: [{{source: {model}, name: tiny}}]
methods: [dense, quest: {{token_budget: [64, 128]}}]
tasks: [ruler_niah: {{num_queries: 1, needle: numbers, haystack: sentences}}, story_retrieval]
lengths: [512]
samples: 4
max_output_tokens: 8
"""
ANSWERS = {
    "validate": ["validate", "spec.yaml"],
    "plan": ["plan", "spec.yaml", "--gpus", "1xCPU"],
    "status": ["status", "forms"],
    "watch": ["watch", "forms"],
    "failures": ["failures", "forms"],
    "events": ["events", "forms"],
    "results": ["results", "forms"],
    "results against-dense": ["results", "forms", "--view", "against-dense"],
    "results admissible": ["results", "forms", "--view", "admissible"],
    "compare": ["compare", "forms", "forms"],
    "export": ["export", "forms", "--out", "exported"],
    "import": ["import", "exported", "--as", "again"],
    "verify": ["verify", "forms"],
    "doctor": ["doctor"],
    "models list": ["models", "list"],
    "tasks list": ["tasks", "list"],
    "methods list": ["methods", "list"],
    "methods show": ["methods", "show", "quest"],
    "methods new": ["methods", "new", "mine"],
    "tasks new": ["tasks", "new", "ours"],
    "resume": ["resume", "forms"],
    "requeue": ["requeue", "forms"],
    "pause": ["pause", "forms"],
    "cancel": ["cancel", "forms"],
}
"""Commands in an order in which each has something to say; the last ones change the campaign."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished campaign with failures (stories do not fit into 512 tokens), as the working directory."""
    place = tmp_path_factory.mktemp("forms")
    (place / "spec.yaml").write_text(SPEC.format(model=smollm2_folder()))
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    patch.setenv("FRONTIER_STORE", str(place / "store.sqlite"))
    patch.setenv("FRONTIER_HOME", str(place))
    patch.setenv("FRONTIER_QUIET", "1")
    yield place
    patch.undo()


@pytest.fixture(scope="module")
def run_document(folder: Path) -> str:
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", "spec.yaml", "--engine", "fake"]
    done = subprocess.run(
        [*command, "--pool", "inline", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    return done.stdout


def is_of_a_form(command: str, answer: str) -> list[str]:
    value = json.loads(answer)
    found = [differences(form, value) for form in FORMS[command]]
    return min(found, key=len)


def test_run(run_document: str) -> None:
    assert is_of_a_form("run", run_document) == []


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_has_the_documented_form(name: str, run_document: str) -> None:
    command = name if name in FORMS else name.split()[0]
    result = CliRunner().invoke(build_app(), [*ANSWERS[name], "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert is_of_a_form(command, result.stdout) == []


def test_a_wrong_answer_is_found() -> None:
    form = {"name": "text", "rows": [{"mean": "float or null"}], "more": {"…": "int"}}
    right = {"name": "x", "rows": [{"mean": None}, {"mean": 1}], "more": {"a": 1}}
    assert differences(form, right) == []
    assert differences(form, {**right, "extra": 1}) == [".extra is not documented"]
    assert differences(form, {**right, "rows": [{"mean": "1"}]}) == [".rows[0].mean is '1', not float or null"]
    assert differences(form, {**right, "more": {"a": True}}) == [".more.a is True, not int"]
