"""RoPE rules for contexts beyond a model's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.domain.spec import YarnRope

PAPER_ORIGINAL_TOKENS = 32768
"""Training context of Qwen2.5 (Sparse Frontier, section 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeRule:
    """What to override in a model's configuration, and the context that results."""

    override: Mapping[str, Any] | None = None
    context_tokens: int | None = None
    """None: the model's own."""


def resolve_rope(rule: Literal["native", "yarn_per_length"] | YarnRope, needed_tokens: int) -> RopeRule:
    """The override for prompts plus outputs of `needed_tokens`.

    `yarn_per_length` is the reference implementation's rule: none up to 32768 tokens, beyond that YaRN with
    factor needed / 32768; so each length has a factor of its own. A YarnRope has one factor throughout.
    """
    if isinstance(rule, YarnRope):
        return _yarn(rule.yarn_factor, rule.original_tokens, int(rule.yarn_factor * rule.original_tokens))
    if rule == "yarn_per_length" and needed_tokens > PAPER_ORIGINAL_TOKENS:
        return _yarn(needed_tokens / PAPER_ORIGINAL_TOKENS, PAPER_ORIGINAL_TOKENS, needed_tokens)
    return RopeRule()


def _yarn(factor: float, original_tokens: int, context_tokens: int) -> RopeRule:
    override = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original_tokens}
    return RopeRule(override=override, context_tokens=context_tokens)
