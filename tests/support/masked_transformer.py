"""A transformers model whose attention is a dense mask made by the selection oracle: what an engine must equal.

Prompt rows are masked by the prefill method, later rows by compression and decode method, row by row. Slow loops in
NumPy; meant for tiny models and short prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from tests.support import selection_oracle as oracle

NAME = "frontier_oracle_mask"


def logits(model: Any, ids: Sequence[int], prompt_length: int, method: Mapping[str, Any]) -> Tensor:
    """Log-probabilities [len(ids), vocabulary] of a transformers model run once over `ids` under the method's masks."""

    def forward(module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, scaling: float, **_: Any) -> Any:
        query, key = (x[0].transpose(0, 1).double().numpy() for x in (q, k))
        mask = torch.from_numpy(mask_of(query, key, prompt_length, method))
        group = q.shape[1] // k.shape[1]
        keys, values = (x[0].repeat_interleave(group, 0) for x in (k, v))
        scores = (q[0] @ keys.transpose(1, 2) * scaling).masked_fill(~mask.transpose(0, 1), -float("inf"))
        return (scores.softmax(-1) @ values).transpose(0, 1)[None].contiguous(), None

    AttentionInterface.register(NAME, forward)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        with torch.no_grad():
            found = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        model.set_attn_implementation(before)
    return found.float().log_softmax(-1)


def mask_of(q: oracle.Array, k: oracle.Array, prompt_length: int, method: Mapping[str, Any]) -> oracle.Mask:
    """bool [T, Hq, T] for q [T, Hq, D] and k [T, Hkv, D], a whole sequence."""
    rows, heads, _ = q.shape
    mask = np.broadcast_to(np.tril(np.ones((rows, rows), dtype=bool))[:, None], (rows, heads, rows)).copy()
    prompt_q, prompt_k = q[:prompt_length], k[:prompt_length]
    if "prefill" in method:
        mask[:prompt_length, :, :prompt_length] &= prefill_mask(prompt_q, prompt_k, method["prefill"])
    kept = kept_tokens(prompt_q, prompt_k, method.get("compress"))
    if method.get("decode", {}).get("name") == "tova":
        for row, tokens in enumerate(oracle.tova_reads(q, k, prompt_length, method["decode"]["token_capacity"])):
            mask[prompt_length + row] = False
            mask[prompt_length + row, :, tokens] = True
        return mask
    for row in range(prompt_length, rows):
        for head, keys in enumerate(decode_keys(q[row], k[: row + 1], prompt_length, kept, method.get("decode"))):
            mask[row, head] = False
            mask[row, head, list(keys)] = True
    return mask


def prefill_mask(q: oracle.Array, k: oracle.Array, m: Mapping[str, Any]) -> oracle.Mask:
    if m["name"] == "stride":
        return oracle.stride_mask(q, k, m["step"], m["block"], m["row_block"])
    if m["name"] == "block_sparse":
        return oracle.block_sparse_mask(
            q, k, top=m["top_blocks"], block=m["block_size"], row_block=m["row_block"] or m["block_size"],
            sinks=m["sink_blocks"], local=m["local_blocks"],
        )  # fmt: skip
    common = dict(window=m["window"], sinks=m["sink_size"], local=m["local_size"])
    if m["name"] == "flexprefill":
        pattern = oracle.flexprefill_pattern(q, k, alpha=m["alpha"], min_budget=m["min_budget"], **common)
    else:
        pattern = oracle.vertical_slash_pattern(q, k, verticals=m["vertical_size"], slashes=m["slash_size"], **common)
    return oracle.pattern_mask(*pattern, len(q), len(k), 64)


def kept_tokens(q: oracle.Array, k: oracle.Array, m: Mapping[str, Any] | None) -> list[list[int]]:
    """Prompt tokens that each KV head keeps, ascending."""
    if m is None:
        return [list(range(len(k)))] * k.shape[1]
    if m["name"] == "keep_strongest":
        return oracle.strongest_kept(q, k, m["size"], m["window"])
    common = dict(
        window=m["window"], kernel=m["kernel_size"], capacity=m["token_capacity"], sinks=m["sink_size"],
        local=m["local_size"],
    )  # fmt: skip
    if m["name"] == "snapkv":
        kept = oracle.snapkv_kept(q, k, **common)
    else:
        kept = oracle.ada_snapkv_kept(q, k, ratio=m["min_ratio"], **common)
    return [sorted(tokens) for tokens in kept]


def decode_keys(
    q: oracle.Array, k: oracle.Array, prompt_length: int, kept: list[list[int]], m: Mapping[str, Any] | None
) -> list[list[int]]:
    """Keys that one row q [Hq, D] reads, for each query head; Quest's pages are cut from what was kept."""
    group = q.shape[0] // k.shape[1]
    found: list[list[int]] = []
    for h, tokens in enumerate(kept):
        entries = [*tokens, *range(prompt_length, len(k))]
        if m is None:
            found += [entries] * group
            continue
        if m["name"] == "streaming_llm":
            read_entries = oracle.streaming_reads(len(entries), m["token_budget"], m["sink_size"])
            found += [[entries[e] for e in read_entries]] * group
            continue
        queries, keys = q[h * group : (h + 1) * group], k[entries, h : h + 1]
        size = m["page_size"]
        pages = oracle.quest_pages(queries, keys, page=size, budget=m["token_budget"], shared=m["share_pages"])
        read = [[e for p in row for e in entries[p * size : (p + 1) * size]] for row in pages]
        found += read * group if m["share_pages"] else read
    return found
