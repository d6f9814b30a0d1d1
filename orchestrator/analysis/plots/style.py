"""How every figure looks: colours that colour-blind readers can tell apart, one marker a method, plain labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INK = "#222222"
GRID = "#dddddd"
DENSE_COLOUR = "#555555"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a4e9f", "#8c6d31", "#000000")
"""Okabe and Ito's colours, ordered for contrast on white, with three more of other lightness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LOSS_MAP = "RdBu"
"""Diverging: red is loss, blue is gain, white is none; distinguishable under all common colour deficiencies."""
AMOUNT_MAP = "cividis"
NO_DATA = "#ececec"

RC: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "pdf.fonttype": 3,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Everything drawn inside follows RC; nothing outside is touched."""
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, laid out so that labels never overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def grid_of_axes(panels: int, columns: int, *, panel: tuple[float, float], **shared: Any) -> tuple[Any, list[Any]]:
    """A figure with `panels` axes in rows of `columns`, each of `panel` inches; unused places stay empty."""
    columns = max(1, min(columns, panels))
    rows = max(1, -(-panels // columns))
    figure = new_figure(panel[0] * columns, panel[1] * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, axes[:panels]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, in order; dense is always grey."""
    others = [name for name in names if name != "dense"]
    chosen = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}
    return {**chosen, "dense": DENSE_COLOUR}


def markers(names: Iterable[str]) -> dict[str, str]:
    """A marker for each name, in order; dense is always a star."""
    others = [name for name in names if name != "dense"]
    chosen = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(others)}
    return {**chosen, "dense": "*"}


def plain(text: object, limit: int = 40) -> str:
    """Text for a figure: cut to `limit` characters, and never read as a formula."""
    string = "".join(c if c.isprintable() else " " for c in str(text))
    string = string if len(string) <= limit else string[: limit - 1] + "…"
    return string.replace("\\", "/").replace("$", r"\$")


def short_model(name: str) -> str:
    """The model's last part without `Instruct`, which all of them share."""
    return plain(name.rstrip("/").rsplit("/", 1)[-1].removesuffix("-Instruct").removesuffix("-it"), 28)


def tokens(length: float) -> str:
    """`16k` for 16384, `128k` for 128000: thousands as people say them."""
    if length < 1000:
        return f"{length:g}"
    unit = 1024 if length % 1024 == 0 and length % 1000 else 1000
    return f"{length / unit:.4g}k"


def compression_axis(axes: Any, values: Sequence[float]) -> None:
    """Logarithmic compression with a few plain ticks, `5×`."""
    axes.set_xscale("log")
    top = max([1.0, *values])
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if t <= top * 1.05]
    axes.set_xticks(ticks, labels=[f"{t}×" for t in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.95, top * 1.1)


def log_cost_axis(axes: Any) -> None:
    """Logarithmic with a handful of ticks written plainly, whatever the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    wide = high / low > 60
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0) if high / low > 4 else range(1, 10))
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def plain_number(value: float) -> str:
    """`0.05`, `20`, `3e17`: short, without a superscript."""
    return (
        f"{value:g}"
        if 1e-3 <= abs(value) < 1e5
        else f"{value:.0e}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")
    )


def shared_legend(figure: Any, axes: Any, *, columns: int = 8, marker_scale: float = 1.0) -> None:
    """One legend above the panels, from the first panel's labels."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        place = {"loc": "outside upper center", "ncols": min(columns, len(handles))}
        figure.legend(handles, labels, markerscale=marker_scale, **place)


def annotate_cells(axes: Any, values: Any, texts: Sequence[Sequence[str]], *, dark: Any, size: float = 6.5) -> None:
    """Write `texts` into the cells of an image; white where `dark` is True."""
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = "white" if dark[row][column] else INK
            if text:
                label = axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
                label.set_in_layout(False)
