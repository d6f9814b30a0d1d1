"""What the scheduler must know of the methods: which cached keys and values a request may read, and which it may leave.

Keys and values of prompt rows are exact when the prefill is dense, whatever the decode method; so such requests may
share them (the caller groups them by `cache_salt`). Two limits:
- rows behind the prompt of a request with a sparse decode are not dense: they never enter the prefix cache;
- compression votes with the last `window` queries of the prompt: a cached prefix must end before them.
"""

from __future__ import annotations

from typing import Any

from sparsekernels.parameters import SparseK
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from workers.vllm_plugin.requests import EXTRA_KEY


def method_of(request: Any) -> dict[str, Any]:
    """The wire form of the request's method; empty is dense."""
    parameters = request.sampling_params
    extra = (parameters.extra_args or {}) if parameters is not None else {}
    return dict((extra.get(EXTRA_KEY) or {}).get("method") or {})


def longest_hit(request: Any) -> int | None:
    """Most prompt tokens that the request may take from the prefix cache; None: any number."""
    compress = method_of(request).get("compress")
    return None if compress is None else max(0, request.num_prompt_tokens - int(compress["window"]))


def cacheable_tokens(request: Any, num_computed: int) -> int:
    """How many leading tokens of the request may enter the prefix cache."""
    method = method_of(request)
    rules_decode = (method.get("prefill") or {}).get("name") == SparseK.name
    is_exact = "decode" not in method and "compress" not in method and not rules_decode
    return num_computed if is_exact else min(num_computed, int(request.num_prompt_tokens))


class CacheRules:
    """Mixin over vLLM's schedulers; wraps two calls of their cache manager."""

    kv_cache_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        manager = self.kv_cache_manager
        self._find, self._store = manager.get_computed_blocks, manager.coordinator.cache_blocks
        manager.get_computed_blocks = self._computed_blocks
        manager.coordinator.cache_blocks = self._cache_blocks

    def _cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        self._store(request, cacheable_tokens(request, num_computed_tokens))

    def _computed_blocks(self, request: Any) -> Any:
        found = self._find(request)
        limit = longest_hit(request)
        if limit is None or found[1] <= limit:
            return found
        return self._cut(found, limit)

    def _cut(self, found: Any, limit: int) -> Any:
        """The hit `(blocks, tokens, …)`, shortened to whole blocks within `limit` tokens."""
        manager = self.kv_cache_manager
        groups = manager.kv_cache_config.kv_cache_groups
        if len(groups) > 1:  # other groups' hits are tied to the full length: take none
            return (manager.empty_kv_cache_blocks, 0, *found[2:])
        num_blocks = limit // groups[0].kv_cache_spec.block_size
        blocks = manager.create_kv_cache_blocks((list(found[0].blocks[0][:num_blocks]),))
        return (blocks, num_blocks * groups[0].kv_cache_spec.block_size, *found[2:])


class SparseScheduler(CacheRules, Scheduler):  # type: ignore[misc]
    """For engines that wait for each step."""


class SparseAsyncScheduler(CacheRules, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule one step ahead."""
