"""The example package, installed beside the product, is everywhere a built-in method or task is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import smollm2_folder

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugin_package"
SPEC = """
name: plugged
models: [{{source: {model}, name: small}}]
methods:
  - dense
  - a_shape: {{local_blocks: [2, 4]}}
  - {{name: both, prefill: {{a_shape: {{local_blocks: 4}}}}, decode: {{streaming_llm: {{token_budget: 64}}}}}}
tasks: [{{ledger: {{reply: primed}}}}]
lengths: [256]
samples: 2
max_output_tokens: 8
"""


class Installation:
    """The example package in a folder of its own, on the path of every command."""

    def __init__(self, package: Path, folder: Path) -> None:
        self.folder, self.target = folder, folder / "installed"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target",
             str(self.target), str(package)],
            check=True, capture_output=True, text=True, cwd=folder,
        )  # fmt: skip
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.target), str(ROOT), str(ROOT / "kernels")]),
            "FRONTIER_HOME": str(folder / "home"),
            "FRONTIER_CONFIG": str(folder / "none.toml"),
            "FRONTIER_STORE": f"sqlite:///{folder / 'store.db'}",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def call(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.main", *words],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.call(*words, "--json"))

    def spec(self, text: str = SPEC) -> Path:
        path = self.folder / "campaign.yaml"
        path.write_text(text.format(model=smollm2_folder()), "utf-8")
        return path


def copied(to: Path, version: str = "0.3.0") -> Path:
    """A copy of the example package, so that building leaves nothing in the tree."""
    shutil.copytree(EXAMPLE, to, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    project = to / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace('version = "0.3.0"', f'version = "{version}"'), "utf-8")
    return to


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("plugin")
    return Installation(copied(folder / "package"), folder)


def test_it_shows_in_the_lists_with_its_package(installed: Installation) -> None:
    methods = {m["name"]: m for m in installed.json("methods", "list")["methods"]}
    tasks = {t["name"]: t for t in installed.json("tasks", "list")["tasks"]}
    assert (methods["a_shape"]["from"], methods["a_shape"]["phase"]) == ("frontier-example-plugin 0.3.0", "prefill")
    assert methods["a_shape"]["options"][0]["meaning"].startswith("Blocks below the diagonal")
    assert methods["quest"]["from"] == tasks["ruler_vt"]["from"] == "frontier"
    assert tasks["ledger"]["from"] == "frontier-example-plugin 0.3.0"


def test_its_own_tests_pass(installed: Installation) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(installed.folder / "package" / "tests")],
        env=installed.environment, capture_output=True, text=True, cwd=installed.folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "line", "message"),
    [
        ("[2, 4]", "[-1, 4]", 6, "a_shape: local_blocks is -1; it must be at least 0"),
        ("- a_shape:", "- a_shap:", 6, "unknown method 'a_shap'"),
        ("reply: primed", "num_digits: 20", 8, "ledger.num_digits must lie in [1, 9], not 20"),
        ("[{{ledger:", "[{{ledgers:", 8, "unknown task 'ledgers'"),
    ],
)
def test_mistakes_are_named_with_file_and_line(
    installed: Installation, right: str, wrong: str, line: int, message: str
) -> None:
    path = installed.spec(SPEC.replace(right, wrong, 1))
    said = installed.call("validate", str(path), code=2)
    assert f"campaign.yaml:{line}" in said
    assert message in said
    assert len(said.splitlines()) == 1


def test_plan_knows_its_nominal_density(installed: Installation) -> None:
    text = SPEC.replace("local_blocks: [2, 4]", "compression: 2").replace("lengths: [256]", "lengths: [256, 512]")
    assert "6 cells" in installed.call("plan", str(installed.spec(text)))


def test_a_campaign_with_the_fake_engine_shows_it_in_dashboard_and_report(installed: Installation) -> None:
    installed.call("run", str(installed.spec()), "--pool", "inline", "--engine", "fake", "--plain")
    check_what_is_shown(installed)


def check_what_is_shown(installed: Installation) -> dict[str, Any]:
    cells = installed.json("status", "plugged")["cells"]
    assert [(c["method"], c["task"], c["n"], c["failed"]) for c in cells] == [
        ("dense", "ledger", 2, 0), ("a_shape", "ledger", 2, 0), ("a_shape", "ledger", 2, 0), ("both", "ledger", 2, 0)
    ]  # fmt: skip
    assert cells[1]["parameters"]["prefill"]["plugin"] == "frontier-example-plugin 0.3.0"
    assert cells[1]["budget"] == "local_blocks=2"
    assert 1.5 < cells[1]["compression"] < 3.5
    watched = installed.call("watch", "plugged", "--once")
    assert "ledger" in watched
    assert "a_shape" in watched
    assert "a_shape" in installed.call("results", "plugged")
    report = installed.folder / "report"
    installed.call("report", "plugged", "--out", str(report))
    page = (report / "report.html").read_text("utf-8")
    assert "a_shape" in page
    assert "ledger" in page
    return {f"{c['method']} {c['budget']}": c for c in cells}


def test_a_cell_is_another_one_under_another_version(installed: Installation, tmp_path: Path) -> None:
    newer = Installation(copied(tmp_path / "package", "0.4.0"), tmp_path)
    newer.call("run", str(newer.spec()), "--pool", "inline", "--engine", "fake", "--plain")
    old = installed.json("status", "plugged")["cells"]
    new = newer.json("status", "plugged")["cells"]
    assert not {c["key"] for c in old} & {c["key"] for c in new}
    assert new[1]["parameters"]["prefill"]["plugin"] == "frontier-example-plugin 0.4.0"


@pytest.mark.engine
@pytest.mark.slow
def test_a_campaign_with_the_real_engine_on_a_cpu(installed: Installation, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    installed.environment["FRONTIER_STORE"] = f"sqlite:///{tmp_path / 'real.db'}"
    installed.call("run", str(installed.spec()), "--pool", "inline", "--plain")
    cells = check_what_is_shown(installed)
    assert cells["dense "]["density_prefill"] == 1.0
    two, four = cells["a_shape local_blocks=2"], cells["a_shape local_blocks=4"]
    assert two["density_prefill"] < four["density_prefill"] < 0.8
    assert abs(two["density_prefill"] * two["compression"] - 1) < 0.1
    both = cells["both local_blocks=4+token_budget=64"]
    assert both["density_prefill"] == pytest.approx(four["density_prefill"], abs=0.02)
    assert 0.2 < both["density_decode"] < 0.3
