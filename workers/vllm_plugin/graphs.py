"""Keeps steps with sparse rows out of full CUDA graphs, which would replay without entering our `forward`.

Dense steps keep the stock graphs; other steps run piecewise, with attention between the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def guard_graphs(runner: Any, is_stock_step: Callable[[], bool]) -> None:
    """Wrap the model runner's choice of a graph. Idempotent; a runner without graphs is left alone."""
    for name, veto in (("cudagraph_manager", _veto_uniform), ("cudagraph_dispatcher", _veto_full)):
        chooser = getattr(runner, name, None)
        if chooser is not None and not getattr(chooser, "frontier_guarded", False):
            chooser.dispatch = _guarded(chooser.dispatch, is_stock_step, veto)
            chooser.frontier_guarded = True


def _guarded(dispatch: Callable[..., Any], is_stock_step: Callable[[], bool], veto: Callable[..., Any]) -> Any:
    def choose(*args: Any, **kwargs: Any) -> Any:
        return dispatch(*args, **kwargs) if is_stock_step() else veto(dispatch, *args, **kwargs)

    return choose


def _veto_uniform(
    dispatch: Callable[..., Any], num_reqs: int, num_tokens: int, _uniform: int | None, *args: Any, **kwargs: Any
) -> Any:
    """Model runner V2: full graphs are for batches of uniform query length; claim that this one is not."""
    return dispatch(num_reqs, num_tokens, None, *args, **kwargs)


def _veto_full(dispatch: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Model runner V1 takes a set of modes to leave out."""
    from vllm.config.compilation import CUDAGraphMode

    kwargs["invalid_modes"] = {*(kwargs.get("invalid_modes") or ()), CUDAGraphMode.FULL}
    return dispatch(*args, **kwargs)
