"""What `benchmarks.engine` measures: shapes of models, and the methods at each length."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 163840,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "torch_dtype": "bfloat16",
    },
}


def methods_for(length: int) -> dict[str, dict[str, Any]]:
    """The methods' wire forms at a length; prefill budgets of a fortieth of the context, for densities below .1."""
    tokens = length // 40
    return {
        "block_sparse": {
            "prefill": {"name": "block_sparse", "top_blocks": max(8, tokens // 64), "block_size": 64, "row_block": 128}
        },
        "vertical_slash": {
            "prefill": {"name": "vertical_slash", "vertical_size": tokens, "slash_size": 68}
        },
        "flexprefill": {"prefill": {"name": "flexprefill", "alpha": 0.0, "min_budget": 72}},
        "quest_1024": {"decode": {"name": "quest", "token_budget": 1024}},
        "block_sparse+quest_1024": {
            "prefill": {"name": "block_sparse", "top_blocks": max(8, tokens // 64), "block_size": 64, "row_block": 128},
            "decode": {"name": "quest", "token_budget": 1024},
        },
        "quest_4096": {"decode": {"name": "quest", "token_budget": 4096}},
        "snapkv_2048": {"compress": {"name": "snapkv", "token_capacity": 2048}},
        "ada_snapkv_2048": {"compress": {"name": "ada_snapkv", "token_capacity": 2048}},
        "snapkv_2048+quest_1024": {
            "compress": {"name": "snapkv", "token_capacity": 2048},
            "decode": {"name": "quest", "token_budget": 1024},
        },
    }  # fmt: skip


def model_folder(options: argparse.Namespace, scratch: str) -> str:
    """The model's folder; with --shapes, a scratch folder that holds a config.json of those shapes."""
    if options.model:
        return str(options.model)
    config: dict[str, Any] = dict(SHAPES[options.shapes])
    config["num_hidden_layers"] = options.layers or config["num_hidden_layers"]
    (Path(scratch) / "config.json").write_text(json.dumps(config))
    return scratch
