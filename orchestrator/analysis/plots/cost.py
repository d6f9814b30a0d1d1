"""Cost figures: frontiers of quality against a cost, and when a larger sparse model undercuts a smaller dense one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from sparsekernels.parameters import MethodChoice, Quest

from orchestrator.analysis.cost_model import break_even_batch
from orchestrator.analysis.plots import style
from orchestrator.domain.flops import Formula, ModelShape, prefill_flops

SPARSE_DENSITY = 0.05
LEAST_SCORE_SPAN = 0.1
"""Least height of a frontier's score axis."""
BREAK_EVEN_QUEST = MethodChoice(decode=Quest(token_budget=1024, page_size=16))


def frontier_figure(table: pd.DataFrame, label: str) -> Any:
    """One panel a length: mean score over tasks against cost; the line joins points that nothing beats."""
    lengths = sorted(table["length_tokens"].unique())
    figure, panels = style.grid_of_axes(len(lengths), 2, panel=(5.6, 3.5))
    sizes = table.groupby("model", sort=False)["num_parameters_b"].first().sort_values(kind="stable")
    models, methods = list(sizes.index), list(dict.fromkeys(table["method"]))
    colour, marker = style.colours(models), style.markers(methods)
    for axes, length in zip(panels, lengths, strict=True):
        rows = table[table["length_tokens"] == length]
        _frontier_panel(axes, rows, colour, marker)
        axes.set_title(f"{style.tokens(length)} tokens", loc="left", fontweight="bold")
        axes.set_xlabel(label)
        axes.set_ylabel("mean score over tasks (0–1)")
    _frontier_legend(figure, models, methods, colour, marker)
    return figure


def _frontier_panel(axes: Any, rows: pd.DataFrame, colour: dict[str, str], marker: dict[str, str]) -> None:
    front = rows[rows["on_front"]].sort_values("cost")
    axes.step(front["cost"], front["mean"], where="post", color=style.INK, linewidth=1.0, alpha=0.7, zorder=1)
    for (model, method), points in rows.groupby(["model", "method"], sort=False):
        size = 90 if method == "dense" else 28
        for chosen, alpha in ((~points["on_front"], 0.3), (points["on_front"], 1.0)):
            some = points[chosen]
            axes.scatter(
                some["cost"], some["mean"], s=size, color=colour[model], marker=marker[method], alpha=alpha,
                edgecolors="white", linewidths=0.4, zorder=2,
            )  # fmt: skip
    style.log_cost_axis(axes)
    low, high = axes.get_ylim()
    if high - low < LEAST_SCORE_SPAN:  # Else a sample or two would fill the panel.
        axes.set_ylim(high - LEAST_SCORE_SPAN, high)


def _frontier_legend(
    figure: Any, models: list[str], methods: list[str], colour: dict[str, str], marker: dict[str, str]
) -> None:
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], color=colour[m], marker="o", linestyle="", label=style.short_model(m), markersize=7)
        for m in models
    ]
    shapes = [
        Line2D([], [], color=style.INK, marker=marker[m], linestyle="", label=style.plain(m), markersize=7)
        for m in methods
    ]
    line = Line2D([], [], color=style.INK, linewidth=1.0, label="not beaten")
    figure.legend(handles=[*dots, *shapes, line], loc="outside upper center", ncols=7)


def theory_figure(shapes: Mapping[str, ModelShape]) -> Any:
    """Left: operations of a prefill against length, dense and at 20×. Right: batch from which decode breaks even."""
    figure = style.new_figure(11.2, 4.2)
    left, right = figure.subplots(1, 2)
    ordered = sorted(shapes.items(), key=lambda item: prefill_flops(item[1], 16384).total)
    colour = style.colours([name for name, _ in ordered])
    lengths = np.geomspace(8192, 262144, 41)
    for name, shape in ordered:
        for density, line in ((1.0, "-"), (SPARSE_DENSITY, "--")):
            cost = [prefill_flops(shape, round(n), density=density, formula=Formula.AUDITED).total for n in lengths]
            text = f"{style.short_model(name)}, {'dense' if density == 1 else '20×'}"
            left.plot(lengths, cost, line, color=colour[name], label=text)
    _token_axis(left)
    left.set_yscale("log")
    left.set_ylabel("operations of one prefill (audited formula)")
    left.legend(fontsize=7)
    _break_even_panel(right, ordered, lengths, colour)
    return figure


def _break_even_panel(axes: Any, ordered: list[tuple[str, ModelShape]], lengths: Any, colour: dict[str, str]) -> None:
    for (small, small_shape), (large, large_shape) in pairwise(ordered):
        batches = [
            break_even_batch(small_shape, large_shape, round(n), density=SPARSE_DENSITY, method=BREAK_EVEN_QUEST)
            for n in lengths
        ]
        drawn = [float("nan") if b is None else b for b in batches]
        axes.plot(lengths, drawn, color=colour[large], label=f"{style.short_model(small)} → {style.short_model(large)}")
    _token_axis(axes)
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100, 200], labels=["1", "2", "5", "10", "20", "50", "100", "200"])
    axes.set_ylabel("requests in a batch")
    axes.set_title("Quest at 20×, index included: larger model cheaper above the line", fontsize=9, loc="left")
    if len(ordered) > 1:
        axes.legend()


def _token_axis(axes: Any) -> None:
    ticks = [8192, 16384, 32768, 65536, 131072, 262144]
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[style.tokens(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("prompt length, tokens")
