"""Tasks of lm-evaluation-harness as campaign tasks, named `lm_eval:TASK`: its prompts, its filters, its scores.

The family behind the entry point `lm_eval` (see `tasks.registry`); needs the extra `lm-eval`. Only tasks that generate
(`output_type: generate_until`) can run, since a campaign measures generations.

What differs from other tasks:
- A prompt is the harness's own, as long as it is; the campaign's length is an upper limit (LengthError beyond it).
- Samples are the documents in their order, so a cell has no more samples than the task has documents; the seed of the
  campaign changes nothing. Few-shot examples are drawn with the harness's own default seed.
- The prompt goes to the model as it is, like `lm_eval` does by default; with `chat`, as one user message.
- Generation goes on to the task's `max_gen_toks`; the text is cut at its stop strings before it is scored, which for
  greedy decoding leaves what stopping there would have left.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from threading import RLock
from typing import Any

from tasks.errors import DataError, LengthError, ParameterError, TaskError
from tasks.fit import Room
from tasks.parameters import TaskParameters, flag, optional_text, whole
from tasks.sample import Sample, SampleIdentity, Score, Verdict, scored
from tasks.seeding import Draw
from tasks.task import Draft, Task
from tasks.tokenizer import Tokenizer

FAMILY = "lm_eval"
FEWSHOT_SEED = 1234
"""The default of `lm_eval --seed` for few-shot examples."""
PYTHON_SEED, NUMPY_SEED = 0, 1234
"""The same for `random` and NumPy."""
DEFAULT_OUTPUT_TOKENS = 256
"""The default of `max_gen_toks` in the harness's vLLM model."""
_LOADING = RLock()


@dataclass(frozen=True, kw_only=True)
class HarnessParameters(TaskParameters):
    """How the harness sets the task up; `reply` means nothing here."""

    include_path: str = optional_text()
    """Folder with further task files, as of `lm_eval --include_path`."""
    num_fewshot: int | None = field(default=None, metadata={**whole(0, most=1000).metadata, "optional": True})
    """Examples before the question; None: as the task says."""
    chat: bool = flag(False)
    """The whole prompt as one user message in the chat template."""
    filter: str = optional_text()
    """Which of the task's filters makes the answer; empty: the first."""
    metric: str = optional_text()
    """Which of its metrics is the value; empty: the first that lies in [0, 1]."""
    metadata: str = optional_text()
    """JSON object as of `lm_eval --metadata`, such as RULER's lengths and tokenizer."""


class HarnessTask(Task[HarnessParameters]):
    """One task of the harness."""

    name = FAMILY
    parameters_type = HarnessParameters
    default_max_output_tokens = DEFAULT_OUTPUT_TOKENS

    def __init__(self, member: str) -> None:
        _library()
        self.member = member
        self.name = f"{FAMILY}:{member}"  # type: ignore[misc]

    def parse_parameters(self, mapping: Mapping[str, Any] | None = None) -> HarnessParameters:
        parsed = super().parse_parameters(mapping)
        self.loaded(parsed)
        return parsed

    def loaded(self, parameters: HarnessParameters) -> Loaded:
        """The harness's task with its prompts. Raises ParameterError or DataError."""
        settings = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
        with _LOADING:
            return _load(self.member, json.dumps(settings, sort_keys=True))

    def identity_parameters(self, parameters: HarnessParameters) -> dict[str, Any]:
        # What only says where things lie, or is seen in the prompts themselves, would part equal cells.
        left_out = ("reply", "include_path", "metadata")
        values = {name: value for name, value in parameters.as_dict().items() if name not in left_out}
        return {**values, "lm_eval": _library(), "content": self.loaded(parameters).fingerprint}

    def num_available(self, parameters: HarnessParameters) -> int:
        return len(self.loaded(parameters).instances)

    def output_limit(self, parameters: HarnessParameters) -> int:
        return int(self.loaded(parameters).settings.get("max_gen_toks", DEFAULT_OUTPUT_TOKENS))

    def sample(
        self, parameters: HarnessParameters, *, length_tokens: int, tokenizer: Tokenizer, seed: int, index: int
    ) -> Sample:
        task = self.loaded(parameters)
        if index >= len(task.instances):
            raise DataError(f"{self.name} has {len(task.instances)} documents; there is no sample {index}")
        instance = task.instances[index]
        text = str(instance.args[0])
        ids = tokenizer.chat(text) if parameters.chat else tokenizer.document(text)
        if len(ids) > length_tokens:
            raise LengthError(
                f"{self.name}: document {index} makes a prompt of {len(ids)} tokens, over {length_tokens}"
            )
        gold = str(task.task.doc_to_target(instance.doc))
        identity = self.identity(parameters, length_tokens=length_tokens, tokenizer=tokenizer, seed=seed, index=index)
        return Sample(
            key=identity.key,
            task=self.name,
            index=index,
            prompt=text,
            prompt_token_ids=tuple(ids),
            tail_tokens=0,
            gold=gold,
            gold_answer=gold,
            num_gold_tokens=len(tokenizer.encode(gold)),
            extras={"parameters": parameters.as_dict()},
        )

    def draft(self, parameters: HarnessParameters, draw: Draw, room: Room, identity: SampleIdentity) -> Draft:
        raise NotImplementedError("prompts of the harness are not drafted; see sample")

    def judge(self, sample: Sample, completion: str, compat: bool) -> Score:
        parameters = HarnessParameters(**sample.extras["parameters"])
        task = self.loaded(parameters)
        with _LOADING:
            answer, metrics = task.results(sample.index, completion, parameters.filter)
        chosen = {k: v for k, v in metrics.items() if _is_value(v) and k == (parameters.metric or k)}
        if not chosen:
            return Score(Verdict.UNSCORED, None, answer, f"no metric in [0, 1] among {', '.join(map(str, metrics))}")
        metric, value = next(iter(chosen.items()))
        if not completion.strip() and not value:
            return Score(Verdict.UNANSWERED, 0.0, "", "empty")
        return scored(float(value), answer, f"{metric} {float(value):.3g}")


@dataclass(frozen=True)
class Loaded:
    """A task of the harness with the requests that it makes of its documents."""

    task: Any
    instances: list[Any]
    fingerprint: str
    """SHA-256 of the prompts, the targets and the settings of generation."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Generation settings: `until`, `max_gen_toks` and so on."""
        return self.instances[0].args[1]  # type: ignore[no-any-return]

    def results(self, index: int, completion: str, wanted: str) -> tuple[str, dict[str, Any]]:
        """The answer as the filter reads it, and the metrics of this document."""
        from copy import copy

        instance = copy(self.instances[index])
        instance.resps, instance.filtered_resps = [cut(completion, instance.args[1].get("until"))], {}
        for one in self.task._filters:  # apply_filters would filter all documents anew for each completion
            one.apply([instance])
        found = instance.filtered_resps
        if wanted and wanted not in found:
            raise ParameterError(f"{self.task.config.task} has no filter {wanted!r}; its filters: {', '.join(found)}")
        answer = found[wanted or next(iter(found))]
        return str(answer), dict(self.task.process_results(instance.doc, [answer]))


def cut(text: str, until: str | list[str] | None) -> str:
    """`text` up to the first of the stop strings."""
    for stop in [until] if isinstance(until, str) else until or []:
        if stop:
            text = text.split(stop)[0]
    return text


def _is_value(value: Any) -> bool:
    try:
        return 0.0 <= float(value) <= 1.0
    except (TypeError, ValueError):
        return False


def _library() -> str:
    """Version of lm-evaluation-harness. Raises ParameterError when it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lm_eval")
    except PackageNotFoundError:
        text = "tasks of lm-evaluation-harness need the extra lm-eval: pip install 'sparse-frontier-campaigns[lm-eval]'"
        raise ParameterError(text) from None


@lru_cache(maxsize=16)
def _load(member: str, settings: str) -> Loaded:
    parameters = HarnessParameters(**json.loads(settings))
    try:
        with _seeded():
            return _built(_task(member, parameters), member, parameters)
    except TaskError:
        raise
    except Exception as error:  # data sets fail in as many ways as there are hubs
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{FAMILY}:{member} cannot be loaded: {reason}") from error


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The seeds that `lm_eval` sets by default: tasks that make their own documents (RULER) draw from these."""
    import numpy

    ours, numpys = random.getstate(), numpy.random.get_state()
    random.seed(PYTHON_SEED)
    numpy.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(ours)
        numpy.random.set_state(numpys)


def _built(task: Any, member: str, parameters: HarnessParameters) -> Loaded:
    if task.OUTPUT_TYPE != "generate_until":
        raise ParameterError(f"{FAMILY}:{member} asks for {task.OUTPUT_TYPE}; campaigns generate: generate_until tasks")
    if parameters.num_fewshot is not None:
        task.set_config(key="num_fewshot", value=parameters.num_fewshot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        task.build_all_requests()
    content = [[str(i.args), str(task.doc_to_target(i.doc))] for i in task.instances]
    return Loaded(task, list(task.instances), hashlib.sha256(json.dumps(content).encode()).hexdigest())


def _task(member: str, parameters: HarnessParameters) -> Any:
    from lm_eval.tasks import TaskManager

    try:
        metadata = json.loads(parameters.metadata or "null")
    except ValueError:
        raise ParameterError(f"metadata is {parameters.metadata!r}; it must be a JSON object") from None
    own = parameters.include_path or None
    manager = TaskManager(include_path=own, include_defaults=own is None, metadata=metadata)
    if own is not None and member not in manager.all_subtasks:
        manager = TaskManager(include_path=own, metadata=metadata)
    if member not in manager.all_subtasks:
        kind = "a group of tasks" if member in manager.all_tasks else "no task"
        raise ParameterError(f"{member!r} is {kind} of lm-evaluation-harness {_library()}")
    return manager.load([member])["tasks"][member]
