"""Decode rows of a step, grouped by what reads their cache; the same groups serve every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sparsekernels.choosing import is_chosen
from sparsekernels.parameters import MethodChoice, Quest, SparseK
from torch import Tensor

from workers.vllm_plugin.plan import Span
from workers.vllm_plugin.requests import RequestState

LEAST_PAGES = 16
"""Narrowest block table that a group gets."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one step that one kernel call serves; the same in every layer."""

    spans: tuple[Span, ...]
    tokens: Tensor | slice
    """Where the query rows lie in the flat batch: a slice when they are neighbours, else int64 [B]."""
    block_table: Tensor
    """int32 [B, max pages]."""
    seq_lens: Tensor
    """int32 [B], the row's own token included."""
    prompt_lengths: Tensor
    """int32 [B]."""
    budgets: Tensor
    """int32 [B], Quest's tokens; zero without Quest."""
    slots: Tensor
    """int64 [B]: cache slot of each row's own key; −1 where page summaries are built anew."""
    max_generated: int
    """A bound, rounded up so that kernels see few different values."""
    max_budget: int

    rebuilt: FreshRows | None
    """One row, the last, of each request whose page summaries are built anew."""

    @property
    def has_continuing(self) -> bool:
        return self.rebuilt is None or len(self.rebuilt.spans) < len(self.spans)


@dataclass(frozen=True, slots=True)
class FreshRows:
    """Rows whose requests have no page summaries yet."""

    spans: tuple[Span, ...]
    """In the order of the numbers."""
    numbers: Tensor
    """int32 [2, n] on the device: rows of the block table, and how many tokens are in the cache."""
    max_length: int
    page_size: int

    @classmethod
    def of(cls, rows: Sequence[tuple[int, Span, int]], page_size: int, device: torch.device) -> FreshRows:
        """From (row of the block table, span, tokens); one copy to the device."""
        numbers = torch.tensor([[row for row, _, _ in rows], [length for _, _, length in rows]], dtype=torch.int32)
        numbers = to_device(numbers, device)
        return cls(tuple(span for _, span, _ in rows), numbers, max(length for _, _, length in rows), page_size)


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """A small table on the device, without waiting for it."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


def group_key(method: MethodChoice) -> tuple[str, int, bool]:
    """Rows of methods with equal keys share a kernel call."""
    if method.rules_decode:
        return ("sparsek", 0, True)
    if method.decode is None:
        return ("kept", 0, True)
    if is_chosen(method.decode):
        return ("chosen over kept" if method.compress else "chosen", 0, True)
    return ("both" if method.compress else "quest", method.decode.page_size, method.decode.share_pages)


def make_groups(spans: Sequence[Span], metadata: Any, cache_page: int) -> dict[tuple[str, int, bool], Group]:
    """The step's groups; copies small tables to the device once for all layers."""
    members: dict[tuple[str, int, bool], list[Span]] = {}
    for span in spans:
        members.setdefault(group_key(span.request.method), []).append(span)
    return {key: _make_group(tuple(rows), metadata, cache_page) for key, rows in members.items()}


def _make_group(spans: tuple[Span, ...], metadata: Any, cache_page: int) -> Group:
    block_table = metadata.block_table
    device = block_table.device
    # Work grows with the table's width; powers of two keep the number of compiled kernels small.
    pages = -(-max(s.end_position for s in spans) // cache_page)
    block_table = block_table[:, : max(LEAST_PAGES, 1 << (pages - 1).bit_length())]
    budgets = [s.request.method.decode.token_budget if isinstance(s.request.method.decode, Quest) else 0 for s in spans]
    lengths = [s.end_position for s in spans]
    continues = [int(s.continues) for s in spans]
    prompts = [s.request.prompt_length for s in spans]
    rows = [[s.first_token for s in spans], [s.row for s in spans]]
    numbers = to_device(torch.tensor([*rows, lengths, prompts, budgets, continues]), device)
    for span in spans:
        if not is_chosen(span.request.method.decode):
            span.request.decode.add(span.first_position, tokens_read(span))
    return Group(
        spans=spans,
        tokens=_where(spans, numbers[0]),
        block_table=block_table[numbers[1]],
        seq_lens=numbers[2].to(torch.int32),
        prompt_lengths=numbers[3].to(torch.int32),
        budgets=numbers[4].to(torch.int32),
        slots=torch.where(numbers[5] > 0, metadata.slot_mapping[numbers[0]], -1),
        max_generated=-(-max(s.end_position - s.request.prompt_length for s in spans) // 256) * 256,
        max_budget=max(budgets),
        rebuilt=_rebuilt(spans, device),
    )


def _rebuilt(spans: tuple[Span, ...], device: torch.device) -> FreshRows | None:
    last = {id(s.request): i for i, s in enumerate(spans) if not s.continues}
    method = spans[0].request.method.decode
    if not last or not isinstance(method, Quest):
        return None
    return FreshRows.of([(i, spans[i], spans[i].end_position) for i in last.values()], method.page_size, device)


def _where(spans: tuple[Span, ...], tokens: Tensor) -> Tensor | slice:
    first = spans[0].first_token
    neighbours = all(s.first_token == first + i for i, s in enumerate(spans))
    return slice(first, first + len(spans)) if neighbours else tokens


def tokens_read(span: Span) -> float:
    """Cache entries that a decode row reads per KV head, the mean over all heads: known without asking the device."""
    method, length = span.request.method, float(span.end_position)
    prompt = span.request.prompt_length
    if isinstance(method.prefill, SparseK):
        return float(min(length, method.prefill.slots))
    if method.compress is not None:
        kept = _num_kept(span.request) if is_chosen(method.compress) else method.compress.token_capacity
        length -= prompt - min(kept, prompt)
    if method.decode is None:
        return float(length)
    page = method.decode.page_size
    before = (length - 1) // page
    return float(min(before, method.decode.token_budget // page) * page + length - before * page)


def _num_kept(request: RequestState) -> float:
    """Prompt entries left per KV head, the mean over the layers: asked of the device once."""
    if request.num_kept is None:
        shares = [kept.share for kept in request.kept.values()]
        request.num_kept = request.prompt_length * sum(shares) / len(shares)
    return request.num_kept
