"""Keeps steps with sparse rows out of vLLM's full CUDA graphs, which would replay without entering our `forward`.

Dense steps keep the stock graphs. Steps of decode rows alone run from graphs of our own where that is possible
(`workers.vllm_plugin.step_graphs`); other steps run piecewise, with attention between the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

Wants = Callable[[int], bool]
"""Whether the scheduled step, padded to so many rows, runs from a graph of ours."""


def guard_graphs(runner: Any, is_stock_step: Callable[[], bool], wants: Wants | None = None) -> None:
    """Wrap the model runner's choice of a graph. Idempotent; a runner without graphs is left alone."""
    for name, choose in (("cudagraph_manager", _choose_v2), ("cudagraph_dispatcher", _choose_v1)):
        chooser = getattr(runner, name, None)
        if chooser is not None and not getattr(chooser, "frontier_guarded", False):
            chooser.dispatch = _guarded(chooser.dispatch, is_stock_step, choose, wants or (lambda _: False))
            chooser.frontier_guarded = True


def _guarded(
    dispatch: Callable[..., Any], is_stock_step: Callable[[], bool], choose: Callable[..., Any], wants: Wants
) -> Any:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return dispatch(*args, **kwargs) if is_stock_step() else choose(dispatch, wants, *args, **kwargs)

    return guarded


def _choose_v2(
    dispatch: Callable[..., Any],
    wants: Wants,
    num_reqs: int,
    num_tokens: int,
    uniform: int | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Model runner V2: full graphs are for batches of uniform or bounded query length; claim that this has neither."""
    from vllm.config.compilation import CUDAGraphMode

    found = dispatch(num_reqs, num_tokens, uniform, *args, **kwargs)
    if found.cg_mode == CUDAGraphMode.FULL and wants(found.num_tokens):
        # Padded as for the stock graph, but through the model's forward, where ours is replayed.
        return replace(found, cg_mode=CUDAGraphMode.NONE)
    if "max_query_len" in kwargs:
        kwargs["max_query_len"] = None
    other = dispatch(num_reqs, num_tokens, None, *args, **kwargs)
    if other.cg_mode != CUDAGraphMode.FULL:
        return other
    # A full graph for batches of any shape: it would replay without our `forward`.
    return replace(other, cg_mode=CUDAGraphMode.NONE, num_tokens=num_tokens, num_reqs=num_reqs)


def _choose_v1(dispatch: Callable[..., Any], _: Wants, *args: Any, **kwargs: Any) -> Any:
    """Model runner V1 takes a set of modes to leave out."""
    from vllm.config.compilation import CUDAGraphMode

    kwargs["invalid_modes"] = {*(kwargs.get("invalid_modes") or ()), CUDAGraphMode.FULL}
    return dispatch(*args, **kwargs)
