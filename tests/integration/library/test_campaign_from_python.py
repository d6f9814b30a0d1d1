"""Campaigns from Python, with the fake engine: what a notebook's user may rely on."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import Campaign, SpecError, StoreError, UserError, campaigns
from orchestrator.dashboard import notebook
from tests.support.models import smollm2_folder

ROOT = Path(__file__).parents[3]


def spec(**changes: Any) -> Mapping[str, Any]:
    values = {
        "name": "library",
        "models": [{"source": str(smollm2_folder()), "name": "tiny"}],
        "methods": ["dense", {"quest": {"token_budget": [64, 128]}}],
        "tasks": [{"ruler_niah": {"num_queries": 1, "needle": "numbers", "haystack": "sentences"}}],
        "lengths": [512],
        "samples": 4,
        "max_output_tokens": 8,
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def model() -> Path:
    return smollm2_folder()


@pytest.fixture(autouse=True)
def _home(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own, with the model that this machine has already."""
    monkeypatch.setenv("FRONTIER_TEST_SMOLLM2", str(model))
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path / "home"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def test_a_campaign_runs_and_its_results_are_frames(store: Path, tmp_path: Path) -> None:
    campaign = Campaign.from_spec(spec(), store=store, engine="fake")
    assert campaign.status()["samples"]["recorded"] == 0
    result = campaign.run(pool="inline", progress="none")
    assert result.exit_code == 0
    assert campaign.status()["state"] == "complete"
    assert len(campaign.cells()) == 3
    outcomes = campaign.outcomes()
    assert len(outcomes) == 12
    scores = campaign.scores()
    assert list(scores["num_scored"]) == [4, 4, 4]
    by_hand = outcomes.groupby("cell_key", observed=True)["score"].mean()
    assert sorted(scores["mean"]) == pytest.approx(sorted(by_hand))
    assert list(campaign.against_dense()["num_pairs"]) == [4, 4]
    assert list(campaign.admissible()["method"]) == ["quest"]
    assert "ruler_niah" in campaign.report(tmp_path / "report").read_text()
    assert campaigns(store) == ["library"]


def test_a_run_goes_on_where_the_last_one_stopped(store: Path) -> None:
    campaign = Campaign.from_spec(spec(), store=store, engine="fake")
    campaign.run(pool="inline", progress="none")
    again = Campaign.open("library", store=store)
    assert again.run(pool="inline", progress="none").exit_code == 0
    assert again.snapshot().header.num_recorded == 12
    same = Campaign.from_spec(spec(), store=store, engine="fake")
    assert repr(same) == repr(again)
    assert again.requeue() == 0


def test_a_person_pauses_resumes_and_cancels(store: Path) -> None:
    campaign = Campaign.from_spec(spec(), store=store, engine="fake")
    assert [campaign.pause(), campaign.resume(), campaign.cancel()] == ["paused", "running", "cancelled"]


def test_budgets_by_length_and_every_character_come_from_python_too(store: Path) -> None:
    methods = [{"quest": {"token_budget": {512: [64, 128], 1024: 256}}}]
    given = spec(methods=methods, lengths=[512, 1024], description="🙂 \x85")
    cells = Campaign.from_spec(given, store=store, engine="fake").cells()
    assert sorted(zip(cells["length_tokens"], cells["budget"], strict=True)) == [
        (512, "token_budget=128"),
        (512, "token_budget=64"),
        (1024, "token_budget=256"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"grace_seconds": float("nan")}, "grace_seconds is nan; it must be at least 0"),
        ({"wall_seconds": -1}, "wall_seconds is -1; it must be at least 1"),
    ],
)
def test_how_a_run_goes_is_checked(changes: dict[str, Any], message: str, store: Path) -> None:
    campaign = Campaign.from_spec(spec(), store=store, engine="fake")
    with pytest.raises(UserError, match=message):
        campaign.run(pool="inline", progress="none", **changes)
    with pytest.raises(UserError, match="folder /proc/x: cannot make the folder"):
        campaign.report("/proc/x")
    with pytest.raises(UserError, match="kind is 'late'"):
        campaign.requeue("late")


def test_wrong_input_is_one_line_that_names_the_value(store: Path) -> None:
    with pytest.raises(SpecError, match=r"^spec: .*token_budgets"):
        Campaign.from_spec(spec(methods=[{"quest": {"token_budgets": 3}}]), store=store)
    with pytest.raises(SpecError, match=r"^spec: not data of a campaign file"):
        Campaign.from_spec(spec(samples={4}), store=store)
    with pytest.raises(UserError, match="engine is 'vllmm'"):
        Campaign.from_spec(spec(), store=store, engine="vllmm")
    campaign = Campaign.from_spec(spec(), store=store, engine="fake")
    with pytest.raises(StoreError, match="another spec"):
        Campaign.from_spec(spec(samples=5), store=store, engine="fake")
    with pytest.raises(UserError, match="progress is 'loud'"):
        campaign.run(progress="loud")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pool is 'slurm'"):
        campaign.run(pool="slurm", progress="none")
    with pytest.raises(UserError, match="margin is 5"):
        campaign.against_dense(margin=5)
    with pytest.raises(StoreError, match="nothing-here"):
        Campaign.open(store=store.with_name("nothing-here"))


def test_the_password_of_a_store_is_not_shown() -> None:
    assert "secret" not in repr(Campaign("x", "postgresql+psycopg://me:secret@head/frontier"))


class Cell:
    """Stands for IPython's display: remembers what a notebook would show."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def display(self, page: str, display_id: bool = False) -> Cell:
        self.shown.append(page)
        return self

    def update(self, page: str) -> None:
        self.shown.append(page)


def test_a_notebook_sees_the_dashboard_move(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell()
    display = types.ModuleType("IPython.display")
    display.HTML, display.display = str, cell.display  # type: ignore[attr-defined]
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert notebook.is_here()
    campaign = Campaign.from_spec(spec(), store=store, engine="fake")
    assert campaign.run(pool="inline").exit_code == 0
    assert len(cell.shown) >= 2
    assert "12 of 12 samples" in cell.shown[-1]
    assert "complete" in campaign._repr_html_()


def test_a_first_interrupt_drains_and_is_no_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(notebook, "follow", interrupt)
    campaign = Campaign.from_spec(spec(samples=400), store=store, engine="fake")
    result = campaign.run(pool="inline", progress="lines", grace_seconds=1)
    assert result.interrupted
    assert result.exit_code == 130
    assert campaign.snapshot().header.num_recorded < 1200


def test_every_public_name_is_there_and_no_other_is() -> None:
    from orchestrator import library

    assert set(orchestrator.__all__) == set(library.__all__)
    assert all(hasattr(orchestrator, name) for name in orchestrator.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Campaigns'"):
        orchestrator.Campaigns  # noqa: B018


def test_the_example_notebook_runs(tmp_path: Path) -> None:
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / "smollm2-135m").symlink_to(smollm2_folder())
    environment = {
        **os.environ,
        "FRONTIER_HOME": str(tmp_path / "home"),
        "FRONTIER_EXAMPLE_ENGINE": "fake",
        "FRONTIER_EXAMPLE_FOLDER": str(tmp_path / "made"),
    }
    command = [sys.executable, str(ROOT / "examples" / "notebook.py")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit code 0" in done.stdout
    assert (tmp_path / "made" / "report" / "report.html").is_file()
