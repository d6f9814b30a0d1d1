"""What the kernels must reach on an H200, and which measured lines do.

f is dense time × density ÷ sparse time, index included. A bar holds when every line it speaks of reaches it; a bar of
which nothing was measured is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Line = Mapping[str, Any]
"""A PrefillCost or a DecodeCost as a mapping, a prefill line with its f."""
LONG, SPARSE = 65536, 0.2


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that lines of one kind must reach."""

    text: str
    speaks_of: Callable[[Line], bool]
    figure: Callable[[Line], float]
    least: float | None = None
    most: float | None = None

    def reached(self, line: Line) -> bool:
        """Whether the line's figure is at the bar or better."""
        figure = self.figure(line)
        return (self.least is None or figure >= self.least) and (self.most is None or figure <= self.most)


def _sparse_prefill(line: Line) -> bool:
    return line.get("executor") == "flash" and line.get("density", 1.0) <= SPARSE


def _long(method: str) -> Callable[[Line], bool]:
    return lambda line: _sparse_prefill(line) and line["length"] >= LONG and line["method"] == method


def _decode(method: str, executor: str) -> Callable[[Line], bool]:
    return lambda line: "bound_us" in line and line["method"] == method and line["executor"] == executor


def _f(line: Line) -> float:
    return float(line["f"])


BARS = (
    Bar("prefill from 64k, density ≤ .2: f of block_sparse", _long("block_sparse"), _f, least=0.80),
    Bar("prefill from 64k, density ≤ .2: f of vertical_slash", _long("vertical_slash"), _f, least=0.65),
    Bar("prefill from 64k, density ≤ .2: f of flexprefill", _long("flexprefill"), _f, least=0.65),
    Bar("prefill below 64k, density ≤ .2: f", lambda x: _sparse_prefill(x) and x["length"] < LONG, _f, least=0.60),
    Bar(
        "prefill at 128k: index ÷ total",
        lambda line: (
            line.get("executor") == "flash" and line.get("index_ms") is not None and line["length"] >= 2 * LONG
        ),
        lambda line: float(line["index_ms"] / line["total_ms"]),
        most=0.15,
    ),
    Bar(
        "prefill, density < .6: sparse ÷ dense time",
        lambda line: line.get("executor") == "flash" and line.get("density", 1.0) < 0.6,
        lambda line: float(line["total_ms"] / line["dense_ms"]),
        most=1.0,
    ),
    Bar(
        "decode in a CUDA graph, batch 8 to 32: Quest's select + attend, in one launch, ÷ bytes bound",
        lambda line: _decode("quest", "cuda")(line) and 8 <= line["batch"] <= 32,
        lambda line: float(line["total_us"] / line["bound_us"]),
        most=2.0,
    ),
    Bar(
        "decode over kept tokens: dense at the kept length ÷ ours",
        _decode("kept", "triton"),
        lambda line: float(line["dense_us"] / line["total_us"]),
        least=0.9,
    ),
)


def verdicts(lines: Iterable[Line]) -> Iterator[str]:
    """One line of text a bar: how many lines reach it, the worst figure, and which lines miss it."""
    measured = list(lines)
    for bar in BARS:
        spoken = [line for line in measured if bar.speaks_of(line)]
        limit = f"≥ {bar.least}" if bar.least is not None else f"≤ {bar.most}"
        if not spoken:
            yield f"open    {bar.text} {limit}: not measured"
            continue
        missed = [line for line in spoken if not bar.reached(line)]
        figures = [bar.figure(line) for line in spoken]
        worst = min(figures) if bar.least is not None else max(figures)
        word = "missed" if missed else "holds "
        text = f"{word}  {bar.text} {limit}: {len(spoken) - len(missed)} of {len(spoken)}, worst {worst:.3f}"
        yield text + "".join(f"; {_where(line)} {bar.figure(line):.3f}" for line in missed)


def _where(line: Line) -> str:
    words = [line["length"], line.get("inputs"), line.get("batch") and f"batch {line['batch']}", line.get("budget")]
    block = line.get("parameters", {}).get("block_size")
    return " ".join(str(word) for word in [line["method"], block, *words] if word is not None)
