"""An order while a worker is at it: which samples wait, are being made, are ready or fly."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from workers.engine import GenerationRequest
from workers.exchange import InFlight
from workers.protocol import SampleOutcome, ShardOrder
from workers.scoring import unmade_outcome
from workers.source import Prepared, SampleSource


@dataclass(frozen=True, slots=True)
class Flight:
    """A sample in the engine."""

    open_order: OpenOrder
    prepared: Prepared
    submitted_at: float
    alone: bool


@dataclass(slots=True, eq=False)
class OpenOrder:
    """The mutable side of a `ShardOrder`. Isolated samples come first."""

    order: ShardOrder
    waiting: deque[int] = field(default_factory=deque)
    making: deque[tuple[int, Future[Prepared]]] = field(default_factory=deque)
    ready: deque[Prepared] = field(default_factory=deque)
    num_flying: int = 0
    released: bool = False
    """Some of its samples are given back unrun."""

    @classmethod
    def of(cls, order: ShardOrder) -> OpenOrder:
        alone = [i for i in order.indices if i in order.isolated]
        return cls(order, deque([*alone, *(i for i in order.indices if i not in order.isolated)]))

    @property
    def num_pending(self) -> int:
        return len(self.waiting) + self.num_made_ahead

    @property
    def num_made_ahead(self) -> int:
        """Samples that are made, or being made, and not in the engine yet."""
        return len(self.making) + len(self.ready)

    @property
    def is_finished(self) -> bool:
        return not self.num_pending and not self.num_flying

    @property
    def wants_isolation(self) -> bool:
        """A sample that must run alone is still to be run."""
        if not self.order.isolated:
            return False
        ahead = (*(p.index for p in self.ready), *(i for i, _ in self.making), *self.waiting)
        return any(i in self.order.isolated for i in ahead)

    def make_next(self, source: SampleSource, executor: Executor) -> None:
        """Begin to make one more sample."""
        index = self.waiting.popleft()
        self.making.append((index, executor.submit(source.make, self.order, index)))

    def collect_made(self) -> list[SampleOutcome]:
        """Move what is made, in order, to `ready`; what cannot be made is reported."""
        unmade = []
        while self.making and self.making[0][1].done():
            index, future = self.making.popleft()
            error = future.exception()
            if error is None:
                self.ready.append(future.result())
            else:
                unmade.append(unmade_outcome(self.order, index, error))
        return unmade

    def drop_pending(self) -> None:
        """Forget every sample that is not in the engine."""
        for _, future in self.making:
            future.cancel()
        self.waiting.clear()
        self.making.clear()
        self.ready.clear()

    def request(self, request_id: str, prepared: Prepared) -> GenerationRequest:
        """The engine's request for a sample; all prompts of one prefill may share their cache."""
        order = self.order
        return GenerationRequest(
            request_id=request_id,
            prompt_token_ids=prepared.prompt_token_ids,
            max_tokens=order.max_output_tokens,
            method=order.method,
            cache_group="campaign",
            # From the sample's whole identity: with seed + index, two seeds of a campaign would share their draws.
            seed=int(prepared.sample_key[:8], 16) if order.sampling else None,
            **order.sampling,
        )


def in_flight(flight: Flight) -> InFlight:
    prepared = flight.prepared
    return InFlight(index=prepared.index, sample_key=prepared.sample_key, prompt_hash=prepared.prompt_hash)


def cache_tokens(samples: Iterable[tuple[ShardOrder, Prepared]]) -> int:
    """Entries of the KV cache that samples in the engine together may come to need: prompts and outputs of full length.

    A prompt that several methods decode from one prefill counts once.
    """
    prompts: dict[tuple[str, str], int] = {}
    outputs = 0
    for order, prepared in samples:
        prefill = json.dumps(order.method.get("prefill"), sort_keys=True)
        prompts[prepared.prompt_hash, prefill] = len(prepared.prompt_token_ids)
        outputs += order.max_output_tokens
    return sum(prompts.values()) + outputs
