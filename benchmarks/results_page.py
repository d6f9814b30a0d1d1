"""A page for docs/results from what `real_campaign` packed: tables as CSV, plots, and a table that a person can read.

    python -m benchmarks.results_page OUT docs/results/NAME

Writes scores.csv, comparisons.csv, the PNG figures and table.md to the folder. The findings at the top of table.md are
counted from the tables, by tests that are corrected for their number (Holm, at 5 %); what they mean is for a person.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = ("accuracy", "admissible", "frontier-density", "heat", "relative-error")
"""Beginnings of the names of the plots that are kept: those of scores. Times of a full engine include its queue."""
LEFT_OUT = {"method_choice", "num_parameters_b", "prefill_flops", "prefill_index_flops"}
LEFT_OUT |= {"decode_bytes", "decode_index_bytes"}
HEADINGS = "method", "budget", "samples", "score", "difference to dense", "prefill density", "decode density", "kept"

ALPHA = 0.05

Row = dict[str, str]
Place = tuple[str, str, str, str]


def read_table(archive: Path, name: str) -> list[Row]:
    """Rows of tables/NAME.csv in the archive."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"tables/{name}.csv")
        if member is None:
            raise SystemExit(f"error: {archive} has no tables/{name}.csv")
        return list(csv.DictReader(io.TextIOWrapper(member, encoding="utf-8")))


def write_table(path: Path, rows: Sequence[Row]) -> None:
    names = [name for name in rows[0] if name not in LEFT_OUT]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def place(row: Row) -> Place:
    """Which cell a row is of."""
    return row["task"], row["length_tokens"], row["method"], row["budget"]


def where_from(workers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Who recorded how many samples, one line of a list each."""
    return [f"- {w['num_outcomes']:,} samples: {w['engine']}, {w['device']}" for w in workers if w["num_outcomes"]]


def readable(scores: Iterable[Row], comparisons: Iterable[Row]) -> list[str]:
    """Markdown: one table a task and length, scores and paired differences to dense with their 95 % intervals."""
    differences = {place(row): row for row in comparisons}
    lines: list[str] = []
    current: tuple[str, str] | None = None
    for row in scores:
        if (row["task"], row["length_tokens"]) != current:
            current = row["task"], row["length_tokens"]
            lines += ["", f"## {current[0]}, {int(current[1]):,} tokens", ""]
            lines += ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
        lines.append(_line(row, differences.get(place(row))))
    return lines


def findings(scores: Sequence[Row], comparisons: Sequence[Row]) -> list[str]:
    """What dense scores; of each method in how many cells it is worse, or proven no worse, and its largest loss."""
    lines = ["## Findings", ""]
    for row in scores:
        if row["method"] == "dense" and row["mean"]:
            interval = f"{_number(row['low'])} – {_number(row['high'])}"
            lines.append(
                f"- dense, {row['task']} at {int(row['length_tokens']):,}: {_number(row['mean'])} ({interval})"
            )
    known = [row for row in comparisons if row["difference"]]
    for method in dict.fromkeys(row["method"] for row in known):
        lines.append(_finding(method, [row for row in known if row["method"] == method]))
    return [*lines, ""]


def _finding(method: str, rows: Sequence[Row]) -> str:
    worse = sum(_is_sure(row["p_worse_holm"]) for row in rows)
    no_worse = sum(_is_sure(row["p_noninferior_holm"]) for row in rows)
    worst = min(rows, key=lambda row: float(row["difference"]))
    loss = f"{_signed(worst['difference'])} ({_signed(worst['low'])} – {_signed(worst['high'])})"
    where = f"{worst['budget']}, {worst['task']}, {int(worst['length_tokens']):,}"
    return (
        f"- {method}: worse than dense in {worse} of {len(rows)} cells, proven at most 0.05 worse in {no_worse}; "
        f"largest loss {loss} at {where}"
    )


def _is_sure(p: str) -> bool:
    return bool(p) and float(p) < ALPHA


def _line(row: Row, difference: Row | None) -> str:
    change = "–"
    if difference is not None and difference["difference"]:
        change = f"{_signed(difference['difference'])} ({_signed(difference['low'])} – {_signed(difference['high'])})"
    densities = " | ".join(_number(row[name]) for name in ("density_prefill", "density_decode", "kv_kept"))
    return (
        f"| {row['method']} | {row['budget'] or '–'} | {row['num_scored']} | {_score(row)} | {change} | {densities} |"
    )


def _score(row: Row) -> str:
    return f"{_number(row['mean'])} ({_number(row['low'])} – {_number(row['high'])})"


def _number(text: str) -> str:
    return f"{float(text):.3f}" if text else "–"


def _signed(text: str) -> str:
    return f"{float(text) + 0.0:+.3f}"


def keep_figures(archive: Path, folder: Path) -> list[str]:
    """The chosen plots as PNG; their names."""
    kept = []
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name = Path(member.name).name
            stream = tar.extractfile(member) if name.endswith(".png") and name.startswith(FIGURES) else None
            if stream is not None:
                (folder / name).write_bytes(stream.read())
                kept.append(name)
    return sorted(kept)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="results_page", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("out", type=Path, help="folder that real_campaign wrote")
    parser.add_argument("page", type=Path, help="folder of the page")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    options.page.mkdir(parents=True, exist_ok=True)
    scores = read_table(options.out / "tables.tar.xz", "costs")
    comparisons = read_table(options.out / "tables.tar.xz", "comparisons")
    write_table(options.page / "scores.csv", scores)
    write_table(options.page / "comparisons.csv", comparisons)
    figures = keep_figures(options.out / "figures.tar.xz", options.page)
    found = json.loads((options.out / "summary.json").read_text())
    lines = [f"# Scores of {found['recorded']:,} samples", "", *where_from(found["status"]["workers"]), ""]
    lines += ["Means with 95 % intervals; differences are paired, sample by sample. Densities are measured."]
    lines += ["", *findings(scores, comparisons)]
    lines += [*readable(scores, comparisons), "", *(f"![{name.removesuffix('.png')}]({name})" for name in figures)]
    (options.page / "table.md").write_text("\n".join(lines) + "\n")
    print(f"{options.page}: {len(scores)} cells, {len(figures)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
