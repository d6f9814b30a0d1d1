"""vLLM's schedulers under the rules of `workers.vllm_plugin.sharing`: what a request may read from the prefix cache,
and what it may leave there."""

from __future__ import annotations

import math
from typing import Any

from sparsekernels.parameters import MethodChoice
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from workers.vllm_plugin.requests import EXTRA_KEY
from workers.vllm_plugin.sharing import cacheable_tokens, hit_step, longest_hit


def method_of(request: Any) -> MethodChoice:
    """The request's method, read once a request; requests that are not ours are dense."""
    known = getattr(request, "frontier_method", None)
    if known is None:
        parameters = request.sampling_params
        extra = (parameters.extra_args or {}) if parameters is not None else {}
        known = request.frontier_method = MethodChoice.from_wire((extra.get(EXTRA_KEY) or {}).get("method") or {})
    return known  # type: ignore[no-any-return]


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
        self._store(request, cacheable_tokens(method_of(request), request.num_prompt_tokens, num_computed_tokens))

    def _computed_blocks(self, request: Any) -> Any:
        found = self._find(request)
        method, tokens = method_of(request), found[1]
        limit, step = longest_hit(method, request.num_prompt_tokens), hit_step(method)
        allowed = tokens if limit is None else min(tokens, limit)
        return found if allowed == tokens and tokens % step == 0 else self._cut(found, allowed, step)

    def _cut(self, found: Any, limit: int, step: int) -> Any:
        """The hit `(blocks, tokens, …)`, shortened to whole blocks and multiples of `step`, within `limit` tokens."""
        manager = self.kv_cache_manager
        groups = manager.kv_cache_config.kv_cache_groups
        if len(groups) > 1:  # other groups' hits are tied to the full length: take none
            return (manager.empty_kv_cache_blocks, 0, *found[2:])
        block_size = groups[0].kv_cache_spec.block_size
        tokens = limit // math.lcm(block_size, step) * math.lcm(block_size, step)
        blocks = manager.create_kv_cache_blocks((list(found[0].blocks[0][: tokens // block_size]),))
        return (blocks, tokens, *found[2:])


class SparseScheduler(CacheRules, Scheduler):  # type: ignore[misc]
    """For engines that wait for each step."""


class SparseAsyncScheduler(CacheRules, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule one step ahead."""
