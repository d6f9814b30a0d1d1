"""Decode rows of one layer: Quest, kept tokens, or Quest over kept tokens; group by group, or by a step's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sparsekernels import decode
from sparsekernels.executors import Executor
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods import quest
from torch import Tensor

from workers.vllm_plugin import chosen
from workers.vllm_plugin.attention import LayerCall
from workers.vllm_plugin.compacted import quest_slots
from workers.vllm_plugin.groups import FreshRows, Group, make_groups, to_device
from workers.vllm_plugin.parallel import Ranks
from workers.vllm_plugin.plan import Span
from workers.vllm_plugin.requests import Kept
from workers.vllm_plugin.sparsek import decode_slots

if TYPE_CHECKING:
    from workers.vllm_plugin.step_tables import QuestRows, Step


class Decoder:
    """Runs decode rows of one layer; owns the layer's page summaries."""

    def __init__(self, executor: str, ranks: Ranks, scale: float) -> None:
        self.executor, self.ranks, self.scale = executor, ranks, scale
        self._stores: dict[int, Tensor] = {}
        self._joined: tuple[Any, decode.KeptSlots] | None = None
        self._named: tuple[Any, decode.KeptAddresses] | None = None

    def run(self, call: LayerCall, spans: tuple[Span, ...], keys: Tensor, values: Tensor) -> None:
        """Attend for every decode row and write its output."""
        groups = getattr(call.metadata, "frontier_groups", None)
        if groups is None:
            groups = call.metadata.frontier_groups = make_groups(spans, call.metadata, keys.shape[1])
        for (kind, page_size, share), group in groups.items():
            cache = KeyValues(keys, values, group.block_table)
            queries = call.query[group.tokens]
            in_place = isinstance(group.tokens, slice)
            out = call.output[group.tokens] if in_place else torch.empty_like(queries)
            if kind == "quest":
                self._quest(call, group, cache, queries, out, page_size, share)
            elif kind == "kept":
                self._kept(call, group, cache, queries, out)
            elif kind == "sparsek":
                self._slots(decode_slots(call.name, group.spans, cache, self.ranks), group, cache, queries, out)
            elif kind in ("chosen", "chosen over kept"):
                self._chosen(call, group, cache, queries, out, over_kept=kind == "chosen over kept")
            else:
                self._both(call, group, cache, queries, out, page_size, share)
            if not in_place:
                call.output[group.tokens] = out

    # steps of decode rows alone, whose launches a CUDA graph may hold -------------------------------------------------

    def build(self, keys: Tensor, block_table: Tensor, fresh: FreshRows) -> None:
        """Page summaries of requests that have none, from their keys in the cache."""
        store = self._store(fresh.page_size, keys)
        rows, lengths = fresh.numbers
        if self.executor != "reference":
            _fused().build_summaries(
                store, keys, block_table, rows, lengths, page_size=fresh.page_size, max_length=fresh.max_length
            )
            return
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            quest.build_summaries(store, keys, block_table[row], length, fresh.page_size)

    def run_step(self, call: LayerCall, step: Step, keys: Tensor, values: Tensor) -> None:
        """Attend for every sparse row of the step's tables. Padded rows become zero unless dense rows were written."""
        written = step.shape.has_dense
        for kind in step.shape.quest:
            self._quest_step(call, step, kind, keys, values, skip_empty=written)
            written = True
        if step.shape.kept_tokens:
            rows = step.shape.rows
            _fused().attend_kept_at(
                call.query,
                KeyValues(keys, values, call.metadata.block_table),
                step.tables.kept(call.name, rows),
                step.tables.kept_lengths(rows),
                max_tokens=step.shape.kept_tokens,
                scale=self.scale,
                out=call.output,
                skip_empty=written,
            )

    def _quest_step(
        self, call: LayerCall, step: Step, kind: QuestRows, keys: Tensor, values: Tensor, *, skip_empty: bool
    ) -> None:
        lengths, budgets = step.tables.quest(kind, step.shape.rows)
        table = call.metadata.block_table[:, : step.shape.pages]
        store = self._store(kind.page_size, keys)
        _fused().attend_best_pages(
            call.query,
            KeyValues(keys, values, table),
            store,
            lengths,
            budgets,
            page_size=kind.page_size,
            max_budget=kind.max_budget,
            share_pages=kind.share_pages,
            new_keys=(call.key, step.slots[kind]),
            scale=self.scale,
            out=call.output,
            skip_empty=skip_empty,
        )

    def _store(self, page_size: int, keys: Tensor) -> Tensor:
        """The layer's page summaries for pages of `page_size`."""
        store = self._stores.get(page_size)
        if store is None:
            store = self._stores[page_size] = quest.new_store(keys.shape[0], keys.shape[1], page_size, keys)
        return store

    # -----------------------------------------------------------------------------------------------------------------

    def _quest(
        self,
        call: LayerCall,
        group: Group,
        cache: KeyValues,
        queries: Tensor,
        out: Tensor,
        page_size: int,
        share: bool,
    ) -> None:
        store = self._summaries(call, group, cache, page_size)
        joined = self.ranks.group_queries(queries) if share else queries
        numbers = (group.seq_lens, group.budgets)
        options = {"page_size": page_size, "max_budget": group.max_budget, "share_pages": share}
        if joined is queries and self.executor == Executor.TRITON:
            _fused().attend_best_pages(queries, cache, store, *numbers, scale=self.scale, out=out, **options)
            return
        lists = self._select(joined, store, group.block_table, *numbers, cache_page=cache.page_size, **options)
        decode.attend_pages(queries, cache, lists, executor=self.executor, scale=self.scale, out=out)

    @property
    def _select(self) -> Any:
        return quest.select if self.executor == "reference" else _fused().select

    @property
    def _update(self) -> Any:
        return quest.update_summaries if self.executor == "reference" else _fused().update_summaries

    def _summaries(self, call: LayerCall, group: Group, cache: KeyValues, page_size: int) -> Tensor:
        """The layer's store, with the pages of this group's requests up to date."""
        store = self._store(page_size, cache.keys)
        if group.rebuilt is not None:
            self.build(cache.keys, group.block_table, group.rebuilt)
        if group.has_continuing:
            self._update(store, call.key[group.tokens], group.slots, page_size)
        return store

    def _chosen(
        self, call: LayerCall, group: Group, cache: KeyValues, queries: Tensor, out: Tensor, *, over_kept: bool
    ) -> None:
        kept = self._join_kept(call.name, group) if over_kept else None
        joined = self.ranks.group_queries(queries)
        slots, counts = chosen.decode_slots(call.name, group, cache, joined, kept, self.ranks, self.scale)
        if slots.shape[1] == joined.shape[1] != queries.shape[1]:  # lists of all query heads of the KV head: take ours
            first = self.ranks.rank % self.ranks.copies * queries.shape[1]
            own = slice(first, first + queries.shape[1])
            slots, counts = slots[:, own], counts[:, own]
        self._slots((slots, counts), group, cache, queries, out)

    def _slots(
        self, found: tuple[Tensor, Tensor], group: Group, cache: KeyValues, queries: Tensor, out: Tensor
    ) -> None:
        """Attend to just these cache slots, int32 [B, H, W], padded behind counts int32 [B, H]."""
        slots, counts = found
        nothing = torch.zeros_like(group.seq_lens)
        decode.attend_kept(
            queries,
            cache,
            decode.KeptSlots(slots, counts, nothing),
            nothing,
            max_generated=0,
            executor=self.executor,
            scale=self.scale,
            out=out,
        )

    def _kept(self, call: LayerCall, group: Group, cache: KeyValues, queries: Tensor, out: Tensor) -> None:
        if self.executor == "reference":
            decode.attend_kept(
                queries,
                cache,
                self._join_kept(call.name, group),
                group.seq_lens,
                max_generated=group.max_generated,
                executor=self.executor,
                scale=self.scale,
                out=out,
            )
            return
        kept = [s.request.kept[call.name] for s in group.spans]
        _fused().attend_kept_at(
            queries,
            cache,
            self._name_kept(kept, group),
            group.seq_lens,
            max_tokens=max(k.slots.shape[1] for k in kept) + group.max_generated,
            scale=self.scale,
            out=out,
        )

    def _name_kept(self, kept: list[Kept], group: Group) -> decode.KeptAddresses:
        """Where the requests' lists lie, kept from step to step while the batch stays the same.

        Not joined in one table: in a batch that changes at every step that would take a launch for each request.
        """
        if self._named is None or self._named[0] != kept:
            addresses = torch.tensor([one.address for one in kept]).T.contiguous()
            slots, counts, widths = to_device(addresses, group.seq_lens.device)
            self._named = (kept, decode.KeptAddresses(slots, counts, widths, group.prompt_lengths))
        return self._named[1]

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
        self,
        call: LayerCall,
        group: Group,
        cache: KeyValues,
        queries: Tensor,
        out: Tensor,
        page_size: int,
        share: bool,
    ) -> None:
        kept = self._join_kept(call.name, group)
        slots, counts = decode.with_generated(
            kept, group.block_table, cache.page_size, group.seq_lens, group.max_generated
        )
        best = quest_slots(
            self.ranks.group_queries(queries) if share else queries,
            cache.keys,
            slots,
            counts,
            group.budgets,
            page_size=page_size,
            max_budget=group.max_budget,
            share_pages=share,
        )
        self._slots(best, group, cache, queries, out)


def _fused() -> Any:
    from sparsekernels import fused_decode

    return fused_decode
