"""The bench's verdicts name exactly the lines that miss a bar."""

from __future__ import annotations

from typing import Any

import pytest
from sparsekernels.bench.bars import BARS, verdicts


def prefill(method: str = "block_sparse", length: int = 65536, **changes: Any) -> dict[str, Any]:
    line = dict(length=length, inputs="random", method=method, executor="flash", parameters={"block_size": 64},
                density=0.19, dense_ms=50.0, total_ms=11.0, index_ms=1.0)  # fmt: skip
    line |= changes
    return line | {"f": line["dense_ms"] * line["density"] / line["total_ms"]}


def decode(method: str = "quest", **changes: Any) -> dict[str, Any]:
    executor = "cuda" if method == "quest" else "triton"
    line = dict(method=method, executor=executor, length=32768, batch=8, budget=1024, dense_us=100.0, select_us=9.0,
                total_us=20.0, bound_us=11.0)  # fmt: skip
    return line | changes


def said(lines: list[dict[str, Any]], part: str) -> str:
    (text,) = [text for text in verdicts(lines) if part in text]
    return text


def test_nothing_measured_leaves_every_bar_open() -> None:
    texts = list(verdicts([]))
    assert len(texts) == len(BARS)
    assert all(text.startswith("open") and text.endswith("not measured") for text in texts)


def test_lines_at_the_bar_hold_and_others_are_named() -> None:
    good, bad = prefill(), prefill(total_ms=12.5, inputs="clustered")
    assert said([good], "f of block_sparse").startswith("holds")
    text = said([good, bad], "f of block_sparse")
    assert text.startswith("missed")
    assert "1 of 2, worst 0.760" in text
    assert text.endswith("block_sparse 64 65536 clustered 0.760")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (prefill(length=32768, total_ms=16.0), "below 64k"),
        (prefill("vertical_slash", total_ms=15.0), "f of vertical_slash"),
        (prefill("flexprefill", total_ms=15.0), "f of flexprefill"),
        (prefill(length=131072, index_ms=2.0), "index ÷ total"),
        (prefill(density=0.5, total_ms=51.0), "sparse ÷ dense"),
        (decode(total_us=22.1), "Quest"),
        (decode("kept", dense_us=17.9), "kept tokens"),
    ],
)
def test_each_bar_can_be_missed(line: dict[str, Any], part: str) -> None:
    assert said([line], part).startswith("missed")


def test_lines_that_a_bar_does_not_speak_of_are_left_out() -> None:
    others = [prefill(executor="triton", total_ms=90.0), prefill(density=0.7, total_ms=90.0), decode(executor="flash")]
    assert all(text.startswith("open") for text in verdicts(others))
    assert said([decode(batch=1, total_us=90.0)], "Quest").startswith("open")
