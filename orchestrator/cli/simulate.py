"""`frontier simulate`: a campaign through the production scheduler, on simulated nodes, before a GPU is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import print_json, print_table
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.scheduler.simulation.simulate import SimulationResult

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("simulate", epilog="Example: frontier simulate examples/sparse_frontier_v1.yaml --mtbf 2h")(
        simulate_command
    )


def simulate_command(
    spec: Annotated[Path, typer.Argument(help="Campaign file.", metavar="SPEC")],
    nodes: Annotated[str, typer.Option(help="Fleet: NODESxGPUSxTYPE; a bare number is nodes of 8 H100.")] = "8",
    mtbf: Annotated[str | None, typer.Option(help="Mean time between losses of one node: 2h, 90m.")] = None,
    away: Annotated[str, typer.Option(help="A lost node is back after this long.")] = "10m",
    load_scale: Annotated[float, typer.Option(min=0.01, max=1000, help="On the predicted engine loads.")] = 1.0,
    noise: Annotated[float, typer.Option(min=0, max=2, help="Error of the estimates, sigma of the log.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of faults and errors.")] = 0,
    fold: Annotated[
        int | None,
        typer.Option(min=1, help="Samples simulated as one.", show_default="1 to 10, by the duration"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a campaign with the production loop; compare with static splitting and first in, first out."""
    from orchestrator.domain.absent_data import plannable
    from orchestrator.domain.fleet import parse_fleet
    from orchestrator.domain.spec_file import cells_of, load_spec
    from orchestrator.models.resolve import describe_model
    from orchestrator.scheduler.simulation.simulate import Scenario, Simulation

    scenario = Scenario(
        mtbf_seconds=None if mtbf is None else parse_duration(mtbf, "--mtbf"),
        away_seconds=parse_duration(away, "--away"),
        load_scale=load_scale,
        noise=noise,
        seed=seed,
        fold=fold,
    )
    fleet = parse_fleet(f"{nodes}x8xH100" if nodes.isdecimal() else nodes)
    campaign = plannable(load_spec(spec)).spec
    simulation = Simulation(
        cells_of(campaign, spec, describe_model), fleet, scenario, shard_samples=campaign.shard_samples
    )
    result = simulation.run()
    record = simulation_record(campaign.name, str(fleet), result, simulation.baselines())
    if as_json:
        print_json(record)
    else:
        _show(record)


def parse_duration(text: str, option: str) -> float:
    """Seconds in `90`, `90s`, `15m`, `2h`, `1d`. Raises UserError naming the option."""
    number, unit = (text[:-1], text[-1]) if text[-1:].lower() in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit.lower()]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise UserError(f"{option} is {text!r}; it must be a time such as 90s, 15m, 2h or 1d")
    return seconds


def simulation_record(name: str, fleet: str, result: SimulationResult, baselines: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON; ratios are makespan over the lower bound of the same faults."""
    bound = result.lower_bound_seconds
    account = result.account
    return {
        "campaign": name,
        "fleet": fleet,
        "lower_bound_seconds": round(bound, 1),
        "makespan_seconds": round(result.makespan_seconds, 1),
        "ratio": round(result.ratio, 4),
        "gpu_busy_share": round(result.busy_share, 4),
        "load_share": round(result.load_share, 4),
        "lost_share": round(max(0.0, result.lost_share), 4),
        "engine_loads": account.num_loads,
        "least_loads": result.least_loads,
        "outages": account.num_outages,
        "engines_lost": account.num_forced,
        "num_shards": result.num_shards,
        "rounds": result.num_rounds,
        "baselines": {
            policy: {
                "makespan_seconds": round(found.makespan_seconds, 1),
                "ratio": round(found.makespan_seconds / bound, 4),
                "engine_loads": found.num_loads,
            }
            for policy, found in baselines.items()
        },
    }


def _show(record: dict[str, Any]) -> None:
    rows = [["frontier", record["makespan_seconds"], record["ratio"], record["engine_loads"]]]
    for policy, found in record["baselines"].items():
        rows.append([policy, found["makespan_seconds"], found["ratio"], found["engine_loads"]])
    print_table(
        ["policy", "makespan", "/ lower bound", "loads"],
        [[name, f"{seconds / 3600:,.2f} h", f"{ratio:.4f}", str(loads)] for name, seconds, ratio, loads in rows],
        right=["makespan", "/ lower bound", "loads"],
    )
    typer.echo(
        f"lower bound {record['lower_bound_seconds'] / 3600:,.2f} h on {record['fleet']}; GPUs busy "
        f"{record['gpu_busy_share']:.2%}, loading {record['load_share']:.2%}, work lost {record['lost_share']:.2%}"
    )
    typer.echo(
        f"{record['num_shards']:,} shards; {record['outages']} node losses took {record['engines_lost']} engines; "
        f"at least {record['least_loads']} loads were needed"
    )
