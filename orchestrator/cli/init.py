"""`frontier init`: write a commented campaign file to start from. It asks nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import console
from orchestrator.errors import UserError

TEMPLATE = """\
# A campaign: every model × method × budget × task × length below is one cell of a grid.
# frontier validate {path}    checks this file and counts the grid
# frontier plan {path}        says what it will cost
# frontier run {path}         runs it; run it again after any interruption and it goes on

name: {name}

models:
  - smollm2-135m            # from a package, runs on a CPU: frontier models pull smollm2-135m
# - Qwen/Qwen2.5-7B-Instruct              # a hub id, or a folder with config.json and weights
# - source: Qwen/Qwen2.5-72B-Instruct
#   tensor_parallel: 4                    # GPUs of one engine; see also pipeline_parallel and nodes_per_engine
#   rope: yarn_per_length                 # beyond 32,768 tokens: YaRN as the model's authors advise

methods:                    # frontier methods list; options: frontier methods show quest
  - dense
  - quest: {{token_budget: [64, 256]}}      # a list is an axis: one cell for each budget
  - vertical_slash: {{vertical_size: [32, 128], slash_size: [64, 256]}}  # lists advance together
# - {{prefill: {{vertical_slash: {{vertical_size: 512, slash_size: 512}}}}, decode: {{quest: {{token_budget: 512}}}}}}

tasks:                      # frontier tasks list
  # One needle among plain sentences, and a reply that we begin: a model of 135M parameters can answer that.
  - ruler_niah: {{num_queries: 1, needle: numbers, haystack: sentences, reply: primed}}
# - story_retrieval         # a task as the paper has it; from about 3,000 tokens on

lengths: [512, 1024]        # prompt tokens, chat template included
samples: 4                  # of each cell; the same prompts for every method
# seed: 43                  # or a list, as one more axis
max_output_tokens: 24       # without this line: each task's own limit
# sampling: {{temperature: 0.7, top_p: 0.9}}     # without this line: greedy
# scoring: sparse_frontier_v1             # the paper's own rules for missing answers
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("init", epilog="Example: frontier init campaign.yaml")(init)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="PATH")] = Path("campaign.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a small, commented campaign file that runs on a laptop."""
    if path.exists() and not force:
        raise UserError(f"{path} exists; choose another name, or --force to replace it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    path.write_text(TEMPLATE.format(name=_campaign_name(path), path=path), encoding="utf-8")
    lines = [f"wrote {path}", "next: frontier models pull smollm2-135m", f"      frontier validate {path}"]
    console().print("\n".join(lines))


def _campaign_name(path: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")
    return plain[:64] or "campaign"
