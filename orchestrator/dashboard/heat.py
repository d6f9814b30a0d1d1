"""Cells gathered into a map of method × budget against task or length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.dashboard.snapshot import CellView
from orchestrator.dashboard.state import HeatColumns


@dataclass(slots=True)
class Tally:
    """Counters of several cells added up."""

    num_samples: int = 0
    num_recorded: int = 0
    num_scored: int = 0
    num_unanswered: int = 0
    num_failed: int = 0
    num_leased_shards: int = 0
    score_sum: float = 0.0

    def add(self, cell: CellView) -> None:
        self.num_samples += cell.num_samples
        self.num_recorded += cell.num_recorded
        self.num_scored += cell.num_scored
        self.num_unanswered += cell.num_unanswered
        self.num_failed += cell.num_failed
        self.num_leased_shards += cell.num_leased_shards
        self.score_sum += cell.score_sum

    @property
    def score(self) -> float | None:
        """Mean over the scored samples, 0 to 1; unscored ones are left out."""
        return self.score_sum / self.num_scored if self.num_scored else None

    @property
    def done_share(self) -> float:
        return self.num_recorded / self.num_samples if self.num_samples else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Tallies by (method, budget) and column, both in the order of the spec; lengths ascending."""

    rows: tuple[tuple[str, str], ...]
    columns: tuple[str | int, ...]
    tallies: dict[tuple[tuple[str, str], str | int], Tally] = field(default_factory=dict)
    totals: dict[tuple[str, str], Tally] = field(default_factory=dict)
    """Over all columns of a row."""


def heat_map(cells: Iterable[CellView], columns: HeatColumns) -> HeatMap:
    """The map of `cells`; cells that share a place (other models, seeds …) are added up."""
    by_place: dict[tuple[tuple[str, str], str | int], Tally] = {}
    by_row: dict[tuple[str, str], Tally] = {}
    seen: dict[str | int, None] = {}
    for cell in cells:
        row = (cell.method, cell.budget)
        column = cell.task if columns is HeatColumns.TASK else cell.length_tokens
        seen[column] = None
        by_row.setdefault(row, Tally()).add(cell)
        by_place.setdefault((row, column), Tally()).add(cell)
    order = tuple(seen) if columns is HeatColumns.TASK else tuple(sorted(seen, key=int))
    return HeatMap(rows=tuple(by_row), columns=order, tallies=by_place, totals=by_row)


def tally(cells: Iterable[CellView]) -> Tally:
    """Everything added up."""
    total = Tally()
    for cell in cells:
        total.add(cell)
    return total


def short_names(names: Sequence[str]) -> list[str]:
    """Task names without their family where that leaves them distinct: `ruler_niah` → `niah`."""
    short = [name.split("_", 1)[-1] for name in names]
    return short if len(set(short)) == len(short) else list(names)
