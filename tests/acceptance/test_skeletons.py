"""`frontier methods new` and `frontier tasks new` write packages whose own tests pass once they are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from orchestrator.cli.main import build_app

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "method-prefill": ["methods", "new", "first_and_last"],
    "method-decode": ["methods", "new", "ends", "--phase", "decode"],
    "method-compress": ["methods", "new", "kept_ends", "--phase", "compress"],
    "task": ["tasks", "new", "number_of"],
}


def frontier(*words: str) -> Result:
    return CliRunner().invoke(build_app(), list(words))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them written into one folder and installed into another."""
    folder = tmp_path_factory.mktemp("skeletons")
    for name, words in PACKAGES.items():
        done = frontier(*words, "--out", str(folder / name))
        assert done.exit_code == 0, done.output
        assert f"next: pip install --editable {folder / name}" in done.stdout.replace("\n", "")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", str(folder / "installed"), *(str(folder / name) for name in PACKAGES)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", PACKAGES)
def test_its_tests_pass(packages: Path, name: str) -> None:
    path = os.pathsep.join([str(packages / "installed"), str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(packages / name),
         str(packages / name / "tests")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=packages, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_it_is_as_clean_as_our_own_code(packages: Path, name: str) -> None:
    ruff = [Path(sys.executable).parent / "ruff", "--config", str(ROOT / "pyproject.toml")]
    for command in (["check", "--ignore", "I001"], ["format", "--check"]):
        done = subprocess.run([ruff[0], *command, *ruff[1:], packages / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    assert "@" not in "".join(p.read_text("utf-8") for p in (packages / name).rglob("*.toml"))


def test_refusals_take_one_line(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    refused = {
        ("methods", "new", "quest"): "there is a method 'quest' already",
        ("methods", "new", "Not-a-name"): "'Not-a-name' must be lower case",
        ("methods", "new", "mine", "--phase", "late"): "--phase is 'late'; it must be one of prefill, decode, compress",
        ("methods", "new", "mine", "--out", str(tmp_path / "there")): "exists; choose another folder with --out",
        ("tasks", "new", "ruler_vt"): "there is a task 'ruler_vt' already",
        ("tasks", "new", "class"): "'class' must be lower case",
    }
    for words, message in refused.items():
        error = frontier(*words).exception
        assert message in str(error), words


def test_the_files_are_told_as_json(tmp_path: Path) -> None:
    told = json.loads(frontier("tasks", "new", "ours", "--out", str(tmp_path / "ours"), "--json").stdout)
    assert all(Path(file).is_file() for file in told["files"])
    assert {Path(file).name for file in told["files"]} == {
        "pyproject.toml", "README.md", "__init__.py", "task.py", "test_ours.py"
    }  # fmt: skip
