"""Known prompts by which an engine proves itself: the same device must give the same tokens each time."""

from __future__ import annotations

from workers.engine import Generation, GenerationRequest
from workers.source import hash_tokens

PREFIX = "canary-"
_LENGTHS = (33, 160)
_OUTPUT_TOKENS = 8


def canary_requests(max_model_len: int) -> list[GenerationRequest]:
    """Greedy dense requests that run one by one, with nothing else in flight."""
    return [
        GenerationRequest(
            request_id=f"{PREFIX}{length}",
            prompt_token_ids=[11 + (37 * i + i * i) % 199 for i in range(length)],
            max_tokens=_OUTPUT_TOKENS,
        )
        for length in _lengths(max_model_len)
    ]


def _lengths(max_model_len: int) -> list[int]:
    fitting = [length for length in _LENGTHS if length + _OUTPUT_TOKENS <= max_model_len]
    return fitting or [max(1, max_model_len - _OUTPUT_TOKENS)]


def canary_digest(generation: Generation) -> str:
    """What is compared: the tokens."""
    return hash_tokens(generation.token_ids)
