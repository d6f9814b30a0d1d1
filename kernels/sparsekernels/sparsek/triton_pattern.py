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

from sparsekernels.sparsek.chunked import StreamPattern, _deaths
from sparsekernels.sparsek.pattern import Budget, CausalPattern, _nothing_kept, _place

HALVINGS = 20


@triton.jit
def _count_from(listed_ranks, rank_ptr, place, stop, start, step, least, BLOCK: tl.constexpr):
    """How many visible ranks are at least `least`."""
    total = tl.zeros((BLOCK,), tl.int32)
    for at in range(place, stop, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        total += (tl.load(listed_ranks + offset, mask=offset < stop, other=-1) >= least).to(tl.int32)
    for at in range(start, step + 1, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        total += (tl.load(rank_ptr + offset, mask=offset <= step, other=-1) >= least).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def _mass(listed_scores, u_ptr, place, stop, start, step, tau, BLOCK: tl.constexpr):
    """Σ clip(u − τ, 0, 1), and how many u − τ are strictly inside (0, 1)."""
    mass = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.int32)
    for at in range(place, stop, BLOCK):
        offset = at + tl.arange(0, BLOCK)
        over = tl.load(listed_scores + offset, mask=offset < stop, other=-1.0e30) - tau
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
    u_ptr, rank_ptr, sorted_ptr, listed_scores, listed_ranks, start_ptr, kth_start_ptr, tau_ptr, count_ptr, kth_ptr,
    steps, num_chunks, k, CHUNK: tl.constexpr, BLOCK: tl.constexpr, HALVINGS: tl.constexpr,
):  # fmt: skip
    step, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    chunk = step // CHUNK
    place = tl.load(start_ptr + head * (num_chunks + 1) + chunk)
    stop = tl.load(start_ptr + head * (num_chunks + 1) + chunk + 1)
    start = chunk * CHUNK
    u_ptr += head * steps
    rank_ptr += head * steps
    # The k-th best never falls: those at the chunk's start and end bracket every step's.
    low = tl.maximum(tl.load(kth_start_ptr + head * (num_chunks + 1) + chunk), 0)
    last = tl.load(kth_start_ptr + head * (num_chunks + 1) + chunk + 1)
    high = tl.where(last < 0, steps, last + 1)
    while high - low > 1:
        middle = (low + high) // 2
        enough = _count_from(listed_ranks, rank_ptr, place, stop, start, step, middle, BLOCK) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    crowded = step + 1 > k
    kth = tl.where(step + 1 >= k, low, -1)
    best = tl.load(sorted_ptr + head * steps + tl.maximum(kth, 0))
    lo = best - 1.0
    hi = best
    for _ in range(HALVINGS):
        tau = (lo + hi) * 0.5
        mass, _c = _mass(listed_scores, u_ptr, place, stop, start, step, tau, BLOCK)
        lo = tl.where(mass >= k, tau, lo)
        hi = tl.where(mass >= k, hi, tau)
    tau = (lo + hi) * 0.5
    mass, count = _mass(listed_scores, u_ptr, place, stop, start, step, tau, BLOCK)
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
    order = scores.sort(dim=-1, stable=True).indices
    places = torch.arange(steps, device=scores.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(-1, order, places)
    ascending, narrow = scores.gather(-1, order), ranks.to(torch.int32)
    kths = kth_ranks_at_chunks(order, k, chunk)
    lists, starts = _chunk_lists(scores, ascending, kths, chunk)
    taus = torch.empty_like(scores)
    counts, found = (torch.empty(scores.shape, dtype=torch.int32, device=scores.device) for _ in range(2))
    _steps[(steps, num_heads)](
        scores, narrow, ascending, scores.flatten()[lists], narrow.flatten()[lists], starts, kths.to(torch.int32),
        taus, counts, found, steps, starts.shape[1] - 1, k, CHUNK=chunk, BLOCK=512, HALVINGS=HALVINGS, num_warps=4,
    )  # fmt: skip
    return StreamPattern(taus.cummax(1).values, counts, _deaths(ranks, found.long()))


def kth_ranks_at_chunks(order: Tensor, k: int, chunk: int) -> Tensor:
    """Rank of the k-th best score of the prefixes of 0, chunk, 2·chunk, … and of all steps; −1 while there are fewer.

    `order` [H, T]: steps by ascending score. Returns [H, chunks + 1]. A table of counts, chunk of ranks by chunk of
    steps, leads to the chunk of ranks that holds the answer; within it the steps themselves are counted.
    """
    num_heads, steps = order.shape
    num_chunks = -(-steps // chunk)
    padding = num_chunks * chunk - steps
    tiles = torch.nn.functional.pad(order.flip(-1), (0, padding), value=num_chunks * chunk)
    tiles = tiles.view(num_heads, num_chunks, chunk)
    cells = tiles.new_zeros(num_heads, num_chunks, num_chunks + 1)
    cells.scatter_add_(2, tiles // chunk, torch.ones_like(tiles))
    within = torch.nn.functional.pad(cells[..., :-1].cumsum(2), (1, 0))
    totals = torch.nn.functional.pad(within.cumsum(1), (0, 0, 1, 0))
    tile = (totals[:, 1:] < k).sum(1)
    real, tile = tile < num_chunks, tile.clamp(max=num_chunks - 1)
    missing = k - totals.gather(1, tile[:, None]).squeeze(1)
    bounds = torch.arange(num_chunks + 1, device=order.device) * chunk
    members = tiles.gather(1, tile[..., None].expand(-1, -1, chunk)) < bounds[:, None]
    place = (members.cumsum(-1) < missing[..., None]).sum(-1)
    return torch.where(real, steps - 1 - (tile * chunk + place), torch.full_like(tile, -1))


def _chunk_lists(scores: Tensor, ascending: Tensor, kths: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """For every (head, chunk) the earlier steps within 1 of the k-th best at its start, and offsets into them.

    A step is given as its place in the flattened `scores`.
    """
    num_heads, steps = scores.shape
    num_chunks = -(-steps // chunk)
    starts = kths[:, :-1]
    floors = torch.where(starts >= 0, ascending.gather(1, starts.clamp(min=0)) - 1.0, -torch.inf)
    own = torch.arange(steps, device=scores.device) // chunk
    last = torch.searchsorted(floors.contiguous(), scores) - 1
    counts = (last - own).clamp(min=0).flatten()
    pairs = torch.repeat_interleave(counts)
    within = torch.arange(len(pairs), device=scores.device) - (counts.cumsum(0) - counts)[pairs]
    place = (pairs // steps * num_chunks + own[pairs % steps] + 1 + within).sort(stable=True)
    offsets = torch.searchsorted(place.values, torch.arange(num_heads * num_chunks + 1, device=scores.device))
    rows = torch.arange(num_heads, device=scores.device)[:, None] * num_chunks
    bounds = offsets[rows + torch.arange(num_chunks + 1, device=scores.device)].contiguous()
    lists = pairs[place.indices]
    return lists if len(lists) else lists.new_zeros(1), bounds
