"""Whole campaigns through the production loop on simulated nodes; faults, lower bound, baselines, commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import plan as plan_command
from orchestrator.cli import simulate as simulate_command
from orchestrator.cli.simulate import parse_duration
from orchestrator.domain.fleet import parse_fleet
from orchestrator.domain.grid import Cell, expand
from orchestrator.domain.placement import Node
from orchestrator.domain.spec_file import load_spec
from orchestrator.errors import UserError
from orchestrator.models.resolve import describe_model
from orchestrator.scheduler.simulation.baselines import Work, first_in_first_out, static_splitting
from orchestrator.scheduler.simulation.faults import FaultTrace, Outage, draw_faults, lower_bound
from orchestrator.scheduler.simulation.simulate import Scenario, Simulation

SPEC = """
name: small
models:
  - {source: Qwen/Qwen2.5-7B-Instruct, name: small, rope: yarn_per_length}
  - {source: Qwen/Qwen2.5-32B-Instruct, name: large, tensor_parallel: 2}
lengths: [16384]
tasks: [ruler_niah, ruler_vt, story_retrieval]
samples: 400
max_output_tokens: 512
methods: [dense, {quest: {token_budget: [816, 1632]}}, {block_sparse: {top_blocks: [26, 53]}}]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def cells(spec: Path) -> list[Cell]:
    return expand(load_spec(spec), describe_model)


NODES = [Node(name=name, num_gpus=4, num_free=4) for name in "ab"]


def test_the_lower_bound_without_faults_is_work_over_gpus() -> None:
    assert lower_bound(NODES, FaultTrace(), 800.0) == 100.0


def test_the_lower_bound_counts_only_nodes_that_are_up() -> None:
    trace = FaultTrace((Outage(node="a", start=50.0, end=100.0),))
    assert lower_bound(NODES, trace, 400.0 + 200.0) == 100.0
    assert lower_bound(NODES, trace, 600.0 + 80.0) == 110.0


def test_faults_are_the_same_for_the_same_seed_and_about_as_frequent_as_asked() -> None:
    options = {"mtbf_seconds": 1000.0, "away_seconds": 100.0, "horizon_seconds": 1e6}
    first, again = (draw_faults(NODES, seed=7, **options) for _ in range(2))
    assert first == again != draw_faults(NODES, seed=8, **options)
    assert 1500 < len(first.outages) < 2200


def test_baselines_do_all_the_work_through_outages() -> None:
    work = [Work(engine=f"e{i % 2}", gpus=1 + i % 2, seconds=100.0, load_seconds=10.0) for i in range(20)]
    trace = FaultTrace((Outage(node="a", start=60.0, end=120.0),))
    for policy in (static_splitting, first_in_first_out):
        calm, hurt = policy(NODES, FaultTrace(), work), policy(NODES, trace, work)
        assert calm.makespan_seconds >= sum(w.seconds * w.gpus for w in work) / 8
        assert hurt.makespan_seconds > calm.makespan_seconds
        assert hurt.num_loads >= calm.num_loads


def test_a_campaign_completes_near_its_lower_bound(cells: list[Cell]) -> None:
    result = Simulation(cells, parse_fleet("2x4xH100"), Scenario(fold=40)).run()
    assert 1.0 <= result.ratio < 1.4
    assert result.account.num_forced == 0
    assert result.lost_share == pytest.approx(0.0, abs=1e-6)
    assert result.least_loads <= result.account.num_loads <= 12


def test_lost_nodes_cost_work_but_nothing_is_missing(cells: list[Cell]) -> None:
    result = Simulation(
        cells, parse_fleet("2x4xH100"), Scenario(fold=40, mtbf_seconds=3600.0, away_seconds=300.0)
    ).run()
    account = result.account
    assert account.num_outages > 0 < account.num_forced
    assert account.num_loads > account.num_forced
    assert account.busy >= 0.999 * result.useful_gpu_seconds
    assert result.ratio >= 1.0


def commands() -> typer.Typer:
    app = typer.Typer()
    plan_command.register(app)
    simulate_command.register(app)
    return app


def test_plan_prints_a_forecast(spec: Path) -> None:
    done = CliRunner().invoke(commands(), ["plan", str(spec), "--gpus", "2x4xH200", "--price", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["num_cells"], found["num_samples"]) == (30, 12000)
    assert found["fits"] is True
    assert found["wall_seconds_low"] < found["wall_seconds"] < found["wall_seconds_high"]
    assert found["cost"] == pytest.approx(2 * (found["gpu_hours"] + found["load_gpu_hours"]), abs=0.02)
    assert sum(engine["num_shards"] for engine in found["engines"]) == found["num_shards"]


def test_plan_says_what_does_not_fit_and_what_would(spec: Path) -> None:
    done = CliRunner().invoke(commands(), ["plan", str(spec), "--gpus", "8xCPU"])
    assert done.exit_code == 0, done.output
    assert "NO" in done.stdout
    assert "tensor_parallel: 2 fits" in done.stdout


def test_simulate_compares_with_the_baselines(spec: Path) -> None:
    done = CliRunner().invoke(commands(), ["simulate", str(spec), "--nodes", "2x4xH100", "--fold", "80", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["baselines"]) == {"static", "fifo"}
    assert found["makespan_seconds"] >= found["lower_bound_seconds"]


def test_bad_times_and_fleets_are_the_users_errors(spec: Path) -> None:
    assert parse_duration("90m", "--mtbf") == 5400.0
    with pytest.raises(UserError, match="--mtbf is 'soon'"):
        parse_duration("soon", "--mtbf")
    done = CliRunner().invoke(commands(), ["plan", str(spec), "--gpus", "8xH300"])
    assert isinstance(done.exception, UserError)


WIDE = """
name: wide
models:
  - {source: Qwen/Qwen2.5-72B-Instruct, name: wide, tensor_parallel: 8, pipeline_parallel: 2, nodes_per_engine: 2}
  - {source: Qwen/Qwen2.5-7B-Instruct, name: small}
lengths: [16384]
tasks: [ruler_niah, ruler_vt]
samples: 200
max_output_tokens: 512
methods: [dense, {quest: {token_budget: [816, 1632]}}]
"""


def test_engines_over_two_nodes_run_beside_others(tmp_path: Path) -> None:
    """Three nodes: the gang takes two, and is gone when either is lost."""
    path = tmp_path / "wide.yaml"
    path.write_text(WIDE)
    cells = expand(load_spec(path), describe_model)
    fleet = parse_fleet("3x8xH100")
    calm = Simulation(cells, fleet, Scenario(fold=10))
    result = calm.run()
    assert result.account.busy == pytest.approx(result.useful_gpu_seconds)
    assert all(policy.makespan_seconds > 0 for policy in calm.baselines().values())
    hurt = Simulation(cells, fleet, Scenario(fold=10, mtbf_seconds=1500.0, away_seconds=120.0)).run()
    assert hurt.account.num_outages > 0
    assert hurt.account.busy >= hurt.useful_gpu_seconds * (1 - 1e-9)


def test_plan_knows_how_many_nodes_an_engine_needs(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(WIDE)
    found = CliRunner().invoke(commands(), ["plan", str(path), "--gpus", "2x8xH100", "--json"])
    plan = json.loads(found.stdout)
    wide = next(engine for engine in plan["engines"] if engine["model"] == "wide")
    assert (wide["tensor_parallel"], wide["pipeline_parallel"], wide["nodes_per_engine"]) == (8, 2, 2)
    assert not any("nodes" in warning for warning in plan["warnings"])
    small = CliRunner().invoke(commands(), ["plan", str(path), "--gpus", "1x8xH100", "--json"])
    assert "needs 8 GPUs on each of 2 nodes; 1 node(s) have so many" in small.stdout
