"""The causal pattern of a sequence: window, sinks and, for the rest, one end row per key.

Row i sees its last `window` positions, the first `sinks` positions, and the `kept` best-scored of
the positions sinks … i − window. A key is therefore visible to one run of rows, j ≤ i < e_j.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekernels.sparsek.chunked import StreamPattern, chunked_pattern, streaming_pattern
from sparsekernels.sparsek.streaming import NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Cache slots of a KV head: window + sinks + kept."""

    window: int
    """Most recent positions, the row's own included; always visible, ungated."""
    kept: int
    """Slots for which the older positions compete by score."""
    sinks: int = 0
    """First positions, always visible, ungated."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.kept < 0 or self.sinks < 0:
            raise ValueError(f"window {self.window} must be at least 1, kept {self.kept} and sinks {self.sinks} 0")

    @property
    def slots(self) -> int:
        """Entries that a generation step reads at most."""
        return self.window + self.kept + self.sinks


@dataclass(frozen=True, slots=True)
class CausalPattern:
    """What H score rows of n positions lead to. Everything is one number a row or key."""

    thresholds: Tensor
    """[H, n] τ of each query row; −inf while at most `kept` positions compete."""
    num_fractional: Tensor
    """[H, n] int32, competing positions with a gate strictly inside (0, 1), seen or not."""
    ends: Tensor
    """[H, n] int32 e_j: first row ≥ j + window that does not see key j; NEVER if there is none."""


def causal_pattern(scores: Tensor, budget: Budget, *, chunk: int | None = None) -> CausalPattern:
    """Pattern of `scores` [H, n].

    Args:
        chunk: steps a chunk of the tensor form; None runs heaps, quicker on a CPU.
    """
    n = scores.shape[1]
    stream = scores[:, budget.sinks : max(budget.sinks, n - budget.window)]
    if stream.shape[1] == 0:
        return _place(scores, budget, None)
    if budget.kept == 0:
        return _place(scores, budget, _nothing_kept(stream))
    if chunk is None:
        return _place(scores, budget, streaming_pattern(stream, budget.kept))
    return _place(scores, budget, chunked_pattern(stream, budget.kept, chunk=chunk))


def _nothing_kept(stream: Tensor) -> StreamPattern:
    """Every competitor dies on arrival: its gate is 0 at the running maximum."""
    steps = torch.arange(stream.shape[1], dtype=torch.int32, device=stream.device).expand(stream.shape)
    return StreamPattern(stream.detach().cummax(1).values, torch.zeros_like(steps), steps.clone())


def _place(scores: Tensor, budget: Budget, found: StreamPattern | None) -> CausalPattern:
    """From steps of the competition to rows of the sequence: step t is row t + sinks + window."""
    taus = torch.full_like(scores.detach(), -torch.inf)
    fractions = torch.zeros(scores.shape, dtype=torch.int32, device=scores.device)
    ends = torch.full(scores.shape, NEVER, dtype=torch.int32, device=scores.device)
    if found is not None:
        offset = budget.sinks + budget.window
        taus[:, offset:] = found.thresholds
        fractions[:, offset:] = found.num_fractional
        rows = torch.where(found.deaths == NEVER, found.deaths, found.deaths + offset)
        ends[:, budget.sinks : budget.sinks + rows.shape[1]] = rows
    return CausalPattern(taus, fractions, ends)


def strip_mask(ends: Tensor, window: int, rows: Tensor) -> Tensor:
    """Which keys beyond the window each row sees. `ends` [H, n], `rows` [R] → bool [H, R, n]."""
    keys = torch.arange(ends.shape[-1], device=ends.device)
    older = rows[:, None] - keys[None] >= window
    return older[None] & (rows[None, :, None] < ends[:, None])


def window_mask(n: int, window: int, rows: Tensor) -> Tensor:
    """Which keys are in each row's window: bool [R, n]."""
    distance = rows[:, None] - torch.arange(n, device=rows.device)[None]
    return (distance >= 0) & (distance < window)


def with_sinks(scores: Tensor, sinks: int) -> Tensor:
    """Scores in which the sinks are +inf, so that their gate is 1 at every threshold. [..., n]"""
    if not sinks:
        return scores
    first = torch.full_like(scores[..., :sinks], torch.inf)
    return torch.cat((first, scores[..., sinks:]), -1)


@dataclass(frozen=True, slots=True)
class Candidates:
    """For each (head, block of rows) the keys beyond the window that some row of the block sees, ascending."""

    indices: Tensor
    """[total] int32 key positions."""
    starts: Tensor
    """[H, blocks + 1] int64 offsets into `indices`."""
    row_block: int

    def of_block(self, block: int) -> tuple[Tensor, Tensor]:
        """Key positions [H, L] and which of them are real, padded to the longest head."""
        begin, end = self.starts[:, block, None], self.starts[:, block + 1, None]
        width = int((end - begin).max())
        places = begin + torch.arange(width, device=begin.device)
        real = places < end
        return self.indices[torch.where(real, places, torch.zeros_like(places))].long(), real


def candidates(pattern: CausalPattern, window: int, row_block: int) -> Candidates:
    """Lists of at most kept + sinks + row_block − 1 keys a block of `row_block` rows."""
    num_heads, n = pattern.ends.shape
    num_blocks = -(-n // row_block)
    begin = torch.arange(n, device=pattern.ends.device) + window
    end = pattern.ends.clamp(max=n).long()
    first = begin // row_block
    counts = torch.where(end > begin, (end - 1) // row_block - first + 1, torch.zeros_like(end)).flatten()
    pairs = torch.repeat_interleave(counts)
    within = torch.arange(len(pairs), device=pairs.device) - (counts.cumsum(0) - counts)[pairs]
    head, key = pairs // n, pairs % n
    block = head * num_blocks + first[key] + within
    order = block.sort(stable=True)
    bounds = torch.arange(num_heads * num_blocks + 1, device=block.device)
    offsets = torch.searchsorted(order.values, bounds)
    rows = torch.arange(num_heads, device=block.device)[:, None] * num_blocks
    starts = offsets[rows + torch.arange(num_blocks + 1, device=block.device)]
    return Candidates(key[order.indices].to(torch.int32), starts, row_block)
