"""SparseK in the engine: scores from the cache, kept sets from scores, one adapter a worker.

Nothing is evicted: the kept set of a row is the top of its prefix's scores, so reading just those cache
entries is the same as having dropped the others, and a preempted request starts over without loss. Scores
of cached tokens stay with the request; a step scores only its new tokens.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sparsekernels.kvcache import KeyValues
from sparsekernels.parameters import MethodChoice, SparseK
from sparsekernels.prefill import PrefillResult, allowed_pairs
from torch import Tensor

from workers.vllm_plugin.parallel import Ranks
from workers.vllm_plugin.plan import Span

if TYPE_CHECKING:
    from sparsekernels.sparsek.adapter import Adapter
    from sparsekernels.sparsek.pattern import Budget

    from workers.vllm_plugin.attention import LayerCall


def sparsek_refusal(method: MethodChoice, model: str) -> str | None:
    """Why `method` cannot run on the model in folder `model`: no adapter, or one of another model. None: it can."""
    from sparsekernels.sparsek.adapter import AdapterError

    if not isinstance(method.prefill, SparseK):
        return None
    try:
        _checked(method.prefill.adapter, model)
    except AdapterError as error:
        return str(error)
    return None


@lru_cache(maxsize=64)
def _checked(path: str, model: str) -> None:
    from sparsekernels.sparsek.adapter import fingerprint_model, load_adapter

    load_adapter(Path(path), model_fingerprint=fingerprint_model(Path(model)))


@lru_cache(maxsize=16)
def _adapter(path: str, rank: int, size: int) -> Adapter:
    from sparsekernels.sparsek.adapter import load_adapter

    return load_adapter(Path(path)).for_rank(rank, size)


def budget_of(method: SparseK) -> Budget:
    """How the method spends its slots."""
    from sparsekernels.sparsek.pattern import Budget

    return Budget(window=method.recent, kept=method.kept, sinks=method.sink_size)


def layer_number(name: str) -> int:
    """12 of `model.layers.12.self_attn.attn`."""
    found = re.search(r"\.(\d+)\.", name)
    if found is None:
        raise ValueError(f"no layer number in {name!r}")
    return int(found[1])


def scores_of(name: str, span: Span, cache: KeyValues, sequence: int, ranks: Ranks) -> Tensor:
    """Scores [KV heads, L] of the tokens up to the span's end; scores what is new and remembers it."""
    request = span.request
    known = request.scores.get(name)
    length, start = span.end_position, 0 if known is None else known.shape[1]
    if known is None or start < length:
        keys, values = cache.gather(sequence, length)
        adapter = _adapter(_method(span).adapter, ranks.rank, ranks.size)
        positions = torch.arange(start, length, device=keys.device)
        new = adapter.score(layer_number(name), keys[start:].transpose(0, 1), values[start:].transpose(0, 1), positions)
        known = new if known is None else torch.cat((known, new), 1)
        request.scores[name] = known
    return known[:, :length]


def sparsek_prefill(call: LayerCall, span: Span, cache: KeyValues, ranks: Ranks, scale: float) -> PrefillResult:
    """Attention of a prompt's rows in one layer, written to the call's output."""
    rows = slice(span.first_token, span.first_token + span.num_tokens)
    scores = scores_of(call.name, span, cache, 0, ranks)
    keys, values = cache.gather(0, span.end_position)
    attend = _attend_kernel if call.query.is_cuda else _attend_masked
    attend(call.query[rows], keys, values, scores, budget_of(_method(span)), scale, call.output[rows])
    pairs = sum(min(i + 1, _method(span).slots) for i in range(span.first_position, span.end_position))
    computed = torch.full((call.query.shape[1],), pairs, dtype=torch.int64, device=call.query.device)
    return PrefillResult(call.output[rows], computed, allowed_pairs(span.num_tokens, span.end_position))


def _attend_masked(
    q: Tensor, keys: Tensor, values: Tensor, scores: Tensor, budget: Budget, scale: float, out: Tensor
) -> None:
    from sparsekernels.sparsek.selection import select_prefill

    from workers.vllm_plugin.masked import masked_attend

    masked_attend(q, keys, values, select_prefill(scores, budget, q.shape[0]), scale, out)


def _attend_kernel(
    q: Tensor, keys: Tensor, values: Tensor, scores: Tensor, budget: Budget, scale: float, out: Tensor
) -> None:
    """Triton; all rows of the prompt are recomputed when only its last ones are wanted."""
    from sparsekernels.sparsek.attention import Impl, sparsek_attention
    from sparsekernels.sparsek.definition import Gating

    full = torch.nn.functional.pad(q, (0, 0, 0, 0, keys.shape[0] - q.shape[0], 0))
    rows, ks, vs = (x.transpose(0, 1).contiguous() for x in (full, keys, values))
    found = sparsek_attention(rows, ks, vs, scores, budget, Gating.STRAIGHT_THROUGH, impl=Impl.TRITON, scale=scale)
    out.copy_(found.transpose(0, 1)[-q.shape[0] :])


def decode_slots(name: str, spans: tuple[Span, ...], cache: KeyValues, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Cache slots that decode rows read: int32 [B, KV heads, W] padded behind counts int32 [B, KV heads]."""
    from sparsekernels.sparsek.selection import select_decode

    found, counts = [], []
    for row, span in enumerate(spans):
        scores = scores_of(name, span, cache, row, ranks)
        tokens, count = select_decode(scores, budget_of(_method(span)), span.end_position)
        pages = cache.block_table[row].long()
        found.append(pages[tokens // cache.page_size] * cache.page_size + tokens % cache.page_size)
        counts.append(count)
    width = max(x.shape[1] for x in found)
    padded = [torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in found]
    return torch.stack(padded).to(torch.int32), torch.stack(counts).to(torch.int32)


def _method(span: Span) -> Any:
    return span.request.method.prefill
