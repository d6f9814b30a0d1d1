"""`frontier tasks`: list the tasks, look at a sample, score completions, fetch data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import note, print_json, print_table
from orchestrator.cli.skeleton import OutOption, report_skeleton
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from tasks.sample import Sample
    from tasks.task import Task

app = typer.Typer(help="The nine tasks: samples, scoring, data sets.", no_args_is_help=True)

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Name of a task; see `frontier tasks list`.")]
LengthOption = Annotated[int, typer.Option("--length", min=1, help="Prompt tokens after the chat template.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the campaign.")]
ModelOption = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="Whose tokenizer: short name, hub id, or a folder.")
]
ParametersOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A task parameter; may be repeated.")
]
_DEFAULT_MODEL = "smollm2-135m"
_SHOWN_CHARACTERS = 1500


@app.command("list", epilog="Example: frontier tasks list --json")
def list_command(as_json: JsonOption = False) -> None:
    """List the tasks with their parameters and defaults."""
    from tasks.registry import family_names, task_names

    rows = [row for name in task_names() if (row := _row(name)) is not None]
    if as_json:
        print_json({"tasks": rows})
        return
    shown = [[row["name"], str(row["version"]), row["from"], _settings(row["parameters"])] for row in rows]
    print_table(("task", "version", "from", "parameters and defaults"), shown, right=("version",))
    for family in family_names():
        note(f"and the members of a family, as {family}:TASK (docs/lm-eval.md)")


def _row(name: str) -> dict[str, Any] | None:
    """The task as JSON; a note and None when its package is broken, so that the others are still listed."""
    from tasks.errors import TaskError
    from tasks.registry import get_task

    try:
        return _described(get_task(name))
    except TaskError as error:
        note(str(error))
        return None


@app.command("preview", epilog="Example: frontier tasks preview ruler_niah --length 1024 --set num_queries=1")
def preview_command(
    task: TaskArgument,
    length: LengthOption = 2048,
    seed: SeedOption = 43,
    index: Annotated[int, typer.Option("--index", min=0, help="Which sample.")] = 0,
    model: ModelOption = _DEFAULT_MODEL,
    settings: ParametersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a sample: its prompt (the middle left out), gold answer and token counts; --json prints all of it."""
    with _one_line_errors():
        sample = _Source(task, length, seed, model, settings or []).sample(index)
    if as_json:
        known = {field.name: getattr(sample, field.name) for field in fields(sample)}
        print_json(known | {"num_prompt_tokens": sample.num_prompt_tokens})
        return
    typer.echo(_shortened(sample.prompt))
    typer.echo(f"\ngold          {sample.gold_answer!r}")
    typer.echo(f"prompt        {sample.num_prompt_tokens} tokens of {length}, {sample.tail_tokens} after the context")
    typer.echo(f"gold answer   {sample.num_gold_tokens} tokens with its tags")
    typer.echo(f"sample        {sample.key}")


@app.command("score", epilog="Example: frontier tasks score ruler_vt --completions replies.jsonl --length 4096")
def score_command(
    task: TaskArgument,
    completions: Annotated[
        Path, typer.Option("--completions", metavar="FILE", help='JSONL; a line is {"index": 0, "completion": "…"}.')
    ],
    length: LengthOption = 2048,
    seed: SeedOption = 43,
    model: ModelOption = _DEFAULT_MODEL,
    settings: ParametersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score completions made elsewhere, under the default rules and under the reference implementation's."""
    from tasks.completions import judge_all, read_completions, summarise
    from tasks.sample import RULES

    with _one_line_errors():
        rows = read_completions(completions)
        source = _Source(task, length, seed, model, settings or [])
        judged = judge_all(source.task, source.sample, rows)
    summaries = [summarise(judged, rules) for rules in RULES]
    if as_json:
        print_json({"summaries": [asdict(one) for one in summaries], "samples": [asdict(one) for one in judged]})
        return
    columns = ("rules", "samples", "counted", "correct", "unanswered", "mean")
    shown = [
        [one.rules, str(one.num_samples), str(one.num_counted), str(one.num_correct), str(one.num_unanswered),
         "–" if one.mean is None else f"{one.mean:.3f}"]
        for one in summaries
    ]  # fmt: skip
    print_table(columns, shown, right=columns[1:])


@app.command("new", epilog="Example: frontier tasks new my_task")
def new_command(
    name: Annotated[str, typer.Argument(help="Name of the task: lower case, digits and _.")],
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a package that adds a task, with its passing test, to start from."""
    from orchestrator.skeletons.write import Skeleton
    from tasks.registry import task_names

    if name in task_names():
        raise UserError(f"there is a task {name!r} already; choose another name")
    report_skeleton(Skeleton(kind="task", name=name, choices={}, chosen={}), out, as_json)


@app.command("fetch", epilog="Example: frontier tasks fetch toefl --from toeflqa.jsonl")
def fetch_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="squad, quality or toefl.")],
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="A file in the public format instead of the network.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Another address of the file.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Checksum that the file must have.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Get a public data set for the question answering tasks and check it."""
    from tasks.qa.fetch import fetch

    with _one_line_errors():
        fetched = fetch(dataset, from_file=from_file, url=url, sha256=sha256)
    if as_json:
        print_json(asdict(fetched))
        return
    for line in fetched.skipped[:10]:
        note(f"skipped {line}")
    if len(fetched.skipped) > 10:
        note(f"and {len(fetched.skipped) - 10} more malformed rows")
    checked = "as expected" if fetched.checked else "not known beforehand, recorded now"
    typer.echo(
        f"{fetched.source}: {fetched.num_documents} documents, {fetched.num_questions} questions, "
        f"{len(fetched.skipped)} rows skipped; checksum {fetched.sha256[:12]}… {checked}"
    )


@dataclass(frozen=True)
class _Source:
    """Samples of one task at given settings."""

    task_name: str
    length: int
    seed: int
    model: str
    settings: list[str]

    @property
    def task(self) -> Task[Any]:
        from tasks.registry import get_task

        return get_task(self.task_name)

    @property
    def sample(self) -> Callable[[int], Sample]:
        """A function from an index to its sample."""
        from tasks.tokenizer import load_tokenizer

        task = self.task
        parameters = task.parse_parameters(dict(_setting(text) for text in self.settings))
        tokenizer = load_tokenizer(_model_folder(self.model))
        return lambda index: task.sample(
            parameters, length_tokens=self.length, tokenizer=tokenizer, seed=self.seed, index=index
        )


def _model_folder(model: str) -> Path:
    from orchestrator.models import named_folder, resolve_model_folder

    folder = named_folder(model)
    if folder is not None and (folder / "tokenizer.json").is_file():
        return folder
    return resolve_model_folder(model)


def _setting(text: str) -> tuple[str, Any]:
    """A parameter as YAML would read it: numbers, true, false, null, else text."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set {text!r} is not of the form NAME=VALUE")
    try:
        return name.strip(), YAML(typ="safe", pure=True).load(value)
    except (YAMLError, ValueError, KeyError, RecursionError):  # the latter from a bad date, number or tag
        return name.strip(), value


@contextmanager
def _one_line_errors() -> Iterator[None]:
    from tasks.errors import TaskError

    try:
        yield
    except TaskError as error:
        raise UserError(str(error)) from None


def _described(task: Task[Any]) -> dict[str, Any]:
    return {
        "name": task.name,
        "version": task.version,
        "from": task.plugin or "frontier",
        "parameters": task.parse_parameters({}).as_dict(),
        "approximation_window": task.approximation_window,
        "default_max_output_tokens": task.default_max_output_tokens,
    }


def _settings(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items())


def _shortened(prompt: str) -> str:
    if len(prompt) <= 3 * _SHOWN_CHARACTERS:
        return prompt
    left_out = len(prompt) - 3 * _SHOWN_CHARACTERS
    return f"{prompt[:_SHOWN_CHARACTERS]}\n[… {left_out} characters …]\n{prompt[-2 * _SHOWN_CHARACTERS :]}"
