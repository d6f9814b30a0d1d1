"""Draws the report's figures and writes each as SVG, PNG and PDF."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.analysis.findings import Findings, accuracy_methods, failure_counts
from orchestrator.analysis.plots import admissible, cost, law, operations, quality, style
from orchestrator.domain.model_shapes import known_shape

FORMATS = ("svg", "png", "pdf")
FRONTIER_LABELS = {
    "prefill": "operations of one prefill, index included",
    "decode": "bytes read for one generated token, index included",
    "density": "density (computed ÷ dense pairs or entries)",
    "seconds": "measured seconds per sample, queueing included",
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure to be: its file name, its caption, and what draws it (None when the data do not allow it)."""

    name: str
    caption: str
    draw: Callable[[], Any]


def drawings(findings: Findings, *, by_model: bool = False) -> Iterator[Drawing]:
    """Every figure that the campaign's data allow, in the order of the report."""
    methods, tasks = accuracy_methods(findings), findings.tasks
    yield from _operations(findings, methods, tasks)
    if methods and len(findings.comparisons):
        yield from _quality(findings, methods, tasks, by_model)
        yield from _costs(findings, methods)
    yield from _laws(findings)


def _operations(findings: Findings, methods: list[str], tasks: list[str]) -> Iterator[Drawing]:
    scores = findings.scores
    yield Drawing(
        "completeness",
        "Recorded samples as a share of the planned ones.",
        lambda: operations.completeness_map(scores, tasks, methods),
    )
    yield Drawing(
        "failures",
        "What failed, and how often a completion held no answer: such completions count as wrong.",
        lambda: operations.failures_figure(failure_counts(findings.frames), scores, tasks, methods),
    )
    yield Drawing(
        "throughput",
        "Outcomes recorded over the campaign's time.",
        lambda: operations.throughput_over_time(findings.frames.outcomes),
    )
    if findings.speed["ttft_speedup"].notna().any():
        yield Drawing(
            "speed",
            "Measured speed-up over dense, median over models and lengths; times include queueing.",
            lambda: operations.measured_speed(findings.speed, methods),
        )


def _quality(findings: Findings, methods: list[str], tasks: list[str], by_model: bool) -> Iterator[Drawing]:
    scores, comparisons = findings.scores, findings.comparisons
    compared = [m for m in methods if m in set(comparisons["method"])]
    for length in sorted(comparisons["length_tokens"].unique()):
        at = f"{style.tokens(length)} tokens"
        yield Drawing(
            f"heat-{length}",
            f"Loss against dense at {at}, mean over models. Red: sparse is worse.",
            partial(quality.loss_heat_map, comparisons, length, tasks, compared),
        )
        for model in [None, *(findings.models if by_model else [])]:
            suffix = "" if model is None else f"-{findings.models.index(model)}"
            whose = "mean over models" if model is None else style.short_model(model)
            yield Drawing(
                f"accuracy-{length}{suffix}",
                f"Score against compression at {at}, {whose}; bands are 95 % intervals over samples.",
                partial(quality.accuracy_by_task, scores, length, tasks, methods, model),
            )
    yield Drawing(
        "admissible",
        "Largest admissible compression, mean over models. “–”: no statement (no data yet, or dense near chance).",
        lambda: admissible.admissible_map(findings.admissible, tasks, compared),
    )
    yield Drawing(
        "admissible-length",
        "Admissible compression by model and prompt length: lines are means over tasks, dots single tasks.",
        lambda: admissible.admissible_by_length(findings.admissible, compared),
    )
    yield Drawing(
        "sensitivity",
        "Points of score (of 100) lost for each doubling of the compression, over models and lengths.",
        lambda: quality.sensitivity_map(findings.sensitivity, tasks, compared),
    )
    if len(findings.relative_errors):
        yield Drawing(
            "relative-error",
            "Relative error by prompt length; bars are 95 % intervals.",
            lambda: quality.relative_error_by_length(findings.relative_errors, compared),
        )


def _costs(findings: Findings, methods: list[str]) -> Iterator[Drawing]:
    for name, label in FRONTIER_LABELS.items():
        table = findings.frontiers[name]
        if len(table):
            yield Drawing(
                f"frontier-{name}",
                f"Mean score over tasks against {label}. Bright points are not beaten at their length.",
                partial(cost.frontier_figure, table, label),
            )
    shapes = {m: shape for m in findings.models if (shape := known_shape(m)) is not None}
    if shapes:
        yield Drawing(
            "theory",
            "Theory for these models: where a larger model's dashed line falls below a smaller one's solid line, large "
            "and sparse is cheaper.",
            lambda: cost.theory_figure(shapes),
        )


def _laws(findings: Findings) -> Iterator[Drawing]:
    if findings.laws:
        yield Drawing(
            "law",
            "Scaling law: predicted against observed score of every point.",
            lambda: law.law_figure({m: (s.points, s.fit) for m, s in findings.laws.items()}),
        )
        yield Drawing(
            "law-coefficients",
            "Coefficients of the law with 95 % intervals (resampled groups of model, task and length).",
            lambda: law.coefficient_figure({m: s.fit for m, s in findings.laws.items()}),
        )


def render_all(
    wanted: Sequence[Drawing], folder: Path, *, processes: int = 1, progress: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Writes every figure in all FORMATS and returns the SVG of each by name; those with nothing to draw are absent.

    More than one process needs fork, since a drawing holds the data that it draws; elsewhere one is used.
    """
    if processes < 2 or sys.platform != "linux":
        svgs = (render(drawing, folder) for drawing in wanted)
        return _collect(wanted, svgs, progress)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, initializer=_adopt, initargs=(wanted, folder)) as pool:
        return _collect(wanted, pool.map(_render_number, range(len(wanted))), progress)


def _collect(
    wanted: Sequence[Drawing], svgs: Iterator[str | None], progress: Callable[[str], None] | None
) -> dict[str, str]:
    drawn = {}
    for drawing, svg in zip(wanted, svgs, strict=True):
        if svg is not None:
            drawn[drawing.name] = svg
        if progress is not None:
            progress(drawing.name)
    return drawn


_inherited: tuple[Sequence[Drawing], Path] = ((), Path())
"""In a drawing process: what it inherited. Never set in the process that forks."""


def _adopt(wanted: Sequence[Drawing], folder: Path) -> None:
    global _inherited
    _inherited = (wanted, folder)


def _render_number(number: int) -> str | None:
    wanted, folder = _inherited
    return render(wanted[number], folder)


def render(drawing: Drawing, folder: Path) -> str | None:
    """Writes one figure in all FORMATS to `folder` and returns its SVG; None when there is nothing to draw."""
    with style.house_style():
        figure = drawing.draw()
        if figure is None:
            return None
        import matplotlib

        matplotlib.rcParams["svg.hashsalt"] = drawing.name
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in FORMATS:
            stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            figure.savefig(folder / f"{drawing.name}.{kind}", format=kind, metadata=stamp)
    return (folder / f"{drawing.name}.svg").read_text(encoding="utf-8")
