"""A step of decode rows alone, as device tables at fixed addresses: what a CUDA graph reads anew at each replay.

Every kernel of such a step runs over all rows of the batch; a row that is another method's has length zero there. So
one graph serves any mix of methods, budgets and lengths of the same `StepShape`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sparsekernels.decode import KeptAddresses
from sparsekernels.parameters import Quest
from torch import Tensor

from workers.vllm_plugin.groups import LEAST_PAGES, group_key, tokens_read
from workers.vllm_plugin.plan import Plan, Span
from workers.vllm_plugin.requests import RequestState

MAX_QUEST_KINDS = 4
"""Kinds of Quest rows (page size, sharing) that one engine keeps tables for."""
DENSE, KEPT, PROMPT, FIRST_QUEST = 0, 1, 2, 3
"""Rows of the table of numbers; each kind of Quest rows has two more, its lengths and its budgets."""


@dataclass(frozen=True, slots=True)
class QuestRows:
    """Rows that one Quest launch serves."""

    page_size: int
    share_pages: bool
    max_budget: int
    """A power of two, so that budgets share graphs; each row's own budget is data."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """Everything that a graph fixes. Steps of equal shape replay the same graph."""

    rows: int
    """The batch, padded to a size of vLLM's."""
    pages: int
    """Width of Quest's block tables, a power of two; 0 without Quest."""
    has_dense: bool
    quest: tuple[QuestRows, ...]
    kept_tokens: int
    """A bound on the entries that SnapKV rows read, a power of two; 0 without such rows."""


def kind_of(request: RequestState, start: int) -> tuple[str, int, bool] | None:
    """The tables that serve the request's row at position `start`; None: a graph cannot hold such a row."""
    method = request.method
    if start < request.prompt_length:
        return None if method.prefill is not None or method.observer is not None else ("dense", 0, True)
    if method.is_decode_dense:
        return ("dense", 0, True)
    key = group_key(method)
    return key if key[0] in ("quest", "kept") else None


def shape_of(rows: int, members: Iterable[tuple[RequestState, int]], cache_page: int) -> StepShape | None:
    """The shape of a step with one row a request at these positions, padded to `rows`; None if no graph holds it."""
    budgets: dict[tuple[int, bool], int] = {}
    longest, has_dense, kept = 0, False, 0
    for request, position in members:
        kind = kind_of(request, position)
        if kind is None:
            return None
        if kind[0] == "dense":
            has_dense = True
        elif kind[0] == "kept":
            kept = max(kept, request.kept_width + position + 1 - request.prompt_length)
        elif isinstance(request.method.decode, Quest):
            budget = request.method.decode.token_budget
            budgets[kind[1:]] = max(budgets.get(kind[1:], 0), budget)
            longest = max(longest, position + 1)
    quest = tuple(QuestRows(*key, max_budget=_power(budget)) for key, budget in sorted(budgets.items()))
    pages = _power(max(LEAST_PAGES, -(-longest // cache_page))) if quest else 0
    return StepShape(rows, pages, has_dense, quest, _power(kept) if kept else 0)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


class StepTables:
    """The tables of one worker, for batches of at most `max_rows`."""

    def __init__(self, max_rows: int, layers: Sequence[str], device: torch.device) -> None:
        self.layers = {name: i for i, name in enumerate(layers)}
        fields = FIRST_QUEST + 2 * MAX_QUEST_KINDS
        self._numbers = torch.zeros(fields, max_rows, dtype=torch.int32, device=device)
        self._addresses = torch.zeros(len(layers), 3, max_rows, dtype=torch.int64, device=device)
        self._quest: dict[tuple[int, bool], int] = {}
        self._named: tuple[Any, ...] = ()

    def can_hold(self, shape: StepShape) -> bool:
        """Whether there is a table for every kind of Quest rows; takes one for each new kind."""
        new = {(q.page_size, q.share_pages) for q in shape.quest} - set(self._quest)
        if len(self._quest) + len(new) > MAX_QUEST_KINDS:
            return False
        for key in sorted(new):
            self._quest[key] = len(self._quest)
        return True

    def fill(self, plan: Plan) -> None:
        """Write the rows of this step; notes what they read in their requests. One copy, two when kept rows changed."""
        host = torch.zeros(self._numbers.shape, dtype=torch.int32)
        kept: list[Span] = []
        for span in plan.dense:
            host[DENSE, span.row] = span.end_position
        for span in plan.decode:
            span.request.decode.add(span.first_position, tokens_read(span))
            if isinstance(span.request.method.decode, Quest):
                field = FIRST_QUEST + 2 * self._quest[group_key(span.request.method)[1:]]
                host[field, span.row] = span.end_position
                host[field + 1, span.row] = span.request.method.decode.token_budget
            else:
                host[KEPT, span.row] = span.end_position
                host[PROMPT, span.row] = span.request.prompt_length
                kept.append(span)
        _send(host, self._numbers)
        named = tuple((s.row, s.request.kept_addresses(self.layers)) for s in kept)
        if [(row, id(one)) for row, one in named] != [(row, id(one)) for row, one in self._named]:
            self._name(named)

    def _name(self, named: tuple[Any, ...]) -> None:
        host = torch.zeros(self._addresses.shape, dtype=torch.int64)
        for row, addresses in named:
            host[:, :, row] = torch.tensor(addresses)
        _send(host, self._addresses)
        self._named = named

    # what the launches read, `rows` wide ---------------------------------------------------------------------------

    def dense_lengths(self, rows: int) -> Tensor:
        return self._numbers[DENSE, :rows]

    def kept_lengths(self, rows: int) -> Tensor:
        return self._numbers[KEPT, :rows]

    def kept(self, layer: str, rows: int) -> KeptAddresses:
        slots, counts, widths = self._addresses[self.layers[layer], :, :rows]
        return KeptAddresses(slots, counts, widths, self._numbers[PROMPT, :rows])

    def quest(self, kind: QuestRows, rows: int) -> tuple[Tensor, Tensor]:
        """Lengths and budgets, int32 [rows] each."""
        field = FIRST_QUEST + 2 * self._quest[kind.page_size, kind.share_pages]
        return self._numbers[field, :rows], self._numbers[field + 1, :rows]


def _send(host: Tensor, target: Tensor) -> None:
    if target.device.type == "cuda":
        host = host.pin_memory()
    target.copy_(host, non_blocking=True)


@dataclass(slots=True)
class Step:
    """One run of the model over the tables, as its layers see it: once in a warm-up and once in a capture."""

    shape: StepShape
    tables: StepTables
    max_model_len: int
    slots: dict[QuestRows, Tensor]
    """int64 [rows]: cache slot of each row's own key, −1 for rows of other methods."""
    dense_metadata: Any = None
    """Stock metadata of the dense rows, made by the first layer."""

    @classmethod
    def start(cls, shape: StepShape, tables: StepTables, max_model_len: int, slot_mapping: Tensor) -> Step:
        """The first launches of the step; slot_mapping int64 [≥ rows]."""
        own = slot_mapping[: shape.rows]
        slots = {kind: torch.where(tables.quest(kind, shape.rows)[0] > 0, own, -1) for kind in shape.quest}
        return cls(shape, tables, max_model_len, slots)
