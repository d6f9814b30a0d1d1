"""Generation with exactly window + sinks + kept cache slots per KV head, whatever the length.

A token leaving the window takes the slot of the kept entry that it beats, or is forgotten. Slot
order is free: keys are already rotated and one query sees every slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from sparsekernels.sparsek.streaming import KeptSet, StreamingThreshold


class SlotCache:
    """Keys, values and scores of one sequence in one layer. Float arithmetic in the tensors' dtype."""

    def __init__(self, num_kv_heads: int, head_dim: int, budget: Budget, gating: Gating, dtype: torch.dtype) -> None:
        shape = (num_kv_heads, budget.slots)
        self.budget = budget
        self.keys = torch.zeros(*shape, head_dim, dtype=dtype)
        self.values = torch.zeros(*shape, head_dim, dtype=dtype)
        self._scores = torch.zeros(shape, dtype=torch.float64)
        self._positions = torch.full(shape, -1, dtype=torch.int64)
        self._gating = gating
        self._kept = [KeptSet(budget.kept) for _ in range(num_kv_heads)]
        self._thresholds = [StreamingThreshold(budget.kept) for _ in range(num_kv_heads)]
        self._length = 0

    @property
    def positions(self) -> Tensor:
        """[kv_heads, slots] position held by each slot, −1 where empty."""
        return self._positions.clone()

    def append(self, key: Tensor, value: Tensor, score: Tensor) -> None:
        """Adds the next token: `key`, `value` [kv_heads, d], `score` [kv_heads]."""
        slot = self._length % self.budget.window
        leaving = self._length - self.budget.window
        if leaving >= 0:
            for head in range(len(self._kept)):
                self._leave_window(head, slot, leaving)
        self.keys[:, slot], self.values[:, slot] = key, value
        self._scores[:, slot] = score.double()
        self._positions[:, slot] = self._length
        self._length += 1

    def attend(self, query: Tensor, scale: float | None = None) -> Tensor:
        """Attention of the last appended token's `query` [heads, d] over all slots → [heads, d]."""
        group = query.reshape(len(self.keys), -1, query.shape[-1])
        gates = self._gates()[:, None]
        logits = group @ self.keys.mT * (scale or query.shape[-1] ** -0.5)
        if self._gating is Gating.KEYS_AND_VALUES:
            logits = logits * gates
        weights = logits.masked_fill(self._positions[:, None] < 0, -torch.inf).softmax(-1)
        if self._gating is not Gating.STRAIGHT_THROUGH:
            weights = weights * gates
        return (weights @ self.values).reshape(query.shape)

    def _leave_window(self, head: int, slot: int, position: int) -> None:
        window, sinks = self.budget.window, self.budget.sinks
        if position < sinks:
            self._move(head, slot, window + position)
            return
        score = float(self._scores[head, slot])
        if self.budget.kept:
            self._thresholds[head].push(score)
        fallen = self._kept[head].push(score, position)
        if fallen is None:
            self._move(head, slot, window + position)
        elif fallen != position:
            self._move(head, slot, int((self._positions[head, window:] == fallen).nonzero()) + window)

    def _move(self, head: int, source: int, target: int) -> None:
        for store in (self.keys, self.values, self._scores, self._positions):
            store[head, target] = store[head, source]

    def _gates(self) -> Tensor:
        """[kv_heads, slots]: 1 in the window and at sinks, else clip(u − τ, 0, 1) with the present τ."""
        tau = torch.tensor([t.tau for t in self._thresholds], dtype=torch.float64)[:, None]
        gates = (self._scores - tau).clamp(0.0, 1.0)
        gates[:, : self.budget.window + self.budget.sinks] = 1.0
        return gates.to(self.keys.dtype)
