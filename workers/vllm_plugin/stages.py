"""Engines whose layers are cut into pipeline stages: what a later stage needs, and one report from all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workers.vllm_plugin.statistics import Report, merge_reports


def join_reports(reports: Sequence[Mapping[str, Any] | None], layers: Sequence[int]) -> Report | None:
    """`reports` by rank, stage after stage; `layers`: how many each stage has. Stages stand for their own layers, the
    ranks of one stage for their own heads."""
    ranks = len(reports) // len(layers)
    merged = [merge_reports(reports[i * ranks : (i + 1) * ranks]) for i in range(len(layers))]
    known = [(report, number) for report, number in zip(merged, layers, strict=True) if report is not None]
    if not known:
        return None
    weights = sum(number for _, number in known)
    return Report(
        density_prefill=_chain(known, [report.density_prefill for report, _ in known]),
        density_decode=sum(report.density_decode * number for report, number in known) / weights,
        kv_kept=_chain(known, [report.kv_kept for report, _ in known]),
        num_restarts=max(report.num_restarts for report, _ in known),
        peak_tokens=max(report.peak_tokens for report, _ in known),
    )


def _chain(known: Sequence[tuple[Report, int]], parts: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The stages' layers in order; a stage whose layers are all dense says nothing of them."""
    if not any(parts):
        return ()
    return tuple(value for part, (_, number) in zip(parts, known, strict=True) for value in part or (1.0,) * number)


def prepare_stage(runner: Any) -> None:
    """Make the buffers in which a later stage receives hidden states. vLLM makes them in its warm-up run, which its CPU
    worker leaves out when it neither compiles nor measures memory."""
    from vllm.distributed.parallel_state import get_pp_group

    if get_pp_group().is_first_rank or getattr(runner, "intermediate_tensors", True) is not None:
        return
    runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
        batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
    )
