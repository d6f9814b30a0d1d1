"""The forward pass shared by the CPU and the CUDA backend: stock kernel for dense rows, our methods for the rest.

Both backends write the cache before `forward` is entered, so that keys and values of this step are already there.
Shapes: query and output [tokens, query heads, head size].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.vllm_plugin.plan import Plan, Span
from workers.vllm_plugin.session import Session

if TYPE_CHECKING:
    from workers.vllm_plugin.step_tables import Step


@dataclass(frozen=True, slots=True)
class DenseRows:
    """The dense rows of a mixed batch, as the stock kernel takes them; shared by all layers of a step."""

    tokens: Tensor | slice
    """Where the rows lie in the flat batch."""
    metadata: Any
    """The stock metadata for these rows alone."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer's inputs, handed to the methods together."""

    name: str
    query: Tensor
    key: Tensor
    output: Tensor
    cache: Tensor
    metadata: Any


class SparseAttention:
    """Mixin over a stock attention implementation."""

    session: Session | None = None
    executor = "reference"

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        step = self.session.step if self.session is not None and self._full_attention() else None
        plan = self._plan(attn_metadata) if step is None else None
        if step is None and (plan is None or plan.is_stock):
            return super().forward(  # type: ignore[misc,no-any-return]
                layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
            )
        call = LayerCall(layer.layer_name, query, key, output, kv_cache, attn_metadata)
        if step is not None:
            self._run_step(layer, value, call, step)
        elif plan is not None:
            self._run_plan(layer, value, call, plan)
        return output

    # what a backend adds -------------------------------------------------------------------------------------

    def _full_attention(self) -> bool:
        """False for sliding-window layers: they stay as they are."""
        raise NotImplementedError

    def _dense_metadata(self, metadata: Any, spans: tuple[Span, ...], starts: Tensor) -> Any:
        """Stock metadata of the given spans alone; `starts` are their cumulative row counts, int32 on the device."""
        raise NotImplementedError

    def _step_metadata(self, metadata: Any, step: Step) -> Any:
        """Stock metadata of a step's dense rows, at the fixed addresses of its tables."""
        raise NotImplementedError

    def _decode_step(self, call: LayerCall, step: Step) -> None:
        raise NotImplementedError

    def _prefill(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        raise NotImplementedError

    def _vote(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        raise NotImplementedError

    def _decode(self, call: LayerCall, spans: tuple[Span, ...]) -> None:
        raise NotImplementedError

    # -----------------------------------------------------------------------------------------------------------

    def _plan(self, metadata: Any) -> Plan | None:
        if metadata is None or self.session is None or not self._full_attention():
            return None
        return self.session.plan()

    def _run_plan(self, layer: Any, value: Tensor, call: LayerCall, plan: Plan) -> None:
        """All rows of a mixed step, treatment by treatment."""
        self._dense(layer, value, call, plan)
        if plan.prefill:
            self._prefill(call, plan.prefill)
        if plan.voting:
            self._vote(call, plan.voting)
        if plan.decode:
            self._decode(call, plan.decode)

    def _run_step(self, layer: Any, value: Tensor, call: LayerCall, step: Step) -> None:
        """All rows of a step of decode rows alone; the dense ones first, since they write zeros for the others."""
        if step.shape.has_dense:
            if step.dense_metadata is None:
                step.dense_metadata = self._step_metadata(call.metadata, step)
            super().forward(  # type: ignore[misc]
                layer, call.query, call.key, value, call.cache, step.dense_metadata, call.output
            )
        self._decode_step(call, step)

    def _dense(self, layer: Any, value: Tensor, call: LayerCall, plan: Plan) -> None:
        if not plan.dense:
            return
        rows = getattr(call.metadata, "frontier_dense", None)
        if rows is None:
            rows = call.metadata.frontier_dense = self._dense_rows(call.metadata, plan.dense, call.query.device)
        query = call.query[rows.tokens]
        part = torch.empty_like(query)
        super().forward(layer, query, call.key, value, call.cache, rows.metadata, part)  # type: ignore[misc]
        call.output[rows.tokens] = part

    def _dense_rows(self, metadata: Any, spans: tuple[Span, ...], device: torch.device) -> DenseRows:
        starts, index = [0], []
        for span in spans:
            starts.append(starts[-1] + span.num_tokens)
            index.append(torch.arange(span.first_token, span.first_token + span.num_tokens))
        contiguous = all(a.first_token + a.num_tokens == b.first_token for a, b in pairwise(spans))
        first = spans[0].first_token
        tokens = slice(first, first + starts[-1]) if contiguous else torch.cat(index).to(device, non_blocking=True)
        device_starts = torch.tensor(starts, dtype=torch.int32).to(device, non_blocking=True)
        return DenseRows(tokens, self._dense_metadata(metadata, spans, device_starts))
