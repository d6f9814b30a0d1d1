"""What Prometheus reads of a campaign equals what the store says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import build_app
from orchestrator.dashboard.metrics import exposition, serve
from orchestrator.dashboard.read import SnapshotSource
from orchestrator.errors import StoreError, UserError
from orchestrator.scheduler.campaign import run_campaign
from orchestrator.scheduler.inline_pool import InlinePool
from orchestrator.store import views
from orchestrator.store.session import Store, open_store
from tests.support.campaigns import FAST, make_campaign
from tests.support.models import smollm2_folder

parser = pytest.importorskip("prometheus_client.parser")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('metrics')}/store.sqlite") as opened:
        make_campaign(opened, num_cells=4, num_samples=6)
        run_campaign(opened, "drill", InlinePool(), settings=FAST)
        yield opened


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric name and label values, read by Prometheus' own parser."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            key = tuple(sample.labels.values())
            assert key not in values, f"{sample.name}{sample.labels} is told twice"
            values[key] = sample.value
    return found


def test_totals_and_scores_are_the_stores(store: Store) -> None:
    told = samples(exposition(SnapshotSource(store, "drill")))
    assert told["frontier_store_up"] == {(): 1.0}
    assert told["frontier_samples_planned"] == {("drill",): 24.0}
    assert told["frontier_samples_recorded_total"] == {("drill",): 24.0}
    states = told["frontier_campaign_state"]
    assert [state for (_, state), value in states.items() if value] == ["complete"]
    rows = views.cell_rows(store, "drill")
    assert sorted(told["frontier_cell_score"].values()) == pytest.approx(sorted(row.score or 0.0 for row in rows))
    assert len(told["frontier_cell_score"]) == 4
    assert sum(told["frontier_workers"].values()) == 1


def test_cells_that_differ_in_no_shown_word_are_told_apart(store: Store) -> None:
    snapshot = SnapshotSource(store, "drill")()
    twin = replace(snapshot.cells[0], key="another setting of the same budget")
    told = samples(exposition(lambda: replace(snapshot, cells=(*snapshot.cells, twin))))
    assert len(told["frontier_cell_score"]) == 5


def test_cells_can_be_left_out(store: Store) -> None:
    assert "frontier_cell_score" not in samples(exposition(SnapshotSource(store, "drill"), with_cells=False))


def test_a_store_that_is_away_is_told_as_such() -> None:
    def away() -> None:
        raise StoreError("away")

    assert samples(exposition(away)) == {"frontier_store_up": {(): 0.0}}  # type: ignore[arg-type]


def test_a_scrape_over_http_and_a_port_that_is_taken(store: Store) -> None:
    server = serve(SnapshotSource(store, "drill"), "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            told = samples(answer.read().decode())
        with pytest.raises(UserError, match=rf"cannot serve metrics on 127\.0\.0\.1:{server.server_port}"):
            serve(SnapshotSource(store, "drill"), "127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
    assert told["frontier_samples_recorded_total"] == {("drill",): 24.0}


def test_every_metric_is_documented(store: Store) -> None:
    text = exposition(SnapshotSource(store, "drill"))
    names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    documented = set(re.findall(r"`(frontier_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    always = {"frontier_failures_total", "frontier_eta_seconds", "frontier_gpu_busy_ratio"}
    assert names - documented == set()
    assert documented - names - always - {n for n in documented if "per_second" in n or "worker_" in n} == set()


def test_an_unknown_campaign_is_one_line_before_anything_is_served(store: Store) -> None:
    done = CliRunner().invoke(build_app(), ["metrics", "nobody", "--store", store.url])
    assert isinstance(done.exception, StoreError)
    assert "nobody" in str(done.exception)


def test_a_run_can_be_scraped_while_it_runs(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"name: scraped\nmodels: [{{source: {smollm2_folder()}, name: tiny}}]\nmethods: [dense]\n"
        "tasks: [ruler_niah: {num_queries: 1, needle: numbers, haystack: sentences}]\n"
        "lengths: [512]\nsamples: 2000\nmax_output_tokens: 8\n"
    )
    flags = ["--store", str(tmp_path / "s.sqlite"), "--engine", "fake", "--pool", "inline", "--metrics-port", "0"]
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", str(spec), *flags, "--plain", "--grace", "1"]
    environment = {**os.environ, "FRONTIER_HOME": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    try:
        place = next(line.split()[-1] for line in process.stderr if line.startswith("metrics: "))
        with urllib.request.urlopen(place, timeout=30) as answer:
            told = samples(answer.read().decode())
        next(line for line in process.stderr if "samples/s" in line)  # from here on a signal drains
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert told["frontier_samples_planned"] == {("scraped",): 2000.0}
    assert process.returncode == 130
