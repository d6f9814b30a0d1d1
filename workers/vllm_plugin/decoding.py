"""Decode rows of one layer, grouped by what reads their cache: Quest, kept tokens, or Quest over kept tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sparsekernels import decode
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods import quest
from sparsekernels.parameters import SparseK
from torch import Tensor

from workers.vllm_plugin.attention import LayerCall
from workers.vllm_plugin.compacted import quest_slots
from workers.vllm_plugin.parallel import Ranks
from workers.vllm_plugin.plan import Span
from workers.vllm_plugin.sparsek import decode_slots


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
    budgets: Tensor
    """int32 [B], Quest's tokens; zero without Quest."""
    max_generated: int
    max_budget: int


def group_key(span: Span) -> tuple[str, int, bool]:
    """Rows with equal keys share a kernel call."""
    method = span.request.method
    if method.rules_decode:
        return ("sparsek", 0, True)
    if method.decode is None:
        return ("kept", 0, True)
    return ("both" if method.compress else "quest", method.decode.page_size, method.decode.share_pages)


def make_groups(spans: Sequence[Span], block_table: Tensor, cache_page: int) -> dict[tuple[str, int, bool], Group]:
    """The step's groups; copies small tables to the device once for all layers."""
    members: dict[tuple[str, int, bool], list[Span]] = {}
    for span in spans:
        members.setdefault(group_key(span), []).append(span)
    return {key: _make_group(tuple(rows), block_table, cache_page) for key, rows in members.items()}


def _make_group(spans: tuple[Span, ...], block_table: Tensor, cache_page: int) -> Group:
    device = block_table.device
    if device.type == "cpu":  # the torch functions work through every page of a table
        block_table = block_table[:, : -(-max(s.end_position for s in spans) // cache_page)]
    budgets = [s.request.method.decode.token_budget if s.request.method.decode else 0 for s in spans]
    lengths = [s.end_position for s in spans]
    numbers = torch.tensor([[s.first_token for s in spans], [s.row for s in spans], lengths, budgets])
    if device.type == "cuda":
        numbers = numbers.pin_memory().to(device, non_blocking=True)
    for span in spans:
        span.request.decode.add(span.first_position, tokens_read(span))
    return Group(
        spans=spans,
        tokens=_where(spans, numbers[0]),
        block_table=block_table[numbers[1]],
        seq_lens=numbers[2].to(torch.int32),
        budgets=numbers[3].to(torch.int32),
        max_generated=max(s.end_position - s.request.prompt_length for s in spans),
        max_budget=max(budgets),
    )


def _where(spans: tuple[Span, ...], tokens: Tensor) -> Tensor | slice:
    first = spans[0].first_token
    neighbours = all(s.first_token == first + i for i, s in enumerate(spans))
    return slice(first, first + len(spans)) if neighbours else tokens


def tokens_read(span: Span) -> float:
    """Cache entries that a decode row reads per KV head, the mean over all heads: known without asking the device."""
    method, length = span.request.method, span.end_position
    prompt = span.request.prompt_length
    if isinstance(method.prefill, SparseK):
        return float(min(length, method.prefill.slots))
    if method.compress is not None:
        length -= prompt - min(method.compress.token_capacity, prompt)
    if method.decode is None:
        return float(length)
    page = method.decode.page_size
    before = (length - 1) // page
    return float(min(before, method.decode.token_budget // page) * page + length - before * page)


class Decoder:
    """Runs decode rows of one layer; owns the layer's page summaries."""

    def __init__(self, executor: str, ranks: Ranks, scale: float) -> None:
        self.executor, self.ranks, self.scale = executor, ranks, scale
        self._stores: dict[int, Tensor] = {}
        self._joined: tuple[Any, decode.KeptSlots] | None = None

    def run(self, call: LayerCall, spans: tuple[Span, ...], keys: Tensor, values: Tensor) -> None:
        """Attend for every decode row and write its output."""
        groups = getattr(call.metadata, "frontier_groups", None)
        if groups is None:
            groups = call.metadata.frontier_groups = make_groups(spans, call.metadata.block_table, keys.shape[1])
        for (kind, page_size, share), group in groups.items():
            cache = KeyValues(keys, values, group.block_table)
            queries = call.query[group.tokens]
            if kind == "quest":
                out = self._quest(call, group, cache, queries, page_size, share)
            elif kind == "kept":
                out = self._kept(call, group, cache, queries)
            elif kind == "sparsek":
                out = self._sparsek(call, group, cache, queries)
            else:
                out = self._both(call, group, cache, queries, page_size, share)
            call.output[group.tokens] = out

    def _quest(
        self, call: LayerCall, group: Group, cache: KeyValues, queries: Tensor, page_size: int, share: bool
    ) -> Tensor:
        store = self._summaries(call, group, cache, page_size)
        lists = self._select(
            self.ranks.group_queries(queries) if share else queries,
            store,
            group.block_table,
            group.seq_lens,
            group.budgets,
            page_size=page_size,
            cache_page=cache.page_size,
            max_budget=group.max_budget,
            share_pages=share,
        )
        return decode.attend_pages(queries, cache, lists, executor=self.executor, scale=self.scale)

    @property
    def _select(self) -> Any:
        return quest.select if self.executor == "reference" else _fused().select

    @property
    def _update(self) -> Any:
        return quest.update_summaries if self.executor == "reference" else _fused().update_summaries

    def _summaries(self, call: LayerCall, group: Group, cache: KeyValues, page_size: int) -> Tensor:
        """The layer's store, with the pages of this group's requests up to date."""
        store = self._stores.get(page_size)
        if store is None:
            store = quest.new_store(cache.keys.shape[0], cache.page_size, page_size, cache.keys)
            self._stores[page_size] = store
        stale = self._refresh(call.name, group, store, cache, page_size)
        if len(stale) < len(group.spans):
            slots = call.metadata.slot_mapping[group.tokens].long()
            if stale:
                slots = slots.clone()
                slots[torch.tensor(stale, device=slots.device)] = -1
            self._update(store, call.key[group.tokens], slots, page_size)
        return store

    @staticmethod
    def _refresh(name: str, group: Group, store: Tensor, cache: KeyValues, page_size: int) -> list[int]:
        """Build the summaries of requests that cannot be updated by one key; returns their rows.

        These are requests at their first decode step, and recomputed ones with several decode rows in this step.
        """
        num_rows = Counter(id(s.request) for s in group.spans)
        stale = [
            i
            for i, s in enumerate(group.spans)
            if num_rows[id(s.request)] > 1 or s.request.summaries.get(name) != s.first_position
        ]
        last = {id(group.spans[i].request): i for i in stale}
        for i in last.values():
            length = group.spans[i].end_position
            quest.build_summaries(store, cache.keys, group.block_table[i], length, page_size)
        for span in group.spans:
            span.request.summaries[name] = span.end_position
        return stale

    def _sparsek(self, call: LayerCall, group: Group, cache: KeyValues, queries: Tensor) -> Tensor:
        slots, counts = decode_slots(call.name, group.spans, cache, self.ranks)
        nothing = torch.zeros_like(group.seq_lens)
        return decode.attend_kept(
            queries,
            cache,
            decode.KeptSlots(slots, counts, nothing),
            nothing,
            max_generated=0,
            executor=self.executor,
            scale=self.scale,
        )

    def _kept(self, call: LayerCall, group: Group, cache: KeyValues, queries: Tensor) -> Tensor:
        return decode.attend_kept(
            queries,
            cache,
            self._join_kept(call.name, group),
            group.seq_lens,
            max_generated=group.max_generated,
            executor=self.executor,
            scale=self.scale,
        )

    def _join_kept(self, name: str, group: Group) -> decode.KeptSlots:
        """The requests' kept slots in one table, kept from step to step while the batch stays the same."""
        kept = [s.request.kept[name] for s in group.spans]
        if self._joined is None or self._joined[0] != kept:
            width = max(k.slots.shape[1] for k in kept)
            slots = torch.stack([torch.nn.functional.pad(k.slots, (0, width - k.slots.shape[1])) for k in kept])
            prompts = torch.tensor([k.prompt_length for k in kept], dtype=torch.int32, device=slots.device)
            self._joined = (kept, decode.KeptSlots(slots, torch.stack([k.counts for k in kept]), prompts))
        return self._joined[1]

    def _both(
        self, call: LayerCall, group: Group, cache: KeyValues, queries: Tensor, page_size: int, share: bool
    ) -> Tensor:
        kept = self._join_kept(call.name, group)
        slots, counts = decode.with_generated(
            kept, group.block_table, cache.page_size, group.seq_lens, group.max_generated
        )
        chosen = quest_slots(
            self.ranks.group_queries(queries) if share else queries,
            cache.keys,
            slots,
            counts,
            group.budgets,
            page_size=page_size,
            max_budget=group.max_budget,
            share_pages=share,
        )
        nothing = torch.zeros_like(group.seq_lens)
        return decode.attend_kept(
            queries,
            cache,
            decode.KeptSlots(chosen[0], chosen[1], nothing),
            nothing,
            max_generated=0,
            executor=self.executor,
            scale=self.scale,
        )


def _fused() -> Any:
    from sparsekernels import fused_decode

    return fused_decode
