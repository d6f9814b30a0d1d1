"""Figures of how the campaign ran: completeness, throughput, measured speed, failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.plots import style


def completeness_map(scores: pd.DataFrame, tasks: list[str], methods: list[str]) -> Any:
    """Share of planned samples that are recorded: tasks × methods, one panel a length."""
    lengths = sorted(scores["length_tokens"].unique())
    names = [m for m in ("dense", *methods) if m in set(scores["method"])]
    figure, panels = style.grid_of_axes(len(lengths), 2, panel=(6.4, 1.3 + 0.28 * len(tasks)))
    image = None
    for axes, length in zip(panels, lengths, strict=True):
        rows = scores[scores["length_tokens"] == length]
        sums = rows.groupby(["task", "method"])[["num_recorded", "num_planned"]].sum()
        share = 100 * (sums["num_recorded"] / sums["num_planned"]).unstack().reindex(index=tasks, columns=names)
        image = _share_panel(axes, share, f"{style.tokens(length)} tokens")
    if image is not None:
        figure.colorbar(image, ax=panels, shrink=0.6, label="recorded samples, % of planned")
    return figure


def _share_panel(axes: Any, share: pd.DataFrame, title: str, top: float = 100.0) -> Any:
    values = share.to_numpy(dtype=np.float64)
    image = axes.imshow(values, cmap=style.AMOUNT_MAP, vmin=0, vmax=top, aspect="auto")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xticks(
        range(len(share.columns)), labels=[style.plain(c, 22) for c in share.columns], rotation=30, ha="right"
    )
    axes.set_yticks(range(len(share.index)), labels=[style.plain(t) for t in share.index])
    axes.grid(False)
    axes.set_facecolor(style.NO_DATA)
    texts = [["–" if np.isnan(v) else f"{v:.0f}" if v >= 10 or v == 0 else f"{v:.1f}" for v in row] for row in values]
    style.annotate_cells(axes, values, texts, dark=np.nan_to_num(values) < 0.55 * top, size=7.5)
    return image


def measured_speed(table: pd.DataFrame, methods: list[str]) -> Any:
    """Dense time ÷ sparse time, same model and length: time to first token and time for each output token."""
    figure = style.new_figure(11.2, 4.0)
    columns = (("ttft_speedup", "time to first token"), ("decode_speedup", "time per output token"))
    colour, marker = style.colours(methods), style.markers(methods)
    for axes, (column, title) in zip(figure.subplots(1, 2), columns, strict=True):
        for method in methods:
            line = _by_level(table[table["method"] == method], column)
            axes.plot(
                line["compression"], line[column], color=colour[method], marker=marker[method],
                label=style.plain(method),
            )  # fmt: skip
        axes.axhline(1, color=style.INK, linewidth=0.8)
        style.compression_axis(axes, list(table["compression"].dropna()))
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.9), max(high, 1.1))
        axes.set_xlabel("compression (dense ÷ computed)")
        axes.set_ylabel("speed-up over dense (×)")
        axes.set_title(title, loc="left", fontweight="bold")
    style.shared_legend(figure, figure.axes[0])
    return figure


def _by_level(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Median speed-up at each compression; neighbours within a twentieth are one level: lengths round budgets apart."""
    known = rows.dropna(subset=["compression", column]).sort_values("compression")
    level = (known["compression"] > 1.05 * known["compression"].shift()).cumsum()
    return known.groupby(level.rename("level"))[["compression", column]].median()


def throughput_over_time(outcomes: pd.DataFrame) -> Any:
    """Samples and tokens recorded in each slice of the campaign's time; None when times are not known."""
    at = outcomes["recorded_at"].dropna().to_numpy(np.float64) if "recorded_at" in outcomes.columns else np.zeros(0)
    if len(at) < 2 or np.ptp(at) <= 0:
        return None
    known = outcomes.dropna(subset=["recorded_at"])
    edges = np.linspace(at.min(), at.max(), 61)
    width = (edges[1] - edges[0]) / 60
    hours = (edges[:-1] - edges[0]) / 3600
    unit, scale = ("hours", 1.0) if hours[-1] >= 1 else ("minutes", 60.0)
    figure = style.new_figure(11.2, 3.2)
    series = (("samples per minute", None), ("output tokens per minute", "num_output_tokens"))
    for axes, (label, column) in zip(figure.subplots(1, 2), series, strict=True):
        weights = None if column is None else known[column].fillna(0).to_numpy(np.float64)
        counts = np.histogram(at, edges, weights=weights)[0] / width
        axes.fill_between(hours * scale, counts, step="post", color=style.PALETTE[0], alpha=0.3, linewidth=0)
        axes.step(hours * scale, counts, where="post", color=style.PALETTE[0])
        axes.set_xlabel(f"{unit} since the first outcome")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    return figure


def failures_figure(kinds: pd.Series, scores: pd.DataFrame, tasks: list[str], methods: list[str]) -> Any:
    """Left: failed samples by kind. Right: unanswered share of recorded samples, tasks × methods."""
    figure = style.new_figure(11.2, max(3.2, 1.4 + 0.3 * len(tasks)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    names = [m for m in ("dense", *methods) if m in set(scores["method"])]
    sums = scores.groupby(["task", "method"])[["num_unanswered", "num_recorded"]].sum()
    share = 100 * (sums["num_unanswered"] / sums["num_recorded"]).unstack().reindex(index=tasks, columns=names)
    left.barh([style.plain(k) for k in kinds.index], kinds.to_numpy(), color=style.PALETTE[1], height=0.6)
    left.set_ylim(max(4, len(kinds)) - 0.5, -0.5)
    left.set_xlabel("samples")
    left.set_title("failed samples by kind" if len(kinds) else "no failed samples", loc="left", fontweight="bold")
    top = max(5.0, float(np.nanmax(share.to_numpy())) if share.notna().any(axis=None) else 5.0)
    image = _share_panel(right, share, "unanswered, % of recorded samples", top)
    figure.colorbar(image, ax=right, label="%")
    return figure
