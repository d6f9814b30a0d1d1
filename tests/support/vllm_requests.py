"""One request for each kind of method, on one prompt: what engines that are split differently must answer alike."""

from __future__ import annotations

import random
from typing import Any

from tests.support.vllm_engines import VOCABULARY
from workers.engine import GenerationRequest

SNAP = {"name": "snapkv", "token_capacity": 48, "window": 32, "local_size": 16, "kernel_size": 5}
QUEST = {"name": "quest", "token_budget": 32}
METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": 4}},
    "vertical_slash": {"prefill": {"name": "vertical_slash", "vertical_size": 24, "slash_size": 72, "window": 32}},
    "quest": {"decode": QUEST},
    "snapkv": {"compress": SNAP},
    "tova": {"decode": {"name": "tova", "token_capacity": 24}},
    "snapkv+streaming_llm": {"compress": SNAP, "decode": {"name": "streaming_llm", "token_budget": 20}},
    "ada_snapkv": {"compress": {**SNAP, "name": "ada_snapkv"}},
    "ada_snapkv+quest": {"compress": {**SNAP, "name": "ada_snapkv"}, "decode": QUEST},
}


def requests(seed: int) -> list[GenerationRequest]:
    prompt = random.Random(seed).choices(range(3, VOCABULARY - 3), k=150)
    return [
        GenerationRequest(request_id=n, prompt_token_ids=prompt, max_tokens=12, method=METHODS[n], report_layers=True)
        for n in METHODS
    ]
