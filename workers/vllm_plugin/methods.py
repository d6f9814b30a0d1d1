"""Prefill methods, votes and decode methods over the engine's cache, whatever executor runs them.

The selections and kernels are `sparsekernels`'; here is what an engine adds: which rows belong to which request, what
is remembered between steps, and what is measured.
"""

from __future__ import annotations

from typing import Any

import torch
from sparsekernels.choosing import Place, is_chosen
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods import snapkv
from sparsekernels.prefill import PrefillResult, sparse_prefill
from sparsekernels.virtual import virtual_cache
from torch import Tensor

from workers.vllm_plugin.attention import LayerCall
from workers.vllm_plugin.chosen import observe, place_of
from workers.vllm_plugin.decoding import Decoder
from workers.vllm_plugin.groups import FreshRows
from workers.vllm_plugin.parallel import Ranks
from workers.vllm_plugin.plan import Span
from workers.vllm_plugin.requests import Kept
from workers.vllm_plugin.sparsek import sparsek_prefill
from workers.vllm_plugin.step_tables import Step


class SparseMethods:
    """Mixin that implements the method hooks of `SparseAttention`, for one layer."""

    executor: str = "reference"
    decode_executor: str = "reference"
    ranks: Ranks
    scale: float
    _decoder: Decoder | None = None

    def _keys_values(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [pages, page, KV heads, head size], views of the cache."""
        raise NotImplementedError

    def _prefill(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        keys, values = self._keys_values(call.cache)
        for span in spans:
            method: Any = span.request.method.prefill
            rows = slice(span.first_token, span.first_token + span.num_tokens)
            cache = KeyValues(keys, values, call.metadata.block_table[span.row : span.row + 1])
            if span.request.method.rules_decode:
                result = sparsek_prefill(call, span, cache, self.ranks, self.scale)
            else:
                place = place_of(span.request, call.name, self.ranks, self.scale) if is_chosen(method) else None
                out = call.output[rows]
                result = self._run_prefill(call.query[rows], cache, method, span.end_position, out, place)
            # A recomputed or shared prompt has its densities already.
            span.request.prefill_density.setdefault(call.name, result.density())

    def _run_prefill(
        self, q: Tensor, cache: KeyValues, method: Any, length: int, out: Tensor, place: Place | None
    ) -> PrefillResult:
        """Rows q, the last of `length` positions of the one sequence in `cache`, attended into `out`."""
        return sparse_prefill(
            q, cache, method, length=length, executor=self.executor, scale=self.scale, out=out, place=place
        )

    def _vote(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        keys, values = self._keys_values(call.cache)
        for span in spans:
            self._remember_window(call, span)
            if span.completes_prompt:
                table = call.metadata.block_table[span.row : span.row + 1]
                self._compress(call.name, span, KeyValues(keys, values, table))

    def _remember_window(self, call: LayerCall, span: Span) -> None:
        request = span.request
        window = getattr(request.method.observer, "window", 1)
        start = max(span.first_position, request.prompt_length - window)
        if start >= span.end_position:
            return
        part = span.part(start, span.end_position)
        queries = call.query[part.first_token : part.first_token + part.num_tokens]
        before = request.window_queries.get(call.name)
        request.window_queries[call.name] = queries.clone() if before is None else torch.cat([before, queries])

    def _compress(self, name: str, span: Span, cache: KeyValues) -> None:
        request = span.request
        queries = self.ranks.group_queries(request.window_queries.pop(name))
        method: Any = request.method.observer
        if is_chosen(method):
            keys, _ = cache.gather(0, request.prompt_length)
            seen = observe(request, queries, keys, place_of(request, name, self.ranks, self.scale))
            if seen is not None:
                request.kept[name] = Kept.of(seen, cache.block_table[0], cache.page_size, adaptive=True)
            return
        request.kept[name] = self._keep(queries, cache, request.prompt_length, method)

    def _keep(self, queries: Tensor, cache: KeyValues, length: int, method: Any) -> Kept:
        """What the last rows `queries` vote to keep of the one sequence in `cache`."""
        if self.executor == "reference":
            votes = votes_by_head(queries, cache.gather(0, length)[0], method, self.scale)
            kept = snapkv.keep(votes, method, self.ranks.gather_votes)
            return Kept.of(kept, cache.block_table[0], cache.page_size, adaptive=method.name == "ada_snapkv")
        from sparsekernels.index.keep import keep_slots
        from sparsekernels.index.votes import votes as fused_votes

        smoothed = fused_votes(queries, virtual_cache(cache), length, method, self.scale)
        table = cache.block_table[0]
        slots, counts = keep_slots(smoothed, method, table, cache.page_size, self.ranks.gather_votes)
        return Kept(slots, counts, length)

    @property
    def decoder(self) -> Decoder:
        """The layer's decoder, made when it is first needed: the ranks are known by then."""
        if self._decoder is None:
            self._decoder = Decoder(self.decode_executor, self.ranks, self.scale)
        return self._decoder

    def _decode(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        keys, values = self._keys_values(call.cache)
        self.decoder.run(call, spans, keys, values)

    def _decode_step(self, call: LayerCall, step: Step) -> None:
        keys, values = self._keys_values(call.cache)
        self.decoder.run_step(call, step, keys, values)

    def cache_page(self, cache: Tensor) -> int:
        """Tokens in a page of the cache."""
        return int(self._keys_values(cache)[0].shape[1])

    def prepare_rows(self, cache: Tensor, block_table: Tensor, fresh: FreshRows) -> None:
        """Page summaries of rows that come new into a step of decode rows alone."""
        self.decoder.build(self._keys_values(cache)[0], block_table, fresh)


def votes_by_head(queries: Tensor, keys: Tensor, method: Any, scale: float) -> Tensor:
    """Votes [KV heads, L], one KV head at a time: the probabilities of all heads would fill gigabytes."""
    group = queries.shape[1] // keys.shape[1]
    heads = range(keys.shape[1])
    votes = [snapkv.votes(queries[:, h * group : (h + 1) * group], keys[:, h : h + 1], method, scale) for h in heads]
    return torch.cat(votes)
