"""What holds for every sample of every task: identity, length, recoverable gold answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import LengthError
from tasks.registry import get_task, task_names
from tasks.sample import RULES, Sample, Verdict
from tasks.tokenizer import Tokenizer, load_tokenizer
from tests.support.oracles import solve
from tests.support.small_tokenizers import FAMILIES
from tests.support.task_settings import settings as task_settings

_RELAXED = settings(
    deadline=None,
    derandomize=True,
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_LENGTHS = st.sampled_from((1024, 1500, 2048, 4096, 7000, 8192, 16384, 32768))


def _sample(name: str, length: int, tokenizer: Tokenizer, data: Path, seed: int = 43, index: int = 0) -> Sample:
    task = get_task(name)
    parameters = task.parse_parameters(task_settings(name, length, data))
    return task.sample(parameters, length_tokens=length, tokenizer=tokenizer, seed=seed, index=index)


def _tail_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """Tokens of what follows the context, template included, encoded by itself after a word."""
    tail = prompt[prompt.rindex("\n</context>") :]
    rendered = tokenizer.render(f"end{tail}")
    return len(tokenizer.encode(rendered[rendered.index(f"end{tail}") :])) - len(tokenizer.encode("end"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", task_names())
@_RELAXED
@given(length=_LENGTHS, seed=st.integers(0, 2**63), index=st.integers(0, 10**6))
def test_every_sample_keeps_its_promises(
    name: str, family: str, length: int, seed: int, index: int,
    tokenizers_by_family: dict[str, Tokenizer], invented_data: Path,
) -> None:  # fmt: skip
    tokenizer, task = tokenizers_by_family[family], get_task(name)
    sample = _sample(name, length, tokenizer, invented_data, seed, index)
    assert 0.95 * length <= sample.num_prompt_tokens <= length
    assert list(sample.prompt_token_ids) == tokenizer.chat(sample.prompt), "pieces encode like the whole"
    assert abs(sample.tail_tokens - _tail_tokens(tokenizer, sample.prompt)) <= 1, "a token may span the context's end"
    assert sample.num_gold_tokens <= task.default_max_output_tokens
    solved = task.score(sample, f"<answer>{solve(name, sample.prompt)}</answer>")
    assert solved.value == 1.0, solved
    for rules in RULES:
        assert task.score(sample, sample.gold_completion, rules).verdict is Verdict.CORRECT
    empty = task.score(sample, "")
    assert (empty.verdict, empty.value) == (Verdict.UNANSWERED, 0.0)


@pytest.mark.parametrize("name", task_names())
def test_the_order_of_generation_does_not_matter(
    name: str, tokenizer_folders: dict[str, Path], invented_data: Path
) -> None:
    folder = tokenizer_folders["byte_bpe"]
    indices = list(range(8))
    forwards = load_tokenizer(folder)
    first = {index: _sample(name, 2048, forwards, invented_data, index=index) for index in indices}
    Random(5).shuffle(indices)
    backwards = load_tokenizer(folder)
    for index in indices:
        assert _sample(name, 2048, backwards, invented_data, index=index) == first[index]
    assert len({sample.prompt for sample in first.values()}) == len(first)


@pytest.mark.parametrize("name", task_names())
def test_seeds_and_indices_are_different_draws(name: str, byte_bpe: Tokenizer, invented_data: Path) -> None:
    first = _sample(name, 2048, byte_bpe, invented_data, seed=43, index=1)
    second = _sample(name, 2048, byte_bpe, invented_data, seed=44, index=0)
    assert first.key != second.key
    assert first.prompt != second.prompt


def test_another_process_makes_the_same_bytes(tokenizer_folders: dict[str, Path], invented_data: Path) -> None:
    folder = tokenizer_folders["byte_bpe"]
    code = (
        "import json, sys, hashlib\n"
        "from pathlib import Path\n"
        "from tasks.registry import task_names\n"
        "from tasks.tokenizer import load_tokenizer\n"
        "from tests.unit.tasks.test_sample_properties import _sample\n"
        "tokenizer = load_tokenizer(sys.argv[1])\n"
        "made = [_sample(name, 2048, tokenizer, Path(sys.argv[2]), index=3) for name in task_names()]\n"
        "print(json.dumps([[s.key, s.prompt, list(s.prompt_token_ids), s.gold_answer] for s in made]))\n"
    )
    arguments = [sys.executable, "-c", code, str(folder), str(invented_data)]
    root = Path(__file__).parents[3]
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": str(root)}
    ran = subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True, check=True)
    tokenizer = load_tokenizer(folder)
    here = [_sample(name, 2048, tokenizer, invented_data, index=3) for name in task_names()]
    assert json.loads(ran.stdout) == [[s.key, s.prompt, list(s.prompt_token_ids), s.gold_answer] for s in here]


@pytest.mark.parametrize("name", task_names())
def test_a_length_that_cannot_work_is_refused_with_numbers(name: str, byte_bpe: Tokenizer, invented_data: Path) -> None:
    with pytest.raises(LengthError, match=r"too short.* about \d+ tokens"):
        _sample(name, 160, byte_bpe, invented_data)


@pytest.mark.parametrize("reply", ["answer_only", "primed"])
@pytest.mark.parametrize("name", task_names())
def test_other_replies_keep_the_length_and_the_gold_score(
    name: str, reply: str, byte_bpe: Tokenizer, invented_data: Path
) -> None:
    task = get_task(name)
    parameters = task.parse_parameters({**task_settings(name, 1024, invented_data), "reply": reply})
    for index in range(3):
        sample = task.sample(parameters, length_tokens=1024, tokenizer=byte_bpe, seed=1, index=index)
        assert 0.95 * 1024 <= sample.num_prompt_tokens <= 1024
        assert task.score(sample, sample.gold_completion).value == 1.0
        assert task.score(sample, "").verdict is Verdict.UNANSWERED
        opening = byte_bpe.decode(sample.prompt_token_ids).rstrip().endswith(f"<answer>\n{sample.cue}".rstrip())
        assert opening == (reply == "primed")


class _Inexact(Tokenizer):
    """A tokenizer that does not trust its pieces, as for vocabularies that merge across spaces."""

    exact = False  # type: ignore[assignment]


@pytest.mark.parametrize("name", task_names())
def test_tokenizers_without_safe_cuts_are_encoded_whole(name: str, byte_bpe: Tokenizer, invented_data: Path) -> None:
    whole = _Inexact(byte_bpe._backend, byte_bpe._template, "whole " + byte_bpe.fingerprint)
    for index in range(3):
        sample = _sample(name, 3000, whole, invented_data, index=index)
        assert 0.95 * 3000 <= sample.num_prompt_tokens <= 3000
        assert list(sample.prompt_token_ids) == byte_bpe.chat(sample.prompt)
        assert abs(sample.tail_tokens - _tail_tokens(byte_bpe, sample.prompt)) <= 1
