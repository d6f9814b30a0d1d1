"""The one function of a method that came through the door (see `sparsekernels.door`): it makes a Selection.

    select(q, k, method, place) -> Selection

- q [T, Hq, D]: the last T rows of a sequence whose keys are k [L, Hkv, D]. `method` holds the parameters.
- The Selection's rows are `rows_of_sequence(T, L, row_block)`, its lists are per query head or per KV head, and the
  rules of `sparsekernels.selection` hold: ascending pages, a row block's own tokens last.

When it is called, by the method's phase:

- prefill: once a layer and prompt, with all rows of the prompt that are computed. `row_block` is a power of two from 16
  on (the kernels' tiles); lists of pages of 16 tokens or more run on every GPU, single tokens on Hopper and in Triton.
- compress: once a layer and prompt, with the prompt's last `window` rows (all of them, if the prompt is shorter) over
  the prompt's keys. The list of the **last** row block names the tokens that are kept; the others are never read again.
- decode: for each generated token, T = 1. With a `window`, it is first called as in compress, to fill `place.state`;
  that call's selection is not used. Keys come with their own position encoding, at their true positions. Behind a
  method that compresses, k holds what this KV head kept (Hkv = 1: called head by head), followed by what was generated.

`place.state` lives as long as the request's cache entries: calls for one request and layer come in the order of their
positions, and start over with an empty state when a preempted request is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparsekernels.selection import Rows, Selection, from_page_mask, rows_of_sequence


def _alone(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a model and in a request's life a selection is asked for."""

    scale: float
    """Factor of q·k before the softmax."""
    layer: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    """The method's memory of this request in this layer."""
    all_heads: Callable[[Tensor], Tensor] = _alone
    """[Hkv, …] of this process to [all KV heads of the layer, …], when the model is split over several GPUs."""


Select = Callable[[Tensor, Tensor, Any, Place], Selection]


def is_chosen(method: object) -> bool:
    """Whether the method came through the door: it brings its own function to a Selection."""
    return hasattr(type(method), "select")


@cache
def _function(cls: Any) -> Select:
    address = cls.__dict__.get("select", cls.select)
    if not isinstance(address, str):
        function: Select = cls.select
        return function
    module, _, name = address.partition(":")
    found: Select = getattr(import_module(module), name)
    return found


def load_select(method: object) -> Select:
    """The method's function. Raises ImportError or AttributeError when there is none at its address."""
    cls: Any = type(method)
    return _function(cls)


def choose(q: Tensor, k: Tensor, method: Any, place: Place) -> Selection:
    """The selection of q [T, Hq, D], the last T rows over k [L, Hkv, D]. Raises SelectionError for foreign rows."""
    return load_select(method)(q, k, method, place)


def keep_tokens(mask: Tensor, num_keys: int) -> Selection:
    """The selection of a sequence's last row: tokens where the mask bool [H, num_keys] is true, and the row's own.

    What compress and decode methods return that choose token by token.
    """
    rows: Rows = rows_of_sequence(1, num_keys, 1, device=mask.device)
    mask = mask.clone()
    mask[:, -1] = True
    return from_page_mask(rows, mask[None], page_size=1, row_block=1, width=int(mask.sum(-1).max()))


def chosen_tokens(selection: Selection) -> tuple[Tensor, Tensor]:
    """Positions in the last row block's list: int64 [H, W] ascending, padded behind counts int32 [H] with 0."""
    ids, valid = selection.token_ids()
    return torch.where(valid[-1], ids[-1], 0), selection.lengths[-1]
