"""The figures of `benchmarks.engine` as ratios: every method against dense, production against the reference mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]
PLACE = ("figure", "length", "in_flight")


def ratio_lines(rows: Sequence[Row]) -> Iterator[str]:
    """One line a figure that has something to be compared with; over 1 is faster."""
    for row in rows:
        if row["figure"] == "samples":
            yield from _samples(row, rows)
        elif row["figure"] in ("prefill", "decode"):
            base = _dense(rows, row)
            if base is not None and base is not row:
                ratio = base["seconds"] / row["seconds"]
                yield f"{_name(row)}: {row['seconds'] * 1e3:.4g} ms, {ratio:.3f} x {base['part']} dense"


def _samples(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    slow = next((r for r in rows if r["part"] == "reference" and _is(r, row, ("figure", "length"), "dense")), None)
    same = next((r for r in rows if r["part"] == row["part"] and _is(r, row, PLACE, "dense")), None)
    shown = [f"{row['samples_per_hour']:.4g} samples/h"]
    if slow is not None and slow is not row:
        shown.append(f"{row['samples_per_hour'] / slow['samples_per_hour']:.2f} x reference mode, dense")
    if same is not None and same is not row:
        shown.append(f"{row['samples_per_hour'] / same['samples_per_hour']:.3f} x {same['part']} dense")
    if row.get("busy") is not None:
        shown.append(f"GPU busy {row['busy']:.1%}")
    yield f"{_name(row)}: {', '.join(shown)}"


def _dense(rows: Sequence[Row], row: Row) -> Row | None:
    """The dense figure at the same place: of the stock engine, else of the row's own."""
    found = [r for r in rows if _is(r, row, PLACE, "dense")]
    return next((r for part in ("stock", row["part"]) for r in found if r["part"] == part), None)


def _is(row: Row, like: Row, keys: Sequence[str], method: str) -> bool:
    return row.get("method") == method and all(row.get(key) == like.get(key) for key in keys)


def _name(row: Row) -> str:
    return f"{row['part']} {row['method']} {row['figure']} {row['length']} x {row['in_flight']}"
