"""The sparse methods in plain torch, request by request: exact on any device, made for correctness, not speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.vllm_plugin.attention import LayerCall
from workers.vllm_plugin.plan import Span


class ReferenceMethods:
    """Mixin that implements prefill, votes and decode of `SparseAttention` over views of the cache."""

    executor = "reference"
    scale: float
    num_heads: int
    num_kv_heads: int
    head_size: int

    def _keys_values(self, call: LayerCall) -> tuple[Tensor, Tensor]:
        """Keys and values [pages, page, KV heads, head size], views of the cache."""
        raise NotImplementedError

    def _decode(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        keys, values = self._keys_values(call)
        for span in spans:
            table = call.metadata.block_table[span.row]
            positions = self._positions(call, span, keys, table)
            span.request.decode.add(span.first_position, float(positions.shape[1]))
            call.output[span.first_token] = self._attend(call.query[span.first_token], positions, keys, values, table)

    def _positions(self, call: LayerCall, span: Span, keys: Tensor, table: Tensor) -> Tensor:
        """Token positions [KV heads, n] that a decode row reads, ascending."""
        quest: Any = span.request.method.decode
        length = span.end_position
        size = quest.page_size
        current = span.first_position // size
        k = quest.token_budget // size
        every = torch.arange(length)
        if current <= k:
            return every.expand(self.num_kv_heads, -1)
        complete = torch.arange(current * size)
        pages = self._gather(keys, complete.expand(self.num_kv_heads, -1), table).view(
            self.num_kv_heads, current, size, -1
        )
        query = call.query[span.first_token].view(self.num_kv_heads, -1, 1, self.head_size)
        low, high = pages.amin(2)[:, None], pages.amax(2)[:, None]
        score = torch.maximum(query * low, query * high).sum(-1).sum(1)
        chosen = score.topk(k, dim=-1).indices.sort(-1).values
        tokens = (chosen[..., None] * size + torch.arange(size)).flatten(1)
        return torch.cat([tokens, every[current * size :].expand(self.num_kv_heads, -1)], dim=1)

    def _gather(self, pages: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        """Entries [KV heads, n, head size] at positions [KV heads, n]."""
        page_size = pages.shape[1]
        head = torch.arange(self.num_kv_heads)[:, None]
        return pages[table[positions // page_size].long(), positions % page_size, head]

    def _attend(self, query: Tensor, positions: Tensor, keys: Tensor, values: Tensor, table: Tensor) -> Tensor:
        """One row [heads, head size] over the given positions."""
        grouped = query.view(self.num_kv_heads, -1, self.head_size).float()
        k, v = (self._gather(x, positions, table).float() for x in (keys, values))
        weights = torch.softmax(torch.einsum("hgd,hnd->hgn", grouped, k) * self.scale, dim=-1)
        return torch.einsum("hgn,hnd->hgd", weights, v).flatten(0, 1).to(query.dtype)

    def _prefill(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        raise NotImplementedError(_pending(spans))

    def _vote(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        raise NotImplementedError(_pending(spans))


def _pending(spans: tuple[Span, ...]) -> Any:
    return f"{spans[0].request.method.to_wire()} is not served yet"
