"""The files under deploy/ are well formed, and say what the product needs of a cluster. No engine runs here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SCRIPTS = [DEPLOY / "slurm.sh", ROOT / ".ci" / "run", ROOT / ".ci" / "wheel-check"]
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))


def tool(name: str) -> str:
    """A linter of the extra `dev`; the test skips where it is not installed."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def document(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    done = subprocess.run([tool("shellcheck"), str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_dockerfiles_pass_hadolint(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_dockerfiles_copy_all_packages_and_name_extras_that_exist(path: Path) -> None:
    text = path.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = re.search(r"'\.\[([a-z,]+)\]'", text)
    assert named
    assert set(named[1].split(",")) <= set(project["project"]["optional-dependencies"])
    sources = [source for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for source in line.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages - {"sparsekernels"} <= set(sources)
    assert "kernels" in sources


def test_the_ray_cluster_file_is_what_ray_accepts() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(document("ray-cluster.yaml")))


def test_a_ray_node_drains_on_sigterm_and_all_agree_on_tokens() -> None:
    cluster = document("ray-cluster.yaml")
    worker, head = cluster["worker_start_ray_commands"][-1], cluster["head_start_ray_commands"][-1]
    assert "--block" in worker
    assert "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S" in worker
    assert "RAY_AUTH_MODE=token" in worker
    assert "RAY_AUTH_MODE=token" in head


def test_the_rayjob_drains_within_the_pods_grace_and_continues_on_retry() -> None:
    job = document("kuberay-rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("frontier run ")
    assert spec["backoffLimit"] > 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    drain = int(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert pod["terminationGracePeriodSeconds"] - drain == 5
    for template in (workers["template"], cluster["headGroupSpec"]["template"]):
        (container,) = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
        assert any(entry["name"] == "FRONTIER_STORE" for entry in container["env"])


def test_the_postgresql_service_keeps_its_data_and_its_password_apart() -> None:
    compose = document("postgres.compose.yaml")
    service = compose["services"]["postgres"]
    assert "POSTGRES_PASSWORD" not in service["environment"]
    assert service["environment"]["POSTGRES_PASSWORD_FILE"].startswith("/run/secrets/")
    assert {name.split(":")[0] for name in service["volumes"]} == set(compose["volumes"])
    assert set(service["secrets"]) == set(compose["secrets"])
    assert "127.0.0.1" in service["ports"][0]
    assert service["healthcheck"]["test"][1] == "pg_isready"


SHIMS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "scontrol $*" >> "$LOG"; fi\n',
    "srun": 'echo "srun $*" >> "$LOG"\ntrap \'echo node ended >> "$LOG"; exit 0\' TERM\nwhile :; do sleep 0.1; done\n',
    "ray": 'echo "ray $*" >> "$LOG"\n',
    "frontier": (
        'echo "frontier $*" >> "$LOG"\n'
        "trap 'sleep 0.5; echo drained >> \"$LOG\"; exit 130' TERM\n"
        'n=0; while [ $n -lt "$STEPS" ]; do sleep 0.1; n=$((n+1)); done\nexit "$ENDS"\n'
    ),
}


COMPLETES_IN_DRAIN = "trap 'exit 0' TERM; echo listening >> \"$LOG\"; while :; do sleep 0.1; done\n"


def slurm_job(folder: Path, *, steps: int, ends: int, **bodies: str) -> subprocess.Popen[str]:
    """The script with stand-ins for Slurm, Ray and frontier, which log what they are asked."""
    for name, body in {**SHIMS, **bodies}.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}")
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LOG": str(folder / "log"),
        "STEPS": str(steps),
        "ENDS": str(ends),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "77",
        "RAY_AUTH_MODE": "disabled",
        "RAY_WAIT_SECONDS": "0.2",
    }
    environment.pop("FRONTIER_VENV", None)
    command = ["bash", str(DEPLOY / "slurm.sh"), "campaign.yaml"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path.read_text() if path.exists() else "no log"
        time.sleep(0.05)


def test_slurms_warning_drains_ends_the_nodes_and_queues_again(tmp_path: Path) -> None:
    job = slurm_job(tmp_path, steps=10_000, ends=0)
    wait_for(tmp_path / "log", "frontier run")
    job.send_signal(signal.SIGTERM)
    _, told = job.communicate(timeout=60)
    log = (tmp_path / "log").read_text().splitlines()
    assert job.returncode == 130, told
    assert "frontier run campaign.yaml --ray node1:6379 --plain --grace 120" in log
    nodes = [line for line in log if line.startswith("srun")]
    assert len(nodes) == 2
    assert all("ray start --block" in line for line in nodes)
    assert "--address=node1:6379" in nodes[1]
    assert log.index("drained") < log.index("scontrol requeue 77") < log.index("node ended")


def test_a_warning_before_ray_is_up_queues_again(tmp_path: Path) -> None:
    job = slurm_job(tmp_path, steps=1, ends=0, ray="sleep 0.2; exit 1")
    wait_for(tmp_path / "log", "srun")
    job.send_signal(signal.SIGTERM)
    (tmp_path / "ray").write_text("#!/usr/bin/env bash\nexit 0\n")
    job.communicate(timeout=60)
    log = (tmp_path / "log").read_text()
    assert job.returncode == 130
    assert "scontrol requeue 77" in log
    assert "frontier run" not in log


def test_a_command_that_completes_while_it_drains_is_not_queued_again(tmp_path: Path) -> None:
    job = slurm_job(tmp_path, steps=10_000, ends=0, frontier=COMPLETES_IN_DRAIN)
    wait_for(tmp_path / "log", "listening")
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 0
    assert "requeue" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("code", [0, 2, 3, 130])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path: Path, code: int) -> None:
    job = slurm_job(tmp_path, steps=1, ends=code)
    job.communicate(timeout=60)
    assert job.returncode == code
    assert "requeue" not in (tmp_path / "log").read_text()
