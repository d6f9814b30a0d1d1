"""Where a worker's samples come from: made from their identity, scored by their task."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.cache import node_cache, prepared_sample
from tasks.errors import ParameterError
from tasks.registry import get_task
from tasks.sample import Score, Verdict
from tasks.tokenizer import Tokenizer, load_tokenizer
from workers.protocol import ShardOrder

SYNTHETIC = "synthetic"
"""A task without text, for drills and benchmarks of the control plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A sample, ready for the engine."""

    index: int
    sample_key: str
    prompt_hash: str
    prompt_token_ids: Sequence[int]
    sample: Any
    """What the source needs to score the completion."""


class SampleSource(Protocol):
    """Makes samples and scores completions. `make` may be called from several threads."""

    def make(self, order: ShardOrder, index: int) -> Prepared: ...

    def score(self, order: ShardOrder, prepared: Prepared, completion: str) -> Score: ...


def hash_tokens(token_ids: Sequence[int]) -> str:
    """32 hexadecimal digits of the SHA-256 of the ids as 64-bit integers."""
    return hashlib.sha256(array("q", token_ids).tobytes()).hexdigest()[:32]


class TaskSource:
    """The nine tasks. Tokenizers and parsed parameters are kept."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, Tokenizer] = {}
        self._parameters: dict[tuple[str, str], Any] = {}
        self._cache = node_cache()

    def make(self, order: ShardOrder, index: int) -> Prepared:
        """The sample with this identity. Raises what the task raises (LengthError, DataError, ParameterError)."""
        if order.task.name == SYNTHETIC:
            return synthetic_sample(order, index)
        sample = prepared_sample(
            self._cache,
            get_task(order.task.name),
            self._parsed(order),
            length_tokens=order.length_tokens,
            tokenizer=self._tokenizer(order.engine.model),
            seed=order.seed,
            index=index,
        )
        return Prepared(
            index=index,
            sample_key=sample.key,
            prompt_hash=hash_tokens(sample.prompt_token_ids),
            prompt_token_ids=sample.prompt_token_ids,
            sample=sample,
        )

    def score(self, order: ShardOrder, prepared: Prepared, completion: str) -> Score:
        if order.task.name == SYNTHETIC:
            return synthetic_score(completion)
        return get_task(order.task.name).score(prepared.sample, completion, rules=order.task.scoring)

    def _parsed(self, order: ShardOrder) -> Any:
        key = (order.task.name, repr(sorted(order.task.parameters.items())))
        if key not in self._parameters:
            task = get_task(order.task.name)
            if task.plugin != order.task.plugin:
                here, there = task.plugin or "frontier itself", order.task.plugin or "frontier itself"
                raise ParameterError(f"{order.task.name} is of {here} here, but was asked for of {there}")
            self._parameters[key] = task.parse_parameters(order.task.parameters)
        return self._parameters[key]

    def _tokenizer(self, folder: str) -> Tokenizer:
        if folder not in self._tokenizers:
            self._tokenizers[folder] = load_tokenizer(folder)
        return self._tokenizers[folder]


def synthetic_sample(order: ShardOrder, index: int) -> Prepared:
    """`length_tokens` token ids that depend on task, seed and index alone."""
    identity = f"{SYNTHETIC} {sorted(order.task.parameters.items())} {order.length_tokens} {order.seed} {index}"
    digest = hashlib.sha256(identity.encode()).digest()
    ids = [10 + digest[i % len(digest)] for i in range(order.length_tokens)]
    ids[: len(str(index))] = [ord(c) for c in str(index)][: order.length_tokens]
    key = hashlib.sha256(identity.encode()).hexdigest()
    return Prepared(index=index, sample_key=key, prompt_hash=hash_tokens(ids), prompt_token_ids=ids, sample=None)


def synthetic_score(completion: str) -> Score:
    """Right about half the time, decided by the completion alone."""
    if not completion:
        return Score(Verdict.UNANSWERED, 0.0, reason="empty")
    right = hashlib.sha256(completion.encode()).digest()[0] < 128
    return Score(Verdict.CORRECT if right else Verdict.INCORRECT, float(right), extracted=completion[:40])
