"""Does `method: sparsek` in the engine pick the tokens that the reference implementation picks?

    python -m benchmarks.sparsek_engine --model FOLDER --adapter FILE --slots 512 --length 8000 --output result.json

The engine generates greedily from held-out text of the adapter's kind, half of the requests dense and half SparseK, all
in one batch. Then the transformers model, attending by `workers.adapt.attend.Adapted` (and densely), reads prompt and
generated tokens at once and says at each place which token it would have picked. In float32 all must agree; in bfloat16
near ties may differ, so the gap between its best logit and the engine's choice is told too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from sparsekernels.sparsek.adapter import load_adapter
from sparsekernels.sparsek.attention import Impl
from sparsekernels.sparsek.controls import split_slots
from sparsekernels.sparsek.definition import Gating

from workers.adapt.attend import Adapted, Dense, Policy, attention
from workers.adapt.text import token_windows
from workers.engine import EngineSpec, Generation, GenerationRequest
from workers.vllm_engine import VllmEngine

Tokens = list[int]


def held_out_prompts(options: argparse.Namespace) -> list[Tokens]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model, local_files_only=True)
    text = token_windows(
        options.data, tokenizer, length=options.length, num_train=0, num_held_out=options.prompts, seed=options.seed
    )
    return [list(map(int, row)) for row in text.held_out]


def generate(options: argparse.Namespace, prompts: list[Tokens]) -> tuple[dict[str, Generation], dict[str, float]]:
    """Every prompt under both methods, in one batch; and seconds."""
    sparsek = {"prefill": {"name": "sparsek", "adapter": str(options.adapter), "slots": options.slots}}
    spec = EngineSpec(
        model=str(options.model), dtype=options.dtype, max_model_len=options.length + options.tokens + 16,
        kv_cache_gib=options.kv_cache_gib, max_in_flight=2 * len(prompts), options={"ignore_eos": True},
    )  # fmt: skip
    begun = time.monotonic()
    engine = VllmEngine(spec)
    loaded = time.monotonic()
    try:
        for name, method in (("sparsek", sparsek), ("dense", {})):
            for number, prompt in enumerate(prompts):
                engine.submit(
                    GenerationRequest(
                        request_id=f"{name} {number}", prompt_token_ids=prompt, max_tokens=options.tokens, method=method
                    )
                )
        done: dict[str, Generation] = {}
        while len(done) < 2 * len(prompts):
            for result in engine.poll(30.0):
                if not isinstance(result, Generation):
                    raise SystemExit(f"{result.request_id}: {result.failure.message}")
                done[result.request_id] = result
    finally:
        engine.close()
    return done, {"load_seconds": loaded - begun, "generate_seconds": time.monotonic() - loaded}


def judge(model: Any, policy: Policy, prompt: Tokens, made: Tokens) -> tuple[int, float]:
    """How many of the made tokens the reference picks too, and its largest logit lead over one that it does not."""
    ids = torch.tensor([prompt + made], device=model.device)
    with torch.no_grad(), attention(model, policy):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
        logits = model.lm_head(states).float()
    chosen = logits.gather(1, torch.tensor(made, device=model.device)[:, None]).squeeze(1)
    lead = logits.amax(1) - chosen
    return int((lead == 0).sum()), float(lead.max())


def compare(options: argparse.Namespace, prompts: list[Tokens], done: dict[str, Generation]) -> list[dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if options.dtype == "float32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, local_files_only=True).eval().to(device)
    impl = Impl.TRITON if device == "cuda" else Impl.TORCH
    adapter = load_adapter(options.adapter)
    policies: dict[str, Policy] = {
        "sparsek": Adapted(adapter, split_slots(options.slots), Gating.STRAIGHT_THROUGH, impl),
        "dense": Dense(),
    }
    rows = []
    for name, result in sorted(done.items()):
        kind, number = name.split()
        made = list(result.token_ids)
        same, lead = judge(model, policies[kind], prompts[int(number)], made)
        other, _ = judge(model, policies["dense" if kind == "sparsek" else "sparsek"], prompts[int(number)], made)
        rows.append(
            {
                "request": name, "tokens": len(made), "picked_by_reference": same, "largest_lead": lead,
                "picked_by_the_other_method": other, "density_prefill": result.density_prefill,
                "density_decode": result.density_decode,
            }
        )  # fmt: skip
        print(
            f"{name:12s} {same} of {len(made)} tokens are the reference's (largest lead {lead:.4f}), {other} those of "
            f"the other method; density {result.density_prefill:.3f} prefill, {result.density_decode:.3f} decode",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--data", default="python")
    parser.add_argument("--length", type=int, default=8000, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--kv-cache-gib", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    prompts = held_out_prompts(options)
    done, seconds = generate(options, prompts)
    print(" ".join(f"{name} {value:.1f}" for name, value in seconds.items()), flush=True)
    record = {"options": {k: str(v) for k, v in vars(options).items()}, **seconds}
    record["requests"] = compare(options, prompts, done)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
