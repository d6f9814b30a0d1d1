"""Quality figures: heat maps of the loss, accuracy against compression, sensitivity, length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.plots import style

ACCURACY_COLUMNS = 3


def _drawn(tasks: list[str], rows: pd.DataFrame) -> list[str]:
    """The tasks that have rows, in order; all of them where none has, so that an empty figure still names them."""
    return [task for task in tasks if task in set(rows["task"])] or tasks


def loss_heat_map(comparisons: pd.DataFrame, length: int, tasks: list[str], methods: list[str]) -> Any:
    """Tasks × compression, one panel a method: mean over models of sparse − dense, in points (100 = full score)."""
    rows = comparisons[comparisons["length_tokens"] == length]
    tasks = _drawn(tasks, rows)
    figure, panels = style.grid_of_axes(len(methods), 2, panel=(6.4, 0.55 + 0.3 * len(tasks)))
    limit = max(10.0, float(100 * rows["difference"].abs().quantile(0.98)) if len(rows) else 10.0)
    image = None
    for axes, method in zip(panels, methods, strict=True):
        table = rows[rows["method"] == method].pivot_table(
            index="task", columns="compression", values="difference", aggfunc="mean"
        )
        image = _heat(axes, 100 * table.reindex(tasks), limit, method)
    if image is not None:
        figure.colorbar(image, ax=panels, shrink=0.5, label="difference to dense, points of score (0–100)")
    return figure


def _heat(axes: Any, table: pd.DataFrame, limit: float, title: str) -> Any:
    values = table.to_numpy(dtype=np.float64)
    image = axes.imshow(values, cmap=style.LOSS_MAP, vmin=-limit, vmax=limit, aspect="auto")
    axes.set_title(style.plain(title), loc="left", fontweight="bold")
    axes.set_xticks(range(len(table.columns)), labels=[f"{c:.3g}×" for c in table.columns])
    axes.set_yticks(range(len(table.index)), labels=[style.plain(t) for t in table.index])
    axes.set_xlabel("compression (dense ÷ computed)")
    axes.grid(False)
    axes.set_facecolor(style.NO_DATA)
    texts = [["" if np.isnan(v) else f"{v:.0f}".replace("-0", "0").replace("-", "−") for v in row] for row in values]
    style.annotate_cells(axes, values, texts, dark=np.abs(np.nan_to_num(values)) > 0.62 * limit)
    return image


def accuracy_by_task(scores: pd.DataFrame, length: int, tasks: list[str], methods: list[str], model: str | None) -> Any:
    """One panel a task: score against compression, one line a method, with 95 % intervals; dense as a dashed line.

    `model` None averages over the models; the band then treats models as fixed.
    """
    rows = scores[(scores["length_tokens"] == length) & scores["mean"].notna()]
    if model is not None:
        rows = rows[rows["model"] == model]
    tasks = _drawn(tasks, rows)
    figure, panels = style.grid_of_axes(len(tasks), ACCURACY_COLUMNS, panel=(4.2, 2.75), sharex=True)
    colour, marker = style.colours(methods), style.markers(methods)
    for axes, task in zip(panels, tasks, strict=True):
        _accuracy_panel(axes, _common_models(rows[rows["task"] == task]), task, methods, colour, marker)
    for axes in panels[-ACCURACY_COLUMNS:]:  # There is no panel below these.
        axes.set_xlabel("compression (dense ÷ computed, log scale)")
        axes.tick_params(labelbottom=True)
    for axes in panels[::ACCURACY_COLUMNS]:
        axes.set_ylabel("score (0–1)")
    style.shared_legend(figure, panels[0])
    return figure


def _accuracy_panel(
    axes: Any, rows: pd.DataFrame, task: str, methods: list[str], colour: dict[str, str], marker: dict[str, str]
) -> None:
    axes.set_title(style.plain(task), loc="left", fontweight="bold")
    dense = rows.loc[rows["method"] == "dense", "mean"].mean()
    if not np.isnan(dense):
        axes.axhline(dense, color=style.DENSE_COLOUR, linestyle="--", label="dense", linewidth=1.2)
    for method in methods:
        line = _line(rows[rows["method"] == method])
        axes.fill_between(line.index, line["low"], line["high"], color=colour[method], alpha=0.13, linewidth=0)
        axes.plot(line.index, line["mean"], color=colour[method], marker=marker[method], label=style.plain(method))
    style.compression_axis(axes, list(rows["compression"].dropna()))
    axes.set_ylim(-0.02, 1.02)


def _common_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the models that every method of the panel has, so that lines average the same models; else all rows."""
    methods = rows.groupby("model")["method"].nunique()
    return rows[rows["model"].isin(methods[methods == methods.max()].index)]


def _line(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over models at each compression, with the interval of that mean; levels that lack a model are dropped."""
    half = (rows["high"] - rows["low"]) / 2
    groups = rows.assign(square=half**2).groupby("compression")
    out = groups.agg(mean=("mean", "mean"), count=("mean", "size"), square=("square", "sum"))
    out = out[out["count"] == out["count"].max()] if len(out) else out
    half = np.sqrt(out["square"]) / out["count"]
    return out.assign(low=(out["mean"] - half).clip(0, 1), high=(out["mean"] + half).clip(0, 1)).sort_index()


def sensitivity_map(sensitivity: pd.DataFrame, tasks: list[str], methods: list[str]) -> Any:
    """Tasks × methods: points of score lost for each doubling of the compression."""
    table = 100 * sensitivity.pivot_table(index="task", columns="method", values="loss_per_doubling").reindex(
        index=tasks, columns=methods
    )
    values = table.to_numpy(dtype=np.float64)
    figure = style.new_figure(1.9 + 1.15 * len(methods), 1.3 + 0.34 * len(tasks))
    axes = figure.subplots()
    top = max(1.0, float(np.nanmax(values)) if values.size and not np.isnan(values).all() else 1.0)
    image = axes.imshow(values, cmap=style.AMOUNT_MAP, vmin=0, vmax=top, aspect="auto")
    axes.set_xticks(range(len(methods)), labels=[style.plain(m, 22) for m in methods], rotation=20, ha="right")
    axes.set_yticks(range(len(tasks)), labels=[style.plain(t) for t in tasks])
    axes.grid(False)
    axes.set_facecolor(style.NO_DATA)
    texts = [["–" if np.isnan(v) else f"{v:.1f}" for v in row] for row in values]
    style.annotate_cells(axes, values, texts, dark=np.nan_to_num(values) < 0.55 * top, size=8)
    figure.colorbar(image, ax=axes, label="points lost per doubling of compression")
    return figure


def relative_error_by_length(errors: pd.DataFrame, methods: list[str]) -> Any:
    """One panel a method: relative error against budget, one line a length."""
    figure, panels = style.grid_of_axes(len(methods), 4, panel=(3.3, 2.7), sharey=True)
    lengths = sorted(errors["length_tokens"].unique())
    shades = _shades(len(lengths))
    for axes, method in zip(panels, methods, strict=True):
        for length, shade, marker in zip(lengths, shades, style.MARKERS, strict=False):
            line = errors[(errors["method"] == method) & (errors["length_tokens"] == length)].sort_values("compression")
            half = 1.96 * line["standard_error"]
            axes.errorbar(
                line["compression"], line["relative_error"], half, color=shade, marker=marker, elinewidth=0.8,
                label=f"{style.tokens(length)} tokens",
            )  # fmt: skip
        axes.set_title(style.plain(method), loc="left", fontweight="bold")
        style.compression_axis(axes, list(errors["compression"]))
        axes.axhline(0, color=style.INK, linewidth=0.8)
        axes.set_xlabel("compression (dense ÷ computed)")
    for axes in panels[::4]:
        axes.set_ylabel("relative error")
    style.shared_legend(figure, panels[0])
    return figure


def _shades(count: int) -> list[Any]:
    """Colours from light to dark for ordered things, never too light to see."""
    import matplotlib

    return [matplotlib.colormaps["viridis"](0.85 - 0.85 * i / max(1, count - 1)) for i in range(count)]
