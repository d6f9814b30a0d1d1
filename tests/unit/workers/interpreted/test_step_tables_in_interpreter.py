"""One layer's decode rows by way of step tables against the same rows served group by group."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_step_tables.py in a process with TRITON_INTERPRET=1", allow_module_level=True)

from sparsekernels.bench import parity
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods import snapkv
from sparsekernels.parameters import SnapKV

from workers.vllm_plugin.attention import LayerCall
from workers.vllm_plugin.decoding import Decoder
from workers.vllm_plugin.groups import FreshRows
from workers.vllm_plugin.parallel import Ranks
from workers.vllm_plugin.plan import Plan, Span, make_plan
from workers.vllm_plugin.requests import Kept, RequestState
from workers.vllm_plugin.step_tables import Step, StepTables, shape_of

torch.set_num_threads(1)
LAYER = "model.layers.0.self_attn.attn"
PAGE, HEADS = 16, (4, 2, 32)
ALONE = Ranks(None, 0, 1, 1)
METHODS: dict[str, dict[str, Any]] = {
    "dense": {},
    "quest": {"decode": {"name": "quest", "token_budget": 32}},
    "wide quest": {"decode": {"name": "quest", "token_budget": 64}},
    "quest by head": {"decode": {"name": "quest", "token_budget": 48, "share_pages": False}},
    "snapkv": {"compress": {"name": "snapkv", "token_capacity": 24, "sink_size": 2, "local_size": 4, "window": 4}},
    "wide snapkv": {"compress": {"name": "snapkv", "token_capacity": 40, "sink_size": 2, "local_size": 4, "window": 4}},
}


def make_requests(names: list[str], lengths: list[int], kv: KeyValues) -> list[RequestState]:
    """Requests three tokens behind their prompts; compressed ones have kept what random votes chose."""
    g = torch.Generator().manual_seed(7)
    requests = []
    for row, (name, length) in enumerate(zip(names, lengths, strict=True)):
        request = RequestState.new(name, length - 3, {"id": name, "method": METHODS[name]})
        if isinstance(request.method.compress, SnapKV):
            kept = snapkv.keep(torch.rand(HEADS[1], length - 3, generator=g), request.method.compress)
            request.kept[LAYER] = Kept.of(kept, kv.block_table[row], PAGE, adaptive=False)
        requests.append(request)
    return requests


def make_call(kv: KeyValues, lengths: list[int], rows: int) -> LayerCall:
    """A padded batch: queries, each row's own key, an output of sevens, block tables and slots."""
    g = torch.Generator().manual_seed(8)
    query = torch.randn(rows, HEADS[0], HEADS[2], generator=g)
    key = torch.zeros(rows, HEADS[1], HEADS[2])
    slots = torch.full((rows,), -1, dtype=torch.int64)
    for row, length in enumerate(lengths):
        page = int(kv.block_table[row, (length - 1) // PAGE])
        key[row] = kv.keys[page, (length - 1) % PAGE]
        slots[row] = page * PAGE + (length - 1) % PAGE
    table = torch.nn.functional.pad(kv.block_table, (0, 32 - kv.block_table.shape[1], 0, rows - len(lengths)))
    metadata = SimpleNamespace(block_table=table.contiguous(), slot_mapping=slots)
    return LayerCall(LAYER, query, key, torch.full_like(query, 7.0), kv.keys, metadata)


def plan_of(requests: list[RequestState], lengths: list[int]) -> Plan:
    return make_plan([Span(r, i, i, 1, n - 1) for i, (r, n) in enumerate(zip(requests, lengths, strict=True))])


def run_tables(decoder: Decoder, call: LayerCall, kv: KeyValues, plan: Plan, tables: StepTables, rows: int) -> None:
    members = [(span.request, span.first_position) for span in (*plan.dense, *plan.decode)]
    shape = shape_of(rows, members, PAGE)
    assert shape is not None
    assert tables.can_hold(shape)
    fresh = [(s.row, s, s.first_position) for s in plan.decode if s.request.method.decode is not None]
    if fresh:
        decoder.build(kv.keys, call.metadata.block_table, FreshRows.of(fresh, PAGE, torch.device("cpu")))
    tables.fill(plan)
    step = Step.start(shape, tables, 512, call.metadata.slot_mapping)
    decoder.run_step(call, step, kv.keys, kv.values)


@pytest.mark.parametrize(
    "names",
    [
        ["quest", "wide quest", "quest"],
        ["snapkv", "wide snapkv"],
        ["dense", "quest", "snapkv", "wide quest", "quest by head", "wide snapkv", "dense"],
    ],
)
def test_tables_serve_the_same_rows_as_groups(names: list[str]) -> None:
    lengths = [
        int(n) for n in torch.randint(40, 300, (len(names),), generator=torch.Generator().manual_seed(len(names)))
    ]
    rows = len(names) + 2
    kv, _ = parity.random_cache(lengths, HEADS, PAGE, "cpu", torch.float32)
    expected, found = make_call(kv, lengths, rows), make_call(kv, lengths, rows)
    Decoder("triton", ALONE, HEADS[2] ** -0.5).run(
        expected, plan_of(make_requests(names, lengths, kv), lengths).decode, kv.keys, kv.values
    )
    plan = plan_of(make_requests(names, lengths, kv), lengths)
    tables = StepTables(rows, [LAYER], torch.device("cpu"))
    run_tables(Decoder("triton", ALONE, HEADS[2] ** -0.5), found, kv, plan, tables, rows)
    sparse = [span.row for span in plan.decode]
    assert torch.allclose(found.output[sparse], expected.output[sparse], atol=1e-6)
    others = [row for row in range(rows) if row not in sparse]
    assert (found.output[others] == (7.0 if "dense" in names else 0.0)).all()
    read = {span.request.name: span.request.decode.read for span in plan.decode}
    assert all(len(counts) == 1 for counts in read.values())


def test_a_row_may_change_hands_between_two_steps_of_one_shape() -> None:
    lengths = [120, 90]
    kv, _ = parity.random_cache(lengths, HEADS, PAGE, "cpu", torch.float32)
    tables = StepTables(2, [LAYER], torch.device("cpu"))
    decoder = Decoder("triton", ALONE, HEADS[2] ** -0.5)
    for names in (["snapkv", "quest"], ["quest", "snapkv"], ["wide snapkv", "snapkv"]):
        expected, found = make_call(kv, lengths, 2), make_call(kv, lengths, 2)
        Decoder("triton", ALONE, HEADS[2] ** -0.5).run(
            expected, plan_of(make_requests(names, lengths, kv), lengths).decode, kv.keys, kv.values
        )
        run_tables(decoder, found, kv, plan_of(make_requests(names, lengths, kv), lengths), tables, 2)
        assert torch.allclose(found.output, expected.output, atol=1e-6), names
