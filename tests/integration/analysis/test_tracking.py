"""Scores of cells in MLflow (a file store of its own) and in Weights & Biases (a module that stands for it)."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.analysis.tracking import cell_records, open_tracker
from orchestrator.cli.main import build_app
from orchestrator.cli.status_document import status_document
from orchestrator.errors import UserError
from orchestrator.scheduler.campaign import run_campaign
from orchestrator.scheduler.inline_pool import InlinePool
from orchestrator.store.session import open_store
from orchestrator.store.views import campaign_snapshot
from tests.support.campaigns import FAST, make_campaign


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The store of a finished campaign of four cells."""
    place = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/store.sqlite"
    with open_store(place) as store:
        make_campaign(store, num_cells=4, num_samples=6)
        run_campaign(store, "drill", InlinePool(), settings=FAST)
    return place


@pytest.fixture(scope="module")
def document(url: str) -> Mapping[str, Any]:
    with open_store(url) as store:
        return status_document(campaign_snapshot(store, "drill"))


def test_a_record_holds_what_was_asked_and_what_was_measured(document: Mapping[str, Any]) -> None:
    records = cell_records(document)
    assert len(records) == len({record.key for record in records}) == 4
    for record, cell in zip(records, document["cells"], strict=True):
        assert record.metrics["score"] == cell["score"]
        assert record.metrics["n"] == 6
        assert record.parameters["method"] == cell["method"]
        assert "compression" not in record.metrics or cell["compression"] is not None


def test_cells_without_an_outcome_are_left_out(document: Mapping[str, Any]) -> None:
    waiting = {**document["cells"][0], "n": 0, "score": None}
    assert len(cell_records({**document, "cells": [waiting, *document["cells"][1:]]})) == 3


def test_mlflow_gets_one_run_a_cell_however_often_it_is_told(
    url: str, document: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = (tmp_path / "mlruns").as_uri()
    words = ["track", "drill", "--to", "mlflow", "--at", place, "--project", "sparse", "--store", url]
    for more in ([], ["--json"]):
        done = CliRunner().invoke(build_app(), [*words, *more])
        assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer == {"campaign": "drill", "tracker": "mlflow", "cells_logged": 4, "cells_left": 0}
    client = tracking.MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name("sparse")
    runs = client.search_runs([experiment.experiment_id])
    expected = {cell["key"]: cell for cell in document["cells"]}
    assert len(runs) == 4
    for run in runs:
        cell = expected[run.data.tags["frontier.cell"].split("/", 1)[1]]
        assert run.data.metrics["score"] == pytest.approx(cell["score"])
        assert run.data.params["method"] == cell["method"]
        assert run.info.status == "FINISHED"


class Wandb(types.ModuleType):
    """Remembers runs by their id, as the service does."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, dict[str, Any]] = {}
        self.open = 0

    class Error(Exception):
        """What the package raises without an account."""

    def Settings(self, **settings: Any) -> Mapping[str, Any]:
        return settings

    refuses = False

    def init(self, *, id: str, config: dict[str, Any], **rest: Any) -> Any:
        if self.refuses:
            raise self.Error("no API key configured\nuse wandb login")
        assert rest["resume"] == "allow"
        self.open += 1
        summary = self.runs.setdefault(id, {"config": config, "summary": {}, **rest})["summary"]
        return types.SimpleNamespace(summary=summary, finish=self.finish)

    def finish(self) -> None:
        self.open -= 1


def test_wandb_gets_one_run_a_cell(document: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    wandb.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        with open_tracker("wandb", "sparse", "https://tracker.example") as tracker:
            for record in cell_records(document):
                tracker.log(record)
    assert wandb.open == 0
    assert len(wandb.runs) == 4
    assert sorted(run["summary"]["score"] for run in wandb.runs.values()) == sorted(
        cell["score"] for cell in document["cells"]
    )
    assert {run["group"] for run in wandb.runs.values()} == {"drill"}
    assert all(run["settings"]["base_url"] == "https://tracker.example" for run in wandb.runs.values())


def test_a_tracker_that_refuses_is_told_in_one_line(
    document: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    wandb.__spec__, wandb.refuses = types.SimpleNamespace(), True  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with open_tracker("wandb", "sparse") as tracker, pytest.raises(UserError, match=r"^W&B: no API key configured$"):
        tracker.log(cell_records(document)[0])


def test_an_address_that_mlflow_does_not_know_is_told_in_one_line() -> None:
    pytest.importorskip("mlflow.tracking")
    with pytest.raises(UserError, match=r"^MLflow at nowhere://x: "):
        open_tracker("mlflow", "sparse", "nowhere://x")


def test_an_unknown_tracker_or_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="tracker is 'neptune'; it must be one of: mlflow, wandb"):
        open_tracker("neptune", "sparse")
    monkeypatch.setattr("orchestrator.analysis.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb not installed; install the extra: .*\[wandb\]"):
        open_tracker("wandb", "sparse")
