"""Do the tasks of a campaign fit its lengths and output limits? Asked of one sample each, where the model is here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from orchestrator.domain.grid import Cell
from tasks.errors import TaskError
from tasks.registry import BUILT_IN, get_task
from tasks.sample import Sample
from tasks.tokenizer import Tokenizer, load_tokenizer


def misfits(cells: Sequence[Cell]) -> list[str]:
    """A line for each of the nine tasks that cannot make a sample, or whose gold answer exceeds the output limit.

    The first sample of a task's shortest and longest length is tried; models that are not here are left out.
    """
    folders = {cell.engine.model for cell in cells}
    tokenizers = {name: load_tokenizer(name) for name in folders if (Path(name) / "tokenizer.json").is_file()}
    return list(
        dict.fromkeys(
            line for cell in _tried(cells, tokenizers) if (line := _misfit(cell, tokenizers[cell.engine.model]))
        )
    )


def _tried(cells: Sequence[Cell], models: Collection[str]) -> Iterator[Cell]:
    """The shortest and the longest cell of each model and task."""
    by_task: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.engine.model in models and cell.task.name in BUILT_IN:
            by_task.setdefault((cell.engine.model, cell.task_label), []).append(cell)
    for group in by_task.values():
        yield min(group, key=lambda cell: cell.length_tokens)
        yield max(group, key=lambda cell: cell.length_tokens)


def _misfit(cell: Cell, tokenizer: Tokenizer) -> str | None:
    where = f"{cell.task_label} at length {cell.length_tokens} on {cell.model_name}"
    try:
        task = get_task(cell.task.name)
        sample = task.sample(
            task.parse_parameters(cell.task.parameters),
            length_tokens=cell.length_tokens,
            tokenizer=tokenizer,
            seed=cell.seed,
            index=0,
        )
    except TaskError as error:
        return f"{where}: {error}"
    needed = _answer_tokens(sample, tokenizer)
    if needed <= cell.max_output_tokens:
        return None
    return f"{where}: the gold answer has {needed} tokens, max_output_tokens is {cell.max_output_tokens}"


def _answer_tokens(sample: Sample, tokenizer: Tokenizer) -> int:
    """Tokens that a completion needs at least: the answer, with its tags unless the prompt opened them."""
    if not sample.primed:
        return sample.num_gold_tokens
    return len(tokenizer.encode(sample.gold_answer.removeprefix(sample.cue)))
