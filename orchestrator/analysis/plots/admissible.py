"""Figures of the largest admissible compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.plots import style


def admissible_map(table: pd.DataFrame, tasks: list[str], methods: list[str]) -> Any:
    """Methods × tasks, one panel a length: mean over models of the admissible compression; `–` means no statement."""
    lengths = sorted(table["length_tokens"].unique())
    figure, panels = style.grid_of_axes(len(lengths), 2, panel=(6.6, max(2.6, 1.35 + 0.32 * len(methods))))
    top = max(2.0, float(table["cap"].max()) if len(table) else 2.0)
    image = None
    for axes, length in zip(panels, lengths, strict=True):
        rows = table[table["length_tokens"] == length]
        values = rows.pivot_table(index="method", columns="task", values="admissible", aggfunc="mean")
        image = _panel(axes, values.reindex(index=methods, columns=tasks), top, f"{style.tokens(length)} tokens")
    if image is not None:
        bar = figure.colorbar(image, ax=panels, shrink=0.6, label="largest admissible compression, ×")
        ticks = [t for t in (1, 2, 5, 10, 20, 50) if t <= top]
        bar.set_ticks([float(np.log(t)) for t in ticks], labels=[f"{t}×" for t in ticks])
    return figure


def _panel(axes: Any, table: pd.DataFrame, top: float, title: str) -> Any:
    values = table.to_numpy(dtype=np.float64)
    image = axes.imshow(np.log(values), cmap=style.AMOUNT_MAP, vmin=0, vmax=np.log(top), aspect="auto")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xticks(range(len(table.columns)), labels=[style.plain(t) for t in table.columns], rotation=30, ha="right")
    axes.set_yticks(range(len(table.index)), labels=[style.plain(m) for m in table.index])
    axes.grid(False)
    axes.set_facecolor(style.NO_DATA)
    texts = [["–" if np.isnan(v) else f"{v:.3g}" for v in row] for row in values]
    style.annotate_cells(axes, values, texts, dark=np.nan_to_num(values, nan=top) < top**0.55, size=8)
    return image


def admissible_by_length(table: pd.DataFrame, methods: list[str]) -> Any:
    """One panel a method: mean over tasks against length, one line a model; small dots are single tasks."""
    figure, panels = style.grid_of_axes(len(methods), 4, panel=(3.3, 2.8), sharey=True)
    models = list(dict.fromkeys(table["model"]))
    colour, marker = style.colours(models), style.markers(models)
    lengths = sorted(table["length_tokens"].unique())
    for axes, method in zip(panels, methods, strict=True):
        for number, model in enumerate(models):
            rows = table[(table["method"] == method) & (table["model"] == model) & table["admissible"].notna()]
            mean = rows.groupby("length_tokens")["admissible"].mean()
            shift = 1 + 0.05 * (number - (len(models) - 1) / 2)
            axes.plot(rows["length_tokens"] * shift, rows["admissible"], ".", color=colour[model], ms=3, alpha=0.35)
            axes.plot(
                mean.index * shift, mean, color=colour[model], marker=marker[model], label=style.short_model(model)
            )
        axes.set_title(style.plain(method), loc="left", fontweight="bold")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(lengths, labels=[style.tokens(v) for v in lengths])
        axes.set_yticks([1, 2, 5, 10, 20], labels=["1×", "2×", "5×", "10×", "20×"])
        axes.minorticks_off()
        axes.set_xlabel("prompt length, tokens")
    for axes in panels[::4]:
        axes.set_ylabel("admissible compression")
    style.shared_legend(figure, panels[0])
    return figure
