"""results, compare, report and export as a user types them, on a real store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from orchestrator.cli import compare, export, report, results
from orchestrator.errors import UserError
from orchestrator.store.session import open_store
from tests.support.recorded_campaigns import record_campaign


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.sqlite'}"
    with open_store(path) as store:
        record_campaign(store, "first")
        record_campaign(store, "second", share=0.7, score=lambda key, index: 1.0)
    return path


def frontier(*arguments: str) -> Result:
    app = typer.Typer()
    for module in (results, compare, report, export):
        module.register(app)
    return CliRunner().invoke(app, list(arguments))


def test_results_give_scores_with_both_denominators(url: str) -> None:
    ran = frontier("results", "first", "--store", url, "--json")
    assert ran.exit_code == 0, ran.output
    document = json.loads(ran.stdout)
    row = document["rows"][0]
    assert (row["num_recorded"], row["num_scored"], row["num_unscored"], row["num_unanswered"]) == (12, 11, 1, 1)
    assert row["mean_recorded"] == pytest.approx(row["mean"] * 11 / 12)
    assert row["low"] <= row["mean"] <= row["high"]
    table = frontier("results", "first", "--store", url)
    assert "num unanswered" in table.stdout
    assert "quest" in table.stdout


@pytest.mark.parametrize("view", ["against-dense", "admissible"])
def test_results_against_dense(url: str, view: str) -> None:
    ran = frontier("results", "first", "--store", url, "--view", view, "--json", "--rule", "sparse_frontier_v1")
    rows = json.loads(ran.stdout)["rows"]
    assert {row["method"] for row in rows} == {"quest"}
    assert len(rows) == (16 if view == "against-dense" else 8)


def test_compare_pairs_two_campaigns(url: str) -> None:
    document = json.loads(frontier("compare", "first", "second", "--store", url, "--json").stdout)
    row = next(r for r in document["shared"] if r["num_pairs"])
    assert row["difference"] == pytest.approx(row["second_mean"] - row["first_mean"], abs=0.2)
    assert document["only_first"] == document["only_second"] == 0


def test_report_of_an_unfinished_campaign(url: str, tmp_path: Path) -> None:
    ran = frontier("report", "second", "--store", url, "--out", str(tmp_path / "r"), "--json")
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "r" / "report.html").read_text()
    assert "Unfinished campaign" in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "sha-own-9B" in text


def test_export_and_import_from_the_command_line(url: str, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert frontier("export", "first", "--format", "jsonl", "--out", str(out), "--store", url).exit_code == 0
    target = f"sqlite:///{tmp_path / 'other.sqlite'}"
    ran = frontier("import", str(out), "--store", target, "--as", "mine", "--json")
    assert json.loads(ran.stdout) == {"campaign": "mine", "created": True, "new": 288, "same": 0, "conflicts": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("results", "nope"), "no campaign named 'nope'; there are: first, second"),
        (("results", "--view", "x"), "--view is 'x'; it must be one of: scores, against-dense, admissible"),
        (("results", "--rule", "x"), "--rule is 'x'; it must be one of: noninferior, sparse_frontier_v1"),
        (("results", "--margin", "2"), "--margin is 2; it must lie between 0 and 1"),
        (("report", "--formula", "x"), "--formula is 'x'"),
        (("export", "--format", "x"), "--format is 'x'"),
        (("export", "--out", "/proc/x"), "--out /proc/x: cannot make the folder: No such file or directory"),
        (("report", "--out", "/proc/x"), "--out /proc/x: cannot make the folder: No such file or directory"),
        (("report", "--out", "/dev/null"), "--out /dev/null: there is a file of that name; give a folder"),
    ],
)
def test_bad_input_is_one_line(url: str, arguments: tuple[str, ...], message: str) -> None:
    error = frontier(*arguments, "--store", url).exception
    assert isinstance(error, UserError)
    assert message in str(error)
    assert "\n" not in str(error)


def test_registering_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys, typer\n"
        "from orchestrator.cli import compare, export, report, results\n"
        "app = typer.Typer()\n"
        "[m.register(app) for m in (compare, export, report, results)]\n"
        "print([m for m in ('numpy', 'pandas', 'scipy', 'matplotlib', 'pyarrow', 'sqlalchemy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"
