"""Thresholds and deaths of many score streams at once, chunk by chunk, without a sequential heap.

Each chunk looks at its own scores and at the live ones carried so far. An entry at or below the
threshold at a chunk's end is dead for ever, so it is dropped: O(T · (support + chunk)) in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekernels.sparsek.operator import Solver, gates_from_threshold, threshold
from sparsekernels.sparsek.streaming import NEVER, run_stream


@dataclass(frozen=True, slots=True)
class StreamPattern:
    """Facts of H streams of T scores, step by step."""

    thresholds: Tensor
    """[H, T] τ after each step, in the scores' dtype; −inf up to k entries."""
    num_fractional: Tensor
    """[H, T] int32, entries with a gate strictly between 0 and 1."""
    deaths: Tensor
    """[H, T] int32, first step at which an entry is not among the k best; NEVER if it survives."""


def streaming_pattern(scores: Tensor, k: int) -> StreamPattern:
    """Runs the heaps on every stream. `scores` [H, T]; the quick way on a CPU."""
    runs = [run_stream(row, k) for row in scores.detach().tolist()]
    return StreamPattern(
        thresholds=torch.tensor([r.thresholds for r in runs], dtype=scores.dtype).to(scores.device),
        num_fractional=torch.tensor([r.num_fractional for r in runs], dtype=torch.int32).to(scores.device),
        deaths=torch.tensor([r.deaths for r in runs], dtype=torch.int32).to(scores.device),
    )


def chunked_pattern(scores: Tensor, k: int, *, chunk: int = 256) -> StreamPattern:
    """The same facts from tensor operations. `scores` [H, T], any device; `chunk` in steps."""
    scores = scores.detach()
    taus, fractions, kths = [], [], []
    ranks = _ranks(scores)
    live = _Live(scores[:, :0], ranks[:, :0])
    for start in range(0, scores.shape[1], chunk):
        new = _Live(scores[:, start : start + chunk], ranks[:, start : start + chunk])
        every, visible = _stack(live, new)
        tau = threshold(every.scores[:, None], k, solver=Solver.BISECTION, visible=visible)
        gates = gates_from_threshold(every.scores[:, None], tau, visible)
        taus.append(tau)
        fractions.append(((gates > 0) & (gates < 1)).sum(-1, dtype=torch.int32))
        kths.append(_kth_rank(every.ranks, visible, k))
        live = _survivors(every, tau[:, -1], kths[-1][:, -1])
    # Where gates are exactly the hard top-k, τ is an interval; the running maximum stays inside it and never falls.
    never_falling = torch.cat(taus, 1).cummax(1).values
    return StreamPattern(never_falling, torch.cat(fractions, 1), _deaths(ranks, torch.cat(kths, 1)))


@dataclass(frozen=True, slots=True)
class _Live:
    scores: Tensor
    """[H, L]"""
    ranks: Tensor
    """[H, L] int64; −1 marks padding."""


def _ranks(scores: Tensor) -> Tensor:
    """[H, T] place of each score in ascending order; of equal scores the older ranks lower."""
    order = scores.sort(dim=-1, stable=True).indices
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def _stack(live: _Live, new: _Live) -> tuple[_Live, Tensor]:
    """Carried and new entries side by side, and which of them each step of the chunk sees, [H, C, L + C]."""
    every = _Live(torch.cat((live.scores, new.scores), 1), torch.cat((live.ranks, new.ranks), 1))
    steps = new.scores.shape[1]
    carried = (live.ranks >= 0)[:, None].expand(-1, steps, -1)
    causal = torch.ones(steps, steps, dtype=torch.bool, device=new.scores.device).tril()
    return every, torch.cat((carried, causal.expand(len(carried), -1, -1)), -1)


def _kth_rank(ranks: Tensor, visible: Tensor, k: int) -> Tensor:
    """[H, C] rank of the k-th best visible entry; −1 while fewer are visible."""
    shown = torch.where(visible, ranks[:, None], torch.full_like(ranks[:, None], -1))
    if shown.shape[-1] < k:
        return torch.full(shown.shape[:2], -1, device=ranks.device, dtype=ranks.dtype)
    return shown.topk(k, dim=-1).values[..., -1]


def _survivors(every: _Live, tau: Tensor, kth: Tensor) -> _Live:
    """Entries that can still matter: above the threshold, or among the k best."""
    keep = (every.ranks >= 0) & ((every.scores > tau[:, None]) | (every.ranks >= kth[:, None]))
    width = int(keep.sum(-1).max())
    order = keep.to(torch.int8).sort(dim=-1, descending=True, stable=True).indices[:, :width]
    ranks = torch.where(keep, every.ranks, torch.full_like(every.ranks, -1))
    return _Live(every.scores.gather(-1, order), ranks.gather(-1, order))


def _deaths(ranks: Tensor, kths: Tensor) -> Tensor:
    """The rank of the k-th best never falls, so an entry dies where it first exceeds the entry's own rank."""
    steps = torch.arange(ranks.shape[1], device=ranks.device)
    found = torch.maximum(torch.searchsorted(kths.contiguous(), ranks.contiguous(), right=True), steps)
    return torch.where(found < ranks.shape[1], found, torch.full_like(found, NEVER)).to(torch.int32)
