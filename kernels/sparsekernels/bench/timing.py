# mypy: disable-error-code="no-untyped-call"
"""Times on the device, by its own events."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def median_ms(call: Callable[[], Any], repeat: int = 7, warm: int = 2) -> float:
    """Median milliseconds of a call that launches work."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(repeat):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return float(median(times))


def graph_us(calls: list[Callable[[], Any]], repeat: int = 20) -> float:
    """Median microseconds of one call when all calls (same work on different memory) replay in one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return median_ms(graph.replay, repeat, 3) * 1000 / len(calls)


def back_to_back_ms(call: Callable[[], Any], calls: int = 3, most: int = 14, repeat: int = 3) -> float:
    """Median milliseconds of one call when several are issued without waiting, as the layers of a model are.

    At least `calls`, more (to `most`) where a call is short: a model has tens of layers, and only the first waits for
    the host.
    """
    once = median_ms(call, 1, 1)
    number = max(calls, min(most, int(60 / once)))

    def many() -> None:
        for _ in range(number):
            call()

    return median_ms(many, repeat, 0) / number
