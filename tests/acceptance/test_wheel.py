"""The built wheel holds what the program needs, and works away from the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.models import smollm2_folder

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "workers", "tasks", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders behind; nothing is fetched."""
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    for package in (*PACKAGES, "kernels"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place)]
    build = [sys.executable, "-m", "pip", "wheel", *options, str(tree)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_file_of_our_packages_is_in_the_wheel(names: set[str]) -> None:
    wanted = {p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file()}
    wanted |= {p.relative_to(ROOT / "kernels") for p in (ROOT / "kernels/sparsekernels").rglob("*") if p.is_file()}
    missing = sorted(str(p) for p in wanted if p.suffix != ".pyc" and str(p) not in names)
    assert missing == []


def test_nothing_else_is_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES, "sparsekernels"}


def test_licence_entry_points_and_types_are_declared(wheel: Path, names: set[str]) -> None:
    info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
    archive = zipfile.ZipFile(wheel)
    entries = archive.read(f"{info}/entry_points.txt").decode()
    assert "frontier = orchestrator.cli.main:main" in entries
    assert "frontier = workers.vllm_plugin:register" in entries
    assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    assert "License-Expression: Apache-2.0" in archive.read(f"{info}/METADATA").decode()
    assert {f"{p}/py.typed" for p in ("orchestrator", "workers", "tasks", "sparsekernels")} <= names


def test_an_installed_wheel_runs_a_campaign(wheel: Path, tmp_path: Path) -> None:
    installed, home = tmp_path / "installed", tmp_path / "home"
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(installed)]
    install = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    subprocess.run(install, check=True, timeout=300, capture_output=True)
    (home / "models").mkdir(parents=True)
    (home / "models" / "smollm2-135m").symlink_to(smollm2_folder())
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "FRONTIER_HOME": str(home),
        "FRONTIER_CONFIG": str(tmp_path / "none.toml"),
    }
    walk = (
        ["-c", "import orchestrator, sparsekernels; print(orchestrator.__file__, sparsekernels.__file__)"],
        ["-m", "orchestrator.cli.main", "init", "campaign.yaml"],
        ["-m", "orchestrator.cli.main", "run", "campaign.yaml", "--engine", "fake", "--pool", "inline", "--plain"],
        ["-m", "orchestrator.cli.main", "status", "campaign"],
    )
    told = []
    for words in walk:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        told.append(done.stdout)
    assert told[0].count(str(installed)) == 2
    assert "vertical_slash" in told[-1]
