"""Figures of the scaling law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.plots import style
from orchestrator.analysis.scaling_law import LawFit, law_design


def law_figure(fits: Mapping[str, tuple[pd.DataFrame, LawFit]]) -> Any:
    """Predicted against observed accuracy, one panel a method, one colour a task; the diagonal is perfect."""
    figure, panels = style.grid_of_axes(len(fits), 4, panel=(3.5, 3.3), sharex=True, sharey=True)
    tasks = sorted({task for points, _ in fits.values() for task in points["task"]})
    colour, marker = style.colours(tasks), style.markers(tasks)
    for axes, (method, (points, fit)) in zip(panels, fits.items(), strict=True):
        _law_panel(axes, points, fit, colour, marker)
        axes.set_title(f"{style.plain(method)}: R² = {fit.fitted.r_squared:.2f}", loc="left", fontweight="bold")
        axes.set_xlabel("observed score (0–1)")
    for axes in panels[::4]:
        axes.set_ylabel("score predicted by the law (0–1)")
    if panels:
        style.shared_legend(figure, panels[0], columns=9, marker_scale=2.5)
    return figure


def _law_panel(axes: Any, points: pd.DataFrame, fit: LawFit, colour: dict[str, str], marker: dict[str, str]) -> None:
    tasks = [fit.reference_task, *(n.removeprefix("task:") for n in fit.names if n.startswith("task:"))]
    predicted = 1 / (1 + np.exp(-(law_design(points, tasks).matrix @ fit.values)))
    axes.plot([0, 1], [0, 1], color=style.INK, linewidth=0.8)
    for task in sorted(tasks):
        mask = (points["task"] == task).to_numpy()
        axes.scatter(
            points["mean"][mask], predicted[mask], s=9, color=colour[task], marker=marker[task], alpha=0.55,
            linewidths=0, rasterized=True, label=style.plain(task),
        )  # fmt: skip
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)


def coefficient_figure(fits: Mapping[str, LawFit]) -> Any:
    """α, β and γ of each method with their intervals."""
    figure = style.new_figure(10.5, 1.3 + 0.32 * len(fits))
    names = (("alpha", "α: model size (log N)"), ("beta", "β: length (log L)"), ("gamma", "γ: compression (log C)"))
    for axes, (name, title) in zip(figure.subplots(1, 3, sharey=True), names, strict=True):
        for row, fit in enumerate(fits.values()):
            i = fit.names.index(name)
            axes.plot([fit.low[i], fit.high[i]], [row, row], color=style.PALETTE[0])
            axes.plot(fit.values[i], row, "o", color=style.PALETTE[0])
        axes.axvline(0, color=style.INK, linewidth=0.8)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("change of the logit per e-fold")
        axes.set_yticks(range(len(fits)), labels=[style.plain(m) for m in fits])
        axes.invert_yaxis() if name == "alpha" else None
    return figure
