"""What a campaign file means, and what each mistake in one is answered with."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.domain.grid import expand
from orchestrator.domain.spec_file import load_cells, parse_spec
from orchestrator.errors import SpecError
from orchestrator.models import describe_model

GOOD = """\
name: small
models: [smollm2-135m]
methods:
  - dense
  - quest: {token_budget: [256, 512]}
  - name: both
    prefill: {vertical_slash: {vertical_size: [128, 256], slash_size: [128, 256]}}
    decode: {quest: {token_budget: 128}}
tasks:
  - ruler_niah: {num_queries: 2}
lengths: [1024, 2048]
samples: 8
"""

MISTAKES = [
    (
        "[smollm2-135m]",
        "[{source: smollm2-135m, pipeline_parallel: 3, nodes_per_engine: 2}]",
        "2:55: nodes_per_engine is 2; it must divide the 3 GPUs of one engine (tensor_parallel 1 × ",
    ),
    (
        "[smollm2-135m]",
        "[{source: smollm2-135m, pipeline_parallel: 0}]",
        "2:33: models.0.pipeline_parallel is 0",
    ),
    ("samples: 8", "sampels: 8", "12:1: unknown key 'sampels'; did you mean 'samples'?"),
    ("samples: 8", 'samples: "8"', "12:1: samples is '8': input should be a valid integer"),
    ("samples: 8", "samples: 8\nsamples: 9", '13:1: YAML: found duplicate key "samples"'),
    ("[1024, 2048]", "[1024, 1024]", "11:17: duplicate 1024 in lengths"),
    ("name: both", "name: quest", "6:5: duplicate name 'quest' in methods"),
    ("[256, 512]", "[256, 500]", "5:13: quest: token_budget is 500; it must be a positive multiple of page_size (16)"),
    ("token_budget: [256", "budget: [256", "5:13: quest has no option 'budget'"),
    ("- quest:", "- qust:", "5:5: unknown method 'qust'; did you mean 'quest'?"),
    ("ruler_niah:", "ruler_nia:", "10:5: unknown task 'ruler_nia'; did you mean 'ruler_niah'?"),
    ("num_queries: 2", "num_querys: 2", "10:18: ruler_niah: ruler_niah has no parameter 'num_querys'"),
    ("num_queries: 2", "num_queries: -2", "10:18: ruler_niah: ruler_niah.num_queries must lie in [1, 64], not -2"),
    ("2048]", "12048]", "11:17: length 12048 and 1024 output tokens exceed the context of model smollm2-135m"),
    ("[smollm2-135m]", "[smolm2]", "2:10: model 'smolm2' is no short name (smollm2-135m), no folder and no hub id"),
    ("lengths: [1024, 2048]\n", "", "1:1: lengths is missing"),
    ("decode: {quest", "decod: {quest", "8:5: unknown key 'decod'; did you mean 'decode'?"),
    ("decode: {quest: {token_budget: 128}}", "decode: {snapkv: {token_capacity: 512}}", "8:5: snapkv is a compress"),
    (
        "quest: {token_budget: [256, 512]}",
        "snapkv: {compression: [4, 16]}",
        "5:5: snapkv: token_capacity is 64; it must exceed sink_size + local_size (132) (at length 1024)",
    ),
    ("slash_size: [128, 256]", "slash_size: [128, 256, 512]", "6:5: lists of one method advance together"),
    ("[smollm2-135m]", "[{source: smollm2-135m, tensor_paralel: 2}]", "2:33: unknown key 'tensor_paralel'"),
    ("[smollm2-135m]", "[{source: smollm2-135m, rope: paper}]", "2:33: models.0.rope is 'paper'"),
    ("name: small", "name: two words", "1:1: name 'two words' must be letters"),
    ("samples: 8", "  a: [", "12:3: YAML: "),
    (GOOD, "", "1:1: a campaign file is a mapping"),
    ("[256, 512]", "[]", "5:13: quest: token_budget is []; it must hold at least one value"),
    ("[256, 512]", "{}", "5:13: quest: token_budget is {}; it must hold at least one value"),
    ("[256, 512]", "{1024: []}", "5:13: quest: token_budget is {1024: []}; it must hold at least one value"),
    ("[256, 512]", "{'1024': 64}", "5:13: quest: token_budget is given for '1024'; a length is a whole number"),
    ("[256, 512]", "{4096: 64}", "5:5: methods.1 (quest) names none of the campaign's lengths"),
    ("- ruler_niah: {num_queries: 2}", "- {task: ruler_vt, lengths: [4096]}", "10:5: tasks.0 (ruler_vt) names none"),
    (
        "- ruler_niah: {num_queries: 2}",
        "- ruler_niah: 0",
        "10:5: parameters of ruler_niah are 0; they",
    ),
    ("{token_budget: [256, 512]}", "{compression: .nan}", "5:13: quest: compression is nan; it must be a number"),
    ("{token_budget: [256, 512]}", "{compression: 4, page_size: 0}", "5:29: quest: page_size is 0; it must be a whole"),
    ("samples: 8", "samples: 1000000000", "12:1: samples is 1000000000: input should be less than or equal to"),
    ("samples: 8", "seed: 9999999999999999999", "12:1: seed is 9999999999999999999: "),
    ("samples: 8", "gpu_hours: .inf", "12:1: gpu_hours is inf: input should be a finite number"),
    ("samples: 8", 'gpu_hours: "12"', "12:1: gpu_hours is '12': input should be a valid number"),
    ("samples: 8", 'description: "a\\0b"', "12:1: description is 'a\\x00b'; it must be text"),
    ("samples: 8", "samples: !!bool abc", "1:1: YAML: 'abc' does not fit its tag"),
    ("samples: 8", "? [a, b]\n: 1", "12:3: a key is \"('a', 'b')\"; it must be a name"),
    ("samples: 8", f"description: {'[' * 3000}{']' * 3000}", "1:1: YAML: lists or mappings nest too deep"),
    ("[1024, 2048]", "1024", "11:1: lengths is 1024: input should be a valid list"),
    ("samples: 8", "sampling: 3", "12:1: sampling is 3: input should be a valid mapping"),
    ("[smollm2-135m]", "[{source: smollm2-135m, name: ''}]", "2:33: a name is ''; it must be one line"),
    ("[smollm2-135m]", "[{source: smollm2-135m, rope: {yarn_factor: .inf}}]", "2:33: models.0.rope"),
    ("[smollm2-135m]", "[{source: smollm2-135m, rope: {}}]", "2:33: models.0.rope.yarn_factor is missing"),
    ("[smollm2-135m]", f"[{{source: {'m' * 5000}, name: m}}]", "2:11: model 'mmmm"),
    ("[smollm2-135m]", "[~nobody-of-this-name/model]", "2:10: model '~nobody-of-this-name/model' is no"),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) >= 1
    path = tmp_path / "campaign.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_cells(path, describe_model)
    assert str(caught.value).startswith(f"{path}:{expected}")
    assert "\n" not in str(caught.value)


def test_characters_beyond_the_first_plane_are_read_from_json_too() -> None:
    text = GOOD + 'description: "\\ud83d\\ude42"\n'
    assert parse_spec(text).description == "🙂"


def test_aliases_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    lists = [f"{name}: &{name} [{', '.join([f'*{last}'] * 10)}]" for last, name in pairwise("abcdefghij")]
    (tmp_path / "spec.yaml").write_text("\n".join(["a: &a [x]", *lists]))
    with pytest.raises(SpecError, match=r"spec\.yaml:1:1: more than 200,000 values, with aliases written out"):
        load_cells(tmp_path / "spec.yaml", describe_model)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.yaml: cannot read: No such file"):
        load_cells(tmp_path / "nowhere.yaml", describe_model)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_cells(tmp_path / "spec.yaml", describe_model)


def test_lists_advance_together_and_phases_multiply() -> None:
    cells = expand(parse_spec(GOOD), describe_model)
    assert [(c.method_label, c.budget) for c in cells if c.length_tokens == 1024] == [
        ("dense", ""),
        ("quest", "token_budget=256"),
        ("quest", "token_budget=512"),
        ("both", "vertical_size=128+token_budget=128"),
        ("both", "vertical_size=256+token_budget=128"),
    ]


def test_the_same_spec_gives_the_same_keys_wherever_the_model_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = [cell.key for cell in expand(parse_spec(GOOD), describe_model)]
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path))
    elsewhere = [cell.key for cell in expand(parse_spec(GOOD), describe_model)]
    assert here == elsewhere
    assert len(set(here)) == len(here)


def test_more_samples_keep_the_keys_and_another_seed_does_not() -> None:
    def keys(text: str) -> set[str]:
        return {cell.key for cell in expand(parse_spec(text), describe_model)}

    assert keys(GOOD) == keys(GOOD.replace("samples: 8", "samples: 80"))
    assert keys(GOOD).isdisjoint(keys(GOOD + "seed: 44\n"))
    assert keys(GOOD).isdisjoint(keys(GOOD + "max_output_tokens: 64\n"))
    assert keys(GOOD).isdisjoint(keys(GOOD.replace("num_queries: 2", "num_queries: 3")))


def test_a_budget_for_each_length_skips_the_lengths_that_it_does_not_name() -> None:
    text = GOOD.replace("[256, 512]", "{1024: [128, 256, 512]}")
    cells = [c for c in expand(parse_spec(text), describe_model) if c.method_label == "quest"]
    assert [(c.length_tokens, c.compression) for c in cells] == [(1024, 8.0), (1024, 4.0), (1024, 2.0)]


def test_a_compression_becomes_the_methods_own_budget() -> None:
    text = GOOD.replace("token_budget: [256, 512]", "compression: [5, 10]")
    budgets = [c.budget for c in expand(parse_spec(text), describe_model) if c.method_label == "quest"]
    assert budgets == ["token_budget=192", "token_budget=96", "token_budget=400", "token_budget=192"]


def test_a_compression_is_judged_at_the_campaigns_own_lengths() -> None:
    text = GOOD.replace("quest: {token_budget: [256, 512]}", "snapkv: {compression: 40}")
    cells = expand(parse_spec(text.replace("[1024, 2048]", "[7000]")), describe_model)
    assert [c.budget for c in cells if c.method_label == "snapkv"] == ["token_capacity=175"]


def test_the_window_follows_the_task_unless_given() -> None:
    cells = expand(parse_spec(GOOD), describe_model)
    assert {c.method["prefill"]["window"] for c in cells if "prefill" in c.method} == {512}


def test_one_engine_serves_all_lengths_unless_rope_changes_with_the_length(tmp_path: Path) -> None:
    model = tmp_path / "qwen"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 32768}')
    text = GOOD.replace("[smollm2-135m]", f"[{{source: {model}, rope: RULE}}]").replace(
        "[1024, 2048]", "[32768, 65536]"
    )
    per_length = expand(parse_spec(text.replace("RULE", "yarn_per_length")), describe_model)
    assert {(c.length_tokens, c.engine.rope_scaling["factor"]) for c in per_length if c.engine.rope_scaling} == {
        (32768, 1.03125),
        (65536, 2.03125),
    }
    fixed = expand(parse_spec(text.replace("RULE", "{yarn_factor: 4}")), describe_model)
    assert len({repr(c.engine) for c in fixed}) == 1
    with pytest.raises(SpecError, match="exceed the context of model qwen, 32768 tokens"):
        expand(parse_spec(text.replace("RULE", "native")), describe_model)


def test_a_point_named_twice_is_measured_once() -> None:
    text = GOOD.replace("  - dense\n", "  - dense\n  - name: again\n")
    assert len(expand(parse_spec(text), describe_model)) == len(expand(parse_spec(GOOD), describe_model))
