"""What a worker knows of one request: its method, where its prompt ends, and what was computed for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sparsekernels.parameters import MethodChoice

EXTRA_KEY = "frontier"
"""Key of our part of `SamplingParams.extra_args`: `{"id": …, "method": wire form, "shares": cache salt}`."""


@dataclass(slots=True)
class DecodeCounts:
    """Cumulative tokens read and tokens in context after each decode step of one request.

    Kept step by step, because an engine that schedules ahead may run a step beyond the last token that counts.
    """

    first_position: int
    read: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    measured: dict[int, list[Any]] = field(default_factory=dict)
    """Step → tokens read in each layer, 0-d tensors that are read only in a report: where no rule gives the number."""

    def add(self, position: int, tokens_read: float) -> None:
        """Record the step of the token at `position` (0-based). A recomputed step replaces its first record."""
        step = position - self.first_position
        if step < len(self.read):
            return
        before_read, before_total = (self.read[-1], self.total[-1]) if self.read else (0.0, 0.0)
        self.read.append(before_read + tokens_read)
        self.total.append(before_total + position + 1)

    def measure(self, position: int, tokens_read: Any) -> None:
        """Record what one layer read in the step of the token at `position`, the mean over its heads."""
        self.measured.setdefault(position - self.first_position, []).append(tokens_read)

    def density(self, num_steps: int) -> float:
        """Share of the context read over the first `num_steps` steps; 1.0 when there was none."""
        if self.measured:
            return self._measured_density(num_steps)
        last = min(num_steps, len(self.read)) - 1
        return 1.0 if last < 0 else self.read[last] / self.total[last]

    def _measured_density(self, num_steps: int) -> float:
        steps = [step for step in self.measured if step < num_steps]
        read = sum(sum(map(float, self.measured[step])) / len(self.measured[step]) for step in steps)
        total = sum(self.first_position + step + 1 for step in steps)
        return read / total if total else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What compression left of one request's prompt in one layer. Compared by identity."""

    slots: Any
    """int32 [KV heads, W]: cache slots, padded behind counts."""
    counts: Any
    """int32 [KV heads]."""
    prompt_length: int

    @property
    def address(self) -> tuple[int, int, int]:
        """Where the slots and the counts lie on the device, and the list's width."""
        return self.slots.data_ptr(), self.counts.data_ptr(), self.slots.shape[1]

    @property
    def share(self) -> float:
        """Share of the prompt's entries kept, the mean over this rank's heads; waits for the device."""
        return float(self.counts.double().mean()) / self.prompt_length

    @classmethod
    def of(cls, kept: Any, block_table: Any, cache_page: int, *, adaptive: bool) -> Kept:
        """From `sparsekernels` kept tokens and the request's block table. Adaptive lists are cut to their longest."""
        tokens = kept.tokens[:, : int(kept.counts.max())] if adaptive else kept.tokens
        tokens = tokens.long()
        slots = block_table.long()[tokens // cache_page] * cache_page + tokens % cache_page
        return cls(slots.int(), kept.counts.int().contiguous(), kept.prompt_length)


@dataclass(slots=True)
class RequestState:
    """One request inside one worker process; `layers` counts from 0 over the attention layers that we serve."""

    name: str
    """The caller's request id."""
    method: MethodChoice
    prompt_length: int
    """Tokens of the original prompt: rows below are prompt rows, rows from here on are decode rows, for ever."""
    decode: DecodeCounts
    num_restarts: int = 0
    is_reported: bool = False
    """Its caller has the report; nothing needs to be kept once it leaves."""
    prefill_density: dict[str, Any] = field(default_factory=dict)
    """Layer name → share of causal pairs computed, a float or a 0-d tensor that is read only in a report. Requests that
    share a sparse prefill share this too: the first computes all rows, the others a few."""
    window_queries: dict[str, Any] = field(default_factory=dict)
    """Layer name → last query rows of the prompt seen so far [rows, heads, head_size]; compression votes with them."""
    kept: dict[str, Any] = field(default_factory=dict)
    """Layer name → what is kept, once the prompt is complete."""
    peak_tokens: int = 0
    """Most cache entries that it held at once in each layer, whole pages not counted."""
    decoded_until: int = 0
    """End of the last decode rows planned; 0 before the first."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Layer name → SparseK's scores of the cached tokens, float32 [KV heads, L]."""
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Layer name → what a method that came through the door remembers (`sparsekernels.choosing.Place.state`)."""
    num_kept: float | None = None
    """Prompt entries that compression kept per KV head, the mean over layers; read from the device once."""
    _addresses: list[tuple[int, int, int]] | None = None

    @classmethod
    def new(
        cls, internal_id: str, prompt_length: int, extra: dict[str, Any], density: dict[str, Any] | None = None
    ) -> RequestState:
        """State of an arriving request; `extra` is our part of its sampling parameters, `density` what is known."""
        return cls(
            name=str(extra.get("id", internal_id)),
            method=MethodChoice.from_wire(extra.get("method") or {}),
            prompt_length=prompt_length,
            decode=DecodeCounts(prompt_length),
            prefill_density={} if density is None else density,
        )

    @property
    def kept_width(self) -> int:
        """The widest list of kept slots, over the layers; 0 while the prompt is not complete."""
        return max((kept.slots.shape[1] for kept in self.kept.values()), default=0)

    def kept_addresses(self, layers: Iterable[str]) -> list[tuple[int, int, int]]:
        """The `Kept.address` of each layer; always the same object."""
        if self._addresses is None:
            self._addresses = [self.kept[name].address for name in layers]
        return self._addresses

    def restart(self) -> None:
        """Forget everything derived from cache entries that the scheduler took away (preemption)."""
        self.num_restarts += 1
        self.decoded_until = 0
        self.num_kept = self._addresses = None
        for derived in (self.window_queries, self.kept, self.scores, self.memory):
            derived.clear()
