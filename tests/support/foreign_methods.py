"""Methods as a stranger's package would bring them, and a way to put them behind the door for a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import torch
from sparsekernels.choosing import Place, keep_tokens
from sparsekernels.parameters import METHODS, Phase
from sparsekernels.selection import Selection, from_page_mask, rows_of_sequence
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Stride:
    """Every `step`-th block of keys, and the row block's own: a prefill method with lists per KV head."""

    name: ClassVar[str] = "stride"
    phase: ClassVar[Phase] = Phase.PREFILL
    budget_field: ClassVar[str] = "step"
    select: ClassVar[str] = "tests.support.foreign_methods:select_stride"
    version: ClassVar[str] = "3"

    step: int
    block: int = 16
    row_block: int = 32
    per_query_head: bool = False


def select_stride(q: Tensor, k: Tensor, method: Stride, place: Place) -> Selection:
    heads = q.shape[1] if method.per_query_head else k.shape[1]
    rows = rows_of_sequence(q.shape[0], k.shape[0], method.row_block, device=q.device)
    page = torch.arange(-(-k.shape[0] // method.block), device=q.device)
    first, last = rows.position // method.block, (rows.end - 1) // method.block
    head = torch.arange(heads, device=q.device)[:, None]
    chosen = (page + head) % method.step == 0
    mask = chosen[None] & (page <= last[:, None])[:, None]
    mask = mask | ((page >= first[:, None]) & (page <= last[:, None]))[:, None]
    return from_page_mask(rows, mask, page_size=method.block, row_block=method.row_block)


@dataclass(frozen=True, kw_only=True)
class KeepStrongest:
    """Keeps the keys that the last `window` rows score highest in sum, other numbers of them for each KV head."""

    name: ClassVar[str] = "keep_strongest"
    phase: ClassVar[Phase] = Phase.COMPRESS
    budget_field: ClassVar[str] = "size"
    select: ClassVar[str] = "tests.support.foreign_methods:select_strongest"
    version: ClassVar[str] = "1"

    size: int
    window: int = 8


def select_strongest(q: Tensor, k: Tensor, method: KeepStrongest, place: Place) -> Selection:
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[2]).double()
    scores = torch.einsum("thgd,lhd->hl", grouped, k.double())
    rank = scores.argsort(-1, descending=True).argsort(-1)
    size = method.size + torch.arange(k.shape[1])[:, None]
    return keep_tokens(rank < size, k.shape[0])


@contextmanager
def behind_the_door(*classes: type[Any]) -> Iterator[None]:
    """The classes as methods of installed packages, as long as the context lasts."""
    points = METHODS._points
    for cls in classes:
        value = f"{cls.__module__}:{cls.__qualname__}"
        points[cls.name] = [EntryPoint(cls.name, value, "frontier.methods")]
    try:
        yield
    finally:
        for cls in classes:
            points.pop(cls.name)
            METHODS._loaded.pop(cls.name, None)
