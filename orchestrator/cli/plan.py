"""`frontier plan`: what a campaign will take, before a GPU is spent."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.domain.plan import CampaignPlan, EnginePlan

GpusOption = Annotated[
    str, typer.Option("--gpus", metavar="FLEET", help="Fleet: NODESxGPUSxTYPE, joined by commas; 8xH100 is one node.")
]


def register(app: typer.Typer) -> None:
    app.command("plan", epilog="Example: frontier plan examples/sparse_frontier_v1.yaml --gpus 8x8xH100")(plan_command)


def plan_command(
    spec: Annotated[Path, typer.Argument(help="Campaign file.")],
    gpus: GpusOption = "8xH100",
    price: Annotated[float | None, typer.Option(min=0, help="Price of a GPU-hour, for the cost line.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast cells, samples, tokens, shards, engine loads, GPU-hours, wall clock and memory. Needs no GPU."""
    from orchestrator.domain.absent_data import plannable
    from orchestrator.domain.fleet import parse_fleet
    from orchestrator.domain.plan import plan_campaign
    from orchestrator.domain.spec_file import cells_of, load_spec
    from orchestrator.models.resolve import describe_model

    if price is not None and not isfinite(price):
        raise UserError(f"--price is {price}; it must be a finite number")
    fleet = parse_fleet(gpus)
    known = plannable(load_spec(spec))
    campaign = known.spec
    plan = plan_campaign(
        campaign.name,
        cells_of(campaign, spec, describe_model),
        fleet,
        shard_samples=campaign.shard_samples,
        paired=campaign.pair_methods,
        gpu_hours_budget=campaign.gpu_hours,
        warnings=known.warnings,
    )
    if as_json:
        typer.echo(json.dumps(plan_record(plan, price), indent=1))
    else:
        _show(plan, price)
        typer.echo(f"next: frontier run {spec}")


def plan_record(plan: CampaignPlan, price: float | None = None) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "campaign": plan.name,
        "fleet": str(plan.fleet),
        "num_gpus": plan.fleet.num_gpus,
        "num_cells": plan.num_cells,
        "num_samples": plan.num_samples,
        "num_shards": plan.num_shards,
        "prompt_tokens": plan.prompt_tokens,
        "output_tokens": round(plan.output_tokens),
        "gpu_hours": round(plan.gpu_hours, 3),
        "load_gpu_hours": round(plan.load_gpu_hours, 3),
        "pairing_saves_gpu_hours": round(plan.pairing_saves_gpu_hours, 3),
        "cost": None if price is None else round((plan.gpu_hours + plan.load_gpu_hours) * price, 2),
        "wall_seconds": round(plan.eta.seconds, 1),
        "wall_seconds_low": round(plan.eta.low_seconds, 1),
        "wall_seconds_high": round(plan.eta.high_seconds, 1),
        "engine_loads": plan.num_loads,
        "longest_shard_seconds": round(plan.longest_shard_seconds, 1),
        "fits": plan.fits,
        "engines": [_engine_record(engine) for engine in plan.engines],
        "warnings": list(plan.warnings),
    }


def _engine_record(engine: EnginePlan) -> dict[str, Any]:
    kind = engine.kind
    return {
        "engine": kind.key,
        "model": kind.model_name,
        "tensor_parallel": kind.engine.tensor_parallel,
        "pipeline_parallel": kind.engine.pipeline_parallel,
        "nodes_per_engine": kind.engine.num_nodes,
        "max_model_len": kind.engine.max_model_len,
        "num_cells": engine.num_cells,
        "num_samples": engine.num_samples,
        "num_shards": engine.num_shards,
        "gpu_hours": round(engine.gpu_hours, 3),
        "loads": engine.num_engines,
        "load_seconds": round(kind.load_seconds, 1),
        "memory": {
            "fits": kind.fits,
            "verdict": kind.split_problem or kind.memory.verdict,
            "weight_bytes": kind.memory.weight_bytes,
            "activation_bytes": kind.memory.activation_bytes,
            "kv_bytes": kind.memory.kv_bytes,
            "kv_capacity_tokens": kind.memory.kv_capacity_tokens,
            "requests_at_full_length": round(kind.memory.requests_at_full_length, 2),
        },
    }


def _show(plan: CampaignPlan, price: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{plan.name} on {plan.fleet}", title_justify="left", box=None, pad_edge=False)
    for heading in (
        "model",
        "TP",
        "context",
        "cells",
        "shards",
        "GPU-hours",
        "loads",
        "weights",
        "KV tokens",
        "at once",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    table.add_column("fits")
    for engine in plan.engines:
        table.add_row(*_row(engine))
    Console(width=max(120, Console().width)).print(table)
    for line in _summary(plan, price):
        typer.echo(line)
    for warning in plan.warnings:
        typer.secho(f"warning: {warning}", fg="yellow")


def _row(engine: EnginePlan) -> list[str]:
    kind, memory = engine.kind, engine.kind.memory
    return [
        kind.model_name,
        str(kind.gpus),
        f"{kind.engine.max_model_len:,}",
        f"{engine.num_cells:,}",
        f"{engine.num_shards:,}",
        f"{engine.gpu_hours:,.1f}",
        str(engine.num_engines),
        f"{memory.weight_bytes / 1024**3:.1f} GiB",
        f"{memory.kv_capacity_tokens:,}",
        f"{memory.requests_at_full_length:.1f}",
        "yes" if kind.fits else "NO",
    ]


def _summary(plan: CampaignPlan, price: float | None) -> list[str]:
    eta = plan.eta
    lines = [
        f"{plan.num_cells:,} cells, {plan.num_samples:,} samples in {plan.num_shards:,} shards, "
        f"{plan.prompt_tokens / 1e9:,.2f} G prompt tokens, {plan.output_tokens / 1e6:,.1f} M output tokens",
        f"GPU-hours: {plan.gpu_hours:,.1f} of work and {plan.load_gpu_hours:,.1f} for {plan.num_loads} engine loads",
        f"wall clock: {_hours(eta.seconds)} on {plan.fleet.num_gpus} GPUs "
        f"(90 %: {_hours(eta.low_seconds)} to {_hours(eta.high_seconds)}; narrows as the campaign runs)",
    ]
    if plan.pairing_saves_gpu_hours:
        lines.append(
            "decode-only methods that find their prompt's dense prefill in the cache "
            f"save up to {plan.pairing_saves_gpu_hours:,.1f} GPU-hours of it"
        )
    if price is not None:
        lines.append(f"cost: {(plan.gpu_hours + plan.load_gpu_hours) * price:,.2f} at {price:g} a GPU-hour")
    return lines


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
