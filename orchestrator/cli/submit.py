"""`frontier submit`: hand a campaign to a Ray cluster, where it runs without this shell."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, mask_password, mask_passwords, store_url
from orchestrator.cli.output import console, note, print_json
from orchestrator.errors import UserError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SUBMIT_SECONDS = 120.0
RETRY_SECONDS = 2.0
NOT_YET = ("No available agent", "RPC error: Received http2 header")
"""What a cluster says in the first seconds of its life."""
ACCEPTED = "already exists"
"""What it says to a job that it took when it was asked before, and did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A campaign on its way to a cluster."""

    job: str
    """Ray's name for it."""
    campaign: str
    address: str
    """Of the cluster's job server, an HTTP URL."""
    store: str


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("submit", epilog="Example: frontier submit campaign.yaml --address http://head:8265")(submit)


def submit(
    spec: Annotated[Path, typer.Argument(help="The campaign file; a copy is uploaded.", metavar="SPEC")],
    address: Annotated[str | None, typer.Option(help="Ray's job server; else RAY_API_SERVER_ADDRESS.")] = None,
    store: StoreOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Engines at once; default: what the head's GPUs hold.")
    ] = None,
    engine: Annotated[str, typer.Option(help="vllm, or fake: no model, for trying a campaign out.")] = "vllm",
    python: Annotated[str | None, typer.Option(help="Python on the cluster's head that has frontier.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a campaign as a job of a Ray cluster. It goes on when this shell ends."""
    from orchestrator.domain.spec_file import load_cells
    from orchestrator.models.resolve import describe_model

    campaign, cells = load_cells(spec, describe_model)
    there = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    made = Submission(job=job_name(campaign.name), campaign=campaign.name, address=there, store=store_url(store))
    _warn_of_a_file_store(made)
    note(f"uploading {spec}: {len(cells):,} cells, {sum(cell.num_samples for cell in cells):,} samples")
    more = ["--engine", engine, *(["--workers", str(workers)] if workers else [])]
    _hand_over(made, spec, entrypoint(python or default_python(there), more))
    if as_json:
        print_json({"job": made.job, "campaign": made.campaign, "address": there, "store": mask_password(made.store)})
    else:
        console().print("\n".join(how_to_attach(made)))


def job_name(campaign: str) -> str:
    """A job name that Ray accepts and that nothing else has."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", campaign).strip("-")
    return f"frontier-{plain}-{secrets.token_hex(3)}"


def default_python(address: str) -> str:
    """This Python when the head is this machine, else whatever the head calls python3."""
    return sys.executable if any(host in address for host in LOCAL_HOSTS) else "python3"


def _warn_of_a_file_store(made: Submission) -> None:
    if made.store.startswith("sqlite") and not any(host in made.address for host in LOCAL_HOSTS):
        note(f"note: {made.store} is a file on the cluster's head; to watch from here, use a postgresql:// store")


def entrypoint(python: str, more: Sequence[str] = ()) -> list[str]:
    """What the cluster runs, in the uploaded folder. The store's URL, with its password, is not in it."""
    return [python, "-m", "orchestrator.cli.main", "run", "campaign.yaml", "--ray", "auto", *more]


def uploaded_folder(folder: Path, spec: Path, store: str) -> None:
    """Fills the folder that travels: the spec, and settings that only the job reads."""
    shutil.copyfile(spec, folder / "campaign.yaml")
    settings = folder / "frontier.toml"
    settings.write_text(f"store = {json.dumps(store)}\n", encoding="utf-8")
    settings.chmod(0o600)


def ray_command(made: Submission, folder: Path, words: Sequence[str]) -> list[str]:
    """The client's command line; `ray job` speaks to the job server over HTTP, so no Ray runs here."""
    beside = Path(sys.executable).with_name("ray")
    ray = str(beside) if beside.exists() else "ray"
    environment = {"env_vars": {"FRONTIER_CONFIG": "frontier.toml", "PYTHONUNBUFFERED": "1"}}
    options = ["--address", made.address, "--submission-id", made.job, "--working-dir", str(folder), "--no-wait"]
    options += ["--runtime-env-json", json.dumps(environment)]
    return [ray, "job", "submit", *options, "--", *words]


def _hand_over(made: Submission, spec: Path, words: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="frontier-submit-") as name:
        uploaded_folder(Path(name), spec, made.store)
        command = ray_command(made, Path(name), words)
        deadline = time.monotonic() + SUBMIT_SECONDS
        done = _call(command, made.address)
        said = done.stdout + done.stderr
        while done.returncode != 0 and any(word in said for word in NOT_YET) and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)
            done = _call(command, made.address)
            said = done.stdout + done.stderr
            if f"{made.job} {ACCEPTED}" in said:
                return
    if done.returncode != 0:
        raise UserError(f"{made.address}: the cluster refused the job: {reason(said)}")


def _call(command: Sequence[str], address: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SUBMIT_SECONDS, check=False)
    except FileNotFoundError:
        raise UserError("ray is not installed here: pip install 'sparse-frontier-campaigns[cluster]'") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{address}: no answer within {SUBMIT_SECONDS:.0f} s") from None


def reason(text: str) -> str:
    """The telling line of what `ray job submit` printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error" in line.lower()]
    return mask_passwords((errors or lines or ["nothing was said"])[-1])


def how_to_attach(made: Submission) -> list[str]:
    """What the user may do next, from this or another shell."""
    shown = mask_password(made.store)
    return [
        f"campaign {made.campaign} runs as Ray job {made.job}",
        f"watch:  frontier watch {made.campaign} --store {shown}",
        f"logs:   ray job logs --address {made.address} --follow {made.job}",
        f"stop:   ray job stop --address {made.address} {made.job}    (submit again to go on)",
    ]
