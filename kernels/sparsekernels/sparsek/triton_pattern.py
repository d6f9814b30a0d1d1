# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Thresholds and end rows of all rows at once on a GPU: one program a step of the competition.

Chunks of steps share a list of earlier scores that can still matter: those within 1 of the k-th best at
the chunk's start, which holds the support of every later row. Which chunks list a score is one run,
because the k-th best never falls. Within a chunk each step bisects for the rank of its k-th best
(exact, ranks are integers) and, in a bracket of width 1 below it, for τ.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.sparsek.chunked import StreamPattern, _deaths, _ranks
from sparsekernels.sparsek.pattern import Budget, CausalPattern, _nothing_kept, _place

HALVINGS = 20


@triton.jit
def _count_from(list_ptr, rank_ptr, place, stop, start, step, least, BLOCK: tl.constexpr):
    """How many visible ranks are at least `least`."""
    total = tl.zeros((BLOCK,), tl.int32)
    for at in range(place, stop, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        keys = tl.load(list_ptr + offset, mask=offset < stop, other=0)
        ranks = tl.load(rank_ptr + keys, mask=offset < stop, other=-1)
        total += (ranks >= least).to(tl.int32)
    for at in range(start, step + 1, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        ranks = tl.load(rank_ptr + offset, mask=offset <= step, other=-1)
        total += (ranks >= least).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def _mass(list_ptr, u_ptr, place, stop, start, step, tau, BLOCK: tl.constexpr):
    """Σ clip(u − τ, 0, 1), count and sum of (u − τ) over fractional ones."""
    mass = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.int32)
    for at in range(place, stop, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        keys = tl.load(list_ptr + offset, mask=offset < stop, other=0)
        over = tl.load(u_ptr + keys, mask=offset < stop, other=-1.0e30) - tau
        mass += tl.minimum(tl.maximum(over, 0.0), 1.0)
        count += ((over > 0.0) & (over < 1.0)).to(tl.int32)
    for at in range(start, step + 1, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        over = tl.load(u_ptr + offset, mask=offset <= step, other=-1.0e30) - tau
        mass += tl.minimum(tl.maximum(over, 0.0), 1.0)
        count += ((over > 0.0) & (over < 1.0)).to(tl.int32)
    return tl.sum(mass, 0), tl.sum(count, 0)


@triton.jit
def _steps(
    u_ptr, rank_ptr, sorted_ptr, list_ptr, start_ptr, tau_ptr, count_ptr, kth_ptr, steps, num_chunks, k,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, RANK_HALVINGS: tl.constexpr, HALVINGS: tl.constexpr,
):  # fmt: skip
    step, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    chunk = step // CHUNK
    place = tl.load(start_ptr + head * (num_chunks + 1) + chunk)
    stop = tl.load(start_ptr + head * (num_chunks + 1) + chunk + 1)
    start = chunk * CHUNK
    u_ptr += head * steps
    rank_ptr += head * steps
    low = 0
    high = steps
    for _ in range(RANK_HALVINGS):
        middle = (low + high) // 2
        enough = _count_from(list_ptr, rank_ptr, place, stop, start, step, middle, BLOCK) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    crowded = step + 1 > k
    kth = tl.where(step + 1 >= k, low, -1)
    best = tl.load(sorted_ptr + head * steps + tl.maximum(kth, 0))
    lo = best - 1.0
    hi = best
    for _ in range(HALVINGS):
        tau = (lo + hi) * 0.5
        mass, _c = _mass(list_ptr, u_ptr, place, stop, start, step, tau, BLOCK)
        lo = tl.where(mass >= k, tau, lo)
        hi = tl.where(mass >= k, hi, tau)
    tau = (lo + hi) * 0.5
    mass, count = _mass(list_ptr, u_ptr, place, stop, start, step, tau, BLOCK)
    tau = tl.where(count > 0, tl.minimum(tl.maximum(tau + (mass - k) / tl.maximum(count, 1), lo), hi), tau)
    tl.store(tau_ptr + head * steps + step, tl.where(crowded, tau, float("-inf")))
    tl.store(count_ptr + head * steps + step, tl.where(crowded, count, 0))
    tl.store(kth_ptr + head * steps + step, kth)


def causal_pattern_triton(scores: Tensor, budget: Budget, *, chunk: int = 512) -> CausalPattern:
    """The pattern of float32 `scores` [H, n]; as `pattern.causal_pattern`, on the scores' device."""
    stream = scores[:, budget.sinks : max(budget.sinks, scores.shape[1] - budget.window)]
    if stream.shape[1] == 0:
        return _place(scores, budget, None)
    if budget.kept == 0:
        return _place(scores, budget, _nothing_kept(stream))
    return _place(scores, budget, stream_pattern_triton(stream.contiguous(), budget.kept, chunk=chunk))


def stream_pattern_triton(scores: Tensor, k: int, *, chunk: int = 512) -> StreamPattern:
    """Facts of H streams of T float32 scores; see `chunked.chunked_pattern`."""
    num_heads, steps = scores.shape
    ranks = _ranks(scores)
    ascending = scores.sort(dim=-1).values
    lists, starts = _chunk_lists(scores, ranks, ascending, k, chunk)
    taus = torch.empty_like(scores)
    counts, kths = (torch.empty(scores.shape, dtype=torch.int32, device=scores.device) for _ in range(2))
    _steps[(steps, num_heads)](
        scores, ranks.to(torch.int32), ascending, lists, starts, taus, counts, kths, steps, starts.shape[1] - 1, k,
        CHUNK=chunk, BLOCK=512, RANK_HALVINGS=max(1, steps.bit_length()), HALVINGS=HALVINGS, num_warps=4,
    )  # fmt: skip
    return StreamPattern(taus.cummax(1).values, counts, _deaths(ranks, kths.long()))


def _chunk_lists(scores: Tensor, ranks: Tensor, ascending: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """For every (head, chunk) the earlier steps within 1 of the k-th best at its start: indices and offsets."""
    num_heads, steps = scores.shape
    num_chunks = -(-steps // chunk)
    floors = _kth_best_at_starts(ranks, ascending, k, chunk) - 1.0
    own = torch.arange(steps, device=scores.device) // chunk
    last = torch.searchsorted(floors.contiguous(), scores) - 1
    counts = (last - own).clamp(min=0).flatten()
    pairs = torch.repeat_interleave(counts)
    within = torch.arange(len(pairs), device=scores.device) - (counts.cumsum(0) - counts)[pairs]
    head, key = pairs // steps, pairs % steps
    place = (head * num_chunks + own[key] + 1 + within).sort(stable=True)
    offsets = torch.searchsorted(place.values, torch.arange(num_heads * num_chunks + 1, device=scores.device))
    rows = torch.arange(num_heads, device=scores.device)[:, None] * num_chunks
    starts = offsets[rows + torch.arange(num_chunks + 1, device=scores.device)].contiguous()
    lists = key[place.indices].to(torch.int32)
    return lists if len(lists) else lists.new_zeros(1), starts


def _kth_best_at_starts(ranks: Tensor, ascending: Tensor, k: int, chunk: int) -> Tensor:
    """[H, chunks] k-th best score before each chunk; −inf while fewer than k came before."""
    best = torch.full((len(ranks), k), -1, dtype=ranks.dtype, device=ranks.device)
    found = []
    for start in range(0, ranks.shape[1], chunk):
        found.append(best.amin(1))
        best = torch.cat((best, ranks[:, start : start + chunk]), 1).topk(k, dim=1).values
    kth = torch.stack(found, 1)
    return torch.where(
        kth >= 0, ascending.gather(1, kth.clamp(min=0)), torch.full_like(kth, -torch.inf, dtype=ascending.dtype)
    )
