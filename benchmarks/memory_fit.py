"""Does our memory check agree with vLLM? Dummy Qwen2.5 7B, 14B and 32B at 8k to 128k tokens on one GPU.

    PYTHONPATH=.:kernels python benchmarks/memory_fit.py [--models 7B,14B,32B] [--out FILE]

Each model is loaded once, with random weights, through the settings of our engine; vLLM then profiles every length
and gives its verdict at two shares of the memory: 0.9, and what makes this GPU as small as an 80 GB one. Exit code 1
when a verdict differs or a KV capacity is off by more than 5 %. Takes about 150 s on an H200.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from orchestrator.domain.gpu_types import GIB, GpuType, find_gpu  # noqa: E402
from orchestrator.domain.known_models import find_known  # noqa: E402
from orchestrator.domain.memory import MemoryPlan, plan_memory  # noqa: E402
from orchestrator.domain.model_facts import ModelFacts  # noqa: E402

LENGTHS = (8192, 16384, 32768, 65536, 131072)
MAX_IN_FLIGHT = 16
TOLERANCE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="7B,14B,32B")
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return run_child(json.loads(arguments.child))
    gpu, sizes = find_gpu(arguments.gpu), arguments.models.split(",")
    rows = [row for size, answer in probe_all(sizes, gpu) for row in compare(size, gpu, answer)]
    report(rows, gpu)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))
    sys.exit(0 if rows and all(row["verdict_agrees"] and row["within"] for row in rows) else 1)


def facts_of(size: str) -> ModelFacts:
    facts = find_known(f"Qwen2.5-{size}")
    if facts is None:
        sys.exit(f"no known shape for Qwen2.5-{size}")
    return facts


def utilizations(gpu: GpuType) -> list[float]:
    return [0.9, round(0.9 * find_gpu("H100").memory_gib / gpu.memory_gib, 4)]


def probe_all(sizes: list[str], gpu: GpuType) -> list[tuple[str, dict[str, Any]]]:
    """One process a model; they import together but use the GPU one after another."""
    with tempfile.TemporaryDirectory() as folder:
        running = [(size, *start_child(size, gpu, Path(folder))) for size in sizes]
        answers = []
        for size, process, out in running:
            code = process.wait()
            if code or not out.is_file():
                print(f"{size}: the probe ended with code {code}", file=sys.stderr)
                continue
            answers.append((size, json.loads(out.read_text())))
        return answers


def start_child(size: str, gpu: GpuType, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    model, out = folder / size, folder / f"{size}.json"
    write_config(facts_of(size), model)
    order = {"model": str(model), "lock": str(folder / "lock"), "out": str(out), "lengths": list(LENGTHS)}
    order |= {"utilizations": utilizations(gpu), "max_in_flight": MAX_IN_FLIGHT}
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, "--child", json.dumps(order)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}), out


def write_config(facts: ModelFacts, folder: Path) -> None:
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
        "max_position_embeddings": 2 * max(LENGTHS),
        "tie_word_embeddings": facts.tied_embeddings,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def run_child(order: dict[str, Any]) -> None:
    """Start our engine with the probing worker; that worker ends this process."""
    from workers.engine import EngineSpec
    from workers.vllm_engine import VllmEngine

    os.environ["FRONTIER_PROBE"] = json.dumps(order)
    import vllm.engine.arg_utils  # noqa: F401  (the slow import, before the lock)

    options = {"worker_cls": "benchmarks.memory_probe.ProbeWorker", "in_process": True}
    with open(order["lock"], "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        VllmEngine(
            EngineSpec(
                model=order["model"],
                dtype="bfloat16",
                max_model_len=max(order["lengths"]),
                load_format="dummy",
                max_in_flight=order["max_in_flight"],
                options=options,
            )
        )
    sys.exit("the probe did not run")


def compare(size: str, gpu: GpuType, answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [_compare_row(size, gpu, answer, row) for row in answer["rows"]]


def _compare_row(size: str, gpu: GpuType, answer: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    plan: MemoryPlan = plan_memory(
        facts_of(size),
        gpu,
        tensor_parallel=1,
        max_model_len=row["length"],
        max_in_flight=MAX_IN_FLIGHT,
        utilization=row["utilization"],
    )
    ratio = plan.kv_capacity_tokens / row["kv_tokens"] if row["kv_tokens"] else None
    return {
        "model": size,
        **row,
        "total_bytes": answer["total_bytes"],
        "weight_bytes": answer["weight_bytes"],
        "predicted_weight_bytes": plan.weight_bytes,
        "predicted_activation_bytes": plan.activation_bytes,
        "predicted_kv_bytes": plan.kv_bytes,
        "predicted_fits": plan.fits,
        "predicted_kv_tokens": plan.kv_capacity_tokens if plan.fits else 0,
        "ratio": ratio,
        "verdict_agrees": plan.fits == row["fits"],
        "within": not (plan.fits and row["fits"]) or (ratio is not None and abs(ratio - 1) <= TOLERANCE),
    }


def report(rows: list[dict[str, Any]], gpu: GpuType) -> None:
    import torch
    import vllm

    total = rows[0]["total_bytes"] / GIB if rows else float("nan")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"vLLM {vllm.__version__}, torch {torch.__version__}, {device}")
    print(f"memory {total:.2f} GiB by vLLM, {gpu.memory_gib:.2f} GiB in our table")
    print("model  length  share  vLLM tokens  ours       ratio  vLLM non-KV GiB  ours   verdicts")
    for row in rows:
        budget = row["utilization"] * row["total_bytes"]
        ours = row["utilization"] * gpu.memory_bytes - row["predicted_kv_bytes"]
        ratio = f"{row['ratio']:.3f}" if row["ratio"] else "  -  "
        print(
            f"{row['model']:5} {row['length']:7d}  {row['utilization']:.3f}  {row['kv_tokens']:11,d}  "
            f"{row['predicted_kv_tokens']:9,d}  {ratio}  {(budget - row['kv_bytes']) / GIB:15.2f}  {ours / GIB:5.2f}  "
            f"{'agree' if row['verdict_agrees'] else 'DIFFER'} ({'fits' if row['fits'] else 'no fit'})"
        )


if __name__ == "__main__":
    main()
