"""Every method and its combinations in one vLLM engine, against a transformers model with oracle masks (float32)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
pytest.importorskip("transformers")

from sparsekernels.parameters import MethodChoice  # noqa: E402

from tests.support.foreign_methods import KeepStrongest, Stride, behind_the_door  # noqa: E402
from tests.support.masked_transformer import logits  # noqa: E402
from tests.support.vllm_engines import VOCABULARY, outcome, run_requests, tiny_engine, tiny_model  # noqa: E402
from workers.engine import Generation, GenerationFailure, GenerationRequest  # noqa: E402
from workers.failures import FailureKind  # noqa: E402
from workers.vllm_engine import VllmEngine  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BOUND = 2e-3
"""Largest difference of a log-probability between the engine and the oracle, float32; seen: below 1e-4."""
VERTICAL = {"name": "vertical_slash", "vertical_size": 24, "slash_size": 12, "window": 32, "local_size": 8}
SNAP = {"name": "snapkv", "token_capacity": 48, "window": 32, "local_size": 16, "kernel_size": 5}
ADA = {**SNAP, "name": "ada_snapkv"}
QUEST = {"name": "quest", "token_budget": 32}
TOVA = {"name": "tova", "token_capacity": 24}
STREAMING = {"name": "streaming_llm", "token_budget": 20}
STRIDE = {"name": "stride", "step": 3}
STRONGEST = {"name": "keep_strongest", "size": 40}
SMALL: dict[str, dict[str, Any]] = {
    "dense": {},
    "vertical_slash": {"prefill": VERTICAL},
    "flexprefill": {"prefill": {"name": "flexprefill", "alpha": 0.2, "min_budget": 16, "window": 32, "local_size": 8}},
    "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": 4}},
    "block_sparse_wide": {"prefill": {"name": "block_sparse", "top_blocks": 5, "row_block": 32}},
    "quest": {"decode": QUEST},
    "quest_per_head": {"decode": {**QUEST, "share_pages": False}},
    "snapkv": {"compress": SNAP},
    "ada_snapkv": {"compress": ADA},
    "vertical_slash+quest": {"prefill": VERTICAL, "decode": QUEST},
    "snapkv+quest": {"compress": SNAP, "decode": QUEST},
    "all": {"prefill": VERTICAL, "compress": ADA, "decode": {**QUEST, "share_pages": False}},
    "tova": {"decode": TOVA},
    "streaming_llm": {"decode": STREAMING},
    "vertical_slash+tova": {"prefill": VERTICAL, "decode": TOVA},
    "snapkv+streaming_llm": {"compress": SNAP, "decode": STREAMING},
    "foreign prefill": {"prefill": STRIDE},
    "foreign compress": {"compress": STRONGEST},
    "foreign compress+quest": {"compress": STRONGEST, "decode": QUEST},
    "all foreign": {"prefill": STRIDE, "compress": STRONGEST, "decode": STREAMING},
}
LENGTHS = [150, 129, 131, 128, 140, 150, 147, 133, 160, 143, 151, 138, 132, 150, 141, 130, 149, 152, 136, 145]
FULL: dict[str, dict[str, Any]] = {
    "vertical_slash": {"prefill": {**VERTICAL, "vertical_size": 512, "slash_size": 512}},
    "flexprefill": {"prefill": {"name": "flexprefill", "alpha": 1.0, "min_budget": 512}},
    "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": 64}},
    "quest": {"decode": {"name": "quest", "token_budget": 512}},
    "snapkv": {"compress": {"name": "snapkv", "token_capacity": 512}},
    "ada_snapkv": {"compress": {"name": "ada_snapkv", "token_capacity": 512}},
    "tova": {"decode": {"name": "tova", "token_capacity": 512}},
    "streaming_llm": {"decode": {"name": "streaming_llm", "token_budget": 512}},
    "foreign": {"prefill": {"name": "stride", "step": 1}, "compress": {"name": "keep_strongest", "size": 512}},
}
NEW = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_model(folder)


@pytest.fixture(scope="module", autouse=True)
def foreign_methods() -> Iterator[None]:
    """Methods as other people's packages bring them."""
    with behind_the_door(Stride, KeepStrongest):
        yield


@pytest.fixture(scope="module")
def engine(model: tuple[Path, Any]) -> Iterator[VllmEngine]:
    started = tiny_engine(model[0])
    yield started
    started.close()


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(3, VOCABULARY - 3), k=length)


def request(name: str, method: dict[str, Any], length: int, **changes: Any) -> GenerationRequest:
    base: dict[str, Any] = dict(prompt_token_ids=prompt(length), max_tokens=NEW)
    return GenerationRequest(request_id=name, method=method, **(base | changes))


@pytest.fixture(scope="module")
def together(engine: VllmEngine) -> dict[str, Generation]:
    """All methods in one batch, prompts of different lengths (aligned and not)."""
    lengths = dict(zip(SMALL, LENGTHS, strict=True))
    return run_requests(engine, [request(name, SMALL[name], lengths[name]) for name in SMALL])


@pytest.mark.parametrize("name", SMALL)
def test_a_mixed_batch_equals_the_oracle(
    name: str, model: tuple[Path, Any], engine: VllmEngine, together: dict[str, Generation]
) -> None:
    result = together[name]
    ids = [*prompt(result.num_prompt_tokens), *result.token_ids]
    wire = MethodChoice.from_wire(SMALL[name]).to_wire()
    expected = logits(model[1], ids, result.num_prompt_tokens, wire)[result.num_prompt_tokens - 1 : -1]
    assert expected.argmax(-1).tolist() == list(result.token_ids)
    found = torch.tensor(engine.logprobs[name])
    reference = expected.gather(1, torch.tensor(result.token_ids)[:, None])[:, 0]
    assert (found - reference).abs().max() < BOUND


def test_methods_change_the_output(together: dict[str, Generation], engine: VllmEngine) -> None:
    lengths = {together[n].num_prompt_tokens for n in ("quest", "dense")}
    assert lengths == {150}
    assert engine.logprobs["quest"] != pytest.approx(engine.logprobs["dense"], abs=BOUND)


def test_each_request_alone_gives_what_it_gave_in_the_batch(
    engine: VllmEngine, together: dict[str, Generation]
) -> None:
    for name in ("dense", "block_sparse", "quest", "ada_snapkv", "all", "tova", "all foreign"):
        alone = run_requests(engine, [request(f"{name} alone", SMALL[name], together[name].num_prompt_tokens)])
        tokens, logs = outcome(engine, alone[f"{name} alone"])
        assert tokens == together[name].token_ids
        assert logs == pytest.approx(engine.logprobs[name], abs=1e-4)


def test_full_budgets_are_dense(engine: VllmEngine) -> None:
    done = run_requests(engine, [request(f"full {n}", FULL.get(n, {}), 170) for n in ("dense", *FULL)])
    for name in FULL:
        result = done[f"full {name}"]
        assert result.token_ids == done["full dense"].token_ids, name
        # Two kernels sum in different orders: float32 through thirty layers; seen: 1.1e-4.
        assert engine.logprobs[f"full {name}"] == pytest.approx(engine.logprobs["full dense"], abs=5e-4), name
        assert (result.density_prefill, result.density_decode, result.kv_kept) == pytest.approx((1.0, 1.0, 1.0))


def test_measured_densities(together: dict[str, Generation]) -> None:
    quest, snap, sparse = together["quest"], together["snapkv"], together["block_sparse"]
    assert quest.density_prefill == 1.0
    lengths = range(quest.num_prompt_tokens + 1, quest.num_prompt_tokens + NEW)
    read = sum(32 + (n - 1) % 16 + 1 for n in lengths)
    assert quest.density_decode == pytest.approx(read / sum(lengths))
    assert snap.kv_kept == pytest.approx(48 / snap.num_prompt_tokens)
    assert 0.2 < sparse.density_prefill < 0.8
    assert sparse.density_decode == sparse.kv_kept == 1.0
    assert quest.num_decode_steps == NEW - 1
    for name, read in (("tova", 25), ("streaming_llm", 20)):
        found = together[name]
        steps = range(found.num_prompt_tokens + 1, found.num_prompt_tokens + NEW)
        assert found.density_decode == pytest.approx(read * len(steps) / sum(steps)), name
    kept = together["foreign compress"].kv_kept * together["foreign compress"].num_prompt_tokens
    assert 40.5 <= kept <= 41.5


def test_decode_methods_share_one_dense_prefill(engine: VllmEngine) -> None:
    names = ("dense", "quest", "snapkv", "ada_snapkv", "snapkv+quest", "tova", "streaming_llm", "foreign compress")
    group = dict(prompt_token_ids=prompt(200, seed=7), cache_group="sample 1")
    first = run_requests(engine, [request("first", {}, 0, **group)])["first"]
    assert first.num_cached_tokens == 0
    shared = run_requests(engine, [request(f"shared {n}", SMALL[n], 0, **group) for n in names])
    lonely = run_requests(
        engine, [request(f"lonely {n}", SMALL[n], 0, prompt_token_ids=group["prompt_token_ids"]) for n in names]
    )
    for name in names:
        assert shared[f"shared {name}"].num_cached_tokens >= 160, name
        assert lonely[f"lonely {name}"].num_cached_tokens == 0, name
        assert shared[f"shared {name}"].token_ids == lonely[f"lonely {name}"].token_ids, name
        assert engine.logprobs[f"shared {name}"] == pytest.approx(engine.logprobs[f"lonely {name}"], abs=1e-4)


def test_every_decode_method_shares_a_sparse_prefill_of_the_same_prompt(engine: VllmEngine) -> None:
    """What a shared prefill leaves to compute finds the selection, the tokens and the density of the whole prompt."""
    decoding: dict[str, dict[str, Any]] = {"dense": {}, "quest": SMALL["quest"], "ada": SMALL["ada_snapkv"]}
    for prefill in ("vertical_slash", "flexprefill", "block_sparse", "block_sparse_wide"):
        tokens = prompt(440, seed=8)
        group = dict(prompt_token_ids=tokens, cache_group="sample 2")
        methods = {f"{prefill}+{name}": {**SMALL[prefill], **method} for name, method in decoding.items()}
        first = run_requests(engine, [request(f"first {prefill}", SMALL[prefill], 0, **group)])[f"first {prefill}"]
        shared = run_requests(engine, [request(f"shared {n}", m, 0, **group) for n, m in methods.items()])
        lonely = run_requests(
            engine, [request(f"lonely {n}", m, 0, prompt_token_ids=tokens) for n, m in methods.items()]
        )
        assert first.num_cached_tokens == 0
        assert first.density_prefill < 0.9
        for name in methods:
            one, other = shared[f"shared {name}"], lonely[f"lonely {name}"]
            assert (one.num_cached_tokens >= 256, other.num_cached_tokens) == (True, 0), name
            assert one.token_ids == other.token_ids, name
            assert engine.logprobs[f"shared {name}"] == pytest.approx(engine.logprobs[f"lonely {name}"], abs=1e-4)
            assert one.density_prefill == pytest.approx(other.density_prefill, abs=1e-9), name


def test_a_sparse_prefill_is_shared_with_nothing_else(engine: VllmEngine) -> None:
    tokens = prompt(440, seed=9)
    group = dict(cache_group="sample 3")
    run_requests(engine, [request("sparse", SMALL["vertical_slash"], 0, prompt_token_ids=tokens, **group)])
    smaller = {"prefill": {**VERTICAL, "vertical_size": 16}}
    others = [
        request("dense after sparse", {}, 0, prompt_token_ids=tokens, **group),
        request("another budget", smaller, 0, prompt_token_ids=tokens, **group),
        request("a longer prompt", SMALL["vertical_slash"], 0, prompt_token_ids=[*tokens, 5], **group),
        request("another group", SMALL["vertical_slash"], 0, prompt_token_ids=tokens, cache_group="sample 4"),
    ]
    done = run_requests(engine, others)
    assert {name: result.num_cached_tokens for name, result in done.items()} == {o.request_id: 0 for o in others}


def test_impossible_requests_come_back_as_failures(engine: VllmEngine) -> None:
    wrong = {"decode": {"name": "quest", "token_budget": 7}}
    done = run_requests(
        engine,
        [
            request("unknown", {"decode": {"name": "guess"}}, 10),
            request("bad budget", wrong, 10),
            request("too long", {}, 510),
            request("good", {}, 10),
        ],
    )
    assert isinstance(done["good"], Generation)
    kinds = {n: r.failure.kind for n, r in done.items() if isinstance(r, GenerationFailure)}
    assert kinds == {
        "unknown": FailureKind.BAD_SPEC,
        "bad budget": FailureKind.BAD_SPEC,
        "too long": FailureKind.OVER_LENGTH,
    }
    assert "token_budget is 7" in done["bad budget"].failure.message


def test_an_aborted_request_never_comes_back(engine: VllmEngine) -> None:
    engine.submit(request("gone", SMALL["quest"], 100, max_tokens=300))
    engine.abort("gone")
    engine.abort("never there")
    assert set(run_requests(engine, [request("stays", {}, 20)])) == {"stays"}
    assert engine.progress().num_in_flight == 0


def test_two_hundred_switches_need_one_weight_load(engine: VllmEngine) -> None:
    names = list(SMALL)
    requests = [request(f"switch {i}", SMALL[names[i % len(names)]], 100, max_tokens=2) for i in range(200)]
    before = engine.progress().num_tokens_total
    started = time.monotonic()
    for first in range(0, 200, 16):
        done = run_requests(engine, requests[first : first + 16])
        assert all(isinstance(r, Generation) for r in done.values())
    assert engine.progress().num_tokens_total >= before + 200 * 102
    assert engine._engine.collective_rpc("frontier_facts")[0]["num_weight_loads"] == 1
    print(f"200 switches: {time.monotonic() - started:.1f} s")


# The tests below start engines of their own in this process, which ends the use of the shared one.


def test_preempted_requests_give_the_same_tokens(model: tuple[Path, Any], engine: VllmEngine) -> None:
    """A cache of 30 blocks for about 60 blocks of requests: most are preempted and recomputed, some more than once."""
    names = (
        "dense",
        "block_sparse",
        "quest",
        "snapkv",
        "ada_snapkv",
        "snapkv+quest",
        "vertical_slash+quest",
        "all",
        "tova",
        "vertical_slash+tova",
        "snapkv+streaming_llm",
        "foreign compress+quest",
        "all foreign",
    )
    requests = [request(f"preempted {n}", SMALL[n], 126 + i, max_tokens=70) for i, n in enumerate(names)]
    free = run_requests(engine, requests)
    small = tiny_engine(model[0], options={"num_gpu_blocks_override": 30, "enable_prefix_caching": False})
    try:
        tight = run_requests(small, requests)
    finally:
        small.close()
    assert sum(r.num_preemptions for r in tight.values()) > 0
    assert sum(r.num_preemptions for r in free.values()) == 0
    for name, result in tight.items():
        assert result.token_ids == free[name].token_ids, (name, result.num_preemptions)
        assert small.logprobs[name] == pytest.approx(engine.logprobs[name], abs=1e-3), name
        assert result.density_prefill == pytest.approx(free[name].density_prefill), name
        assert result.density_decode == pytest.approx(free[name].density_decode), name


def test_chunked_prefill_is_exact_for_decode_methods_and_refused_for_prefill_methods(
    model: tuple[Path, Any], together: dict[str, Generation], engine: VllmEngine
) -> None:
    chunked = tiny_engine(model[0], options={"enable_chunked_prefill": True, "max_num_batched_tokens": 48})
    names = ("dense", "quest", "snapkv", "ada_snapkv", "tova", "foreign compress")
    try:
        done = run_requests(
            chunked,
            [request(n, SMALL[n], together[n].num_prompt_tokens) for n in names]
            + [request("refused", SMALL["block_sparse"], 100)],
        )
        for name in names:
            assert done[name].token_ids == together[name].token_ids, name
            assert chunked.logprobs[name] == pytest.approx(engine.logprobs[name], abs=1e-3), name
        assert "block_sparse needs the whole prompt in one step" in done["refused"].failure.message
    finally:
        chunked.close()


def test_rope_scaling_is_applied_as_transformers_applies_it(model: tuple[Path, Any]) -> None:
    """YaRN by the spec's override, beyond the length that the model's own config allows."""
    transformers = pytest.importorskip("transformers")
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}
    config = transformers.AutoConfig.from_pretrained(model[0])
    config.rope_parameters = {"rope_theta": config.rope_parameters["rope_theta"], **scaling}
    scaled = transformers.AutoModelForCausalLM.from_pretrained(model[0], config=config).float().eval()
    engine = tiny_engine(model[0], max_model_len=4096, rope_scaling=scaling, max_in_flight=2)
    try:
        result = run_requests(engine, [request("yarn", {}, 150)])["yarn"]
        found = torch.tensor(engine.logprobs["yarn"])
    finally:
        engine.close()
    ids = torch.tensor([[*prompt(150), *result.token_ids]])
    with torch.no_grad():
        expected = scaled(ids).logits[0, 149:-1].log_softmax(-1)
    assert expected.argmax(-1).tolist() == list(result.token_ids)
    assert (found - expected.gather(1, ids[0, 150:, None])[:, 0]).abs().max() < BOUND
