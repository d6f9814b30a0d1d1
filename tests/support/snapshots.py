"""Fixed snapshots for the dashboard's tests and for the picture in the README. Every number in them is made up."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from orchestrator.dashboard.snapshot import (
    CellView,
    Eta,
    EventView,
    FailureCount,
    FailureView,
    Header,
    Snapshot,
    WorkerView,
)

NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
TASKS = (
    "ruler_niah",
    "ruler_vt",
    "ruler_cwe",
    "qa_squad",
    "qa_quality",
    "qa_toefl",
    "story_retrieval",
    "story_multihop",
    "story_filtering",
)
MODELS = ("Qwen2.5-7B-Instruct", "Qwen2.5-14B-Instruct", "Qwen2.5-32B-Instruct", "Qwen2.5-72B-Instruct")
METHODS = (
    ("dense", ""),
    ("vertical_slash", "256"),
    ("vertical_slash", "1024"),
    ("flexprefill", "0.7"),
    ("flexprefill", "0.95"),
    ("block_sparse", "16"),
    ("block_sparse", "256"),
    ("snapkv", "512"),
    ("ada_snapkv", "512"),
    ("quest", "512"),
    ("quest", "4096"),
    ("vertical_slash+quest", "512/512"),
)
LENGTHS = (16384, 32768, 65536, 131072)
SAMPLES = 100


def _unit(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _cell(model: str, method: tuple[str, str], task: str, length: int, recorded: int, leased: int) -> CellView:
    level = 0.95 - 0.12 * LENGTHS.index(length) - 0.4 * _unit(task) * (method[0] != "dense") * _unit(method)
    failed = 2 if recorded and _unit("failed", model, method, task, length) > 0.97 else 0
    scored = recorded - failed
    return CellView(
        key=f"{model}/{method}/{task}/{length}",
        model=model,
        method=method[0],
        budget=method[1],
        task=task,
        length_tokens=length,
        seed=43,
        num_samples=SAMPLES,
        num_recorded=recorded,
        num_scored=scored,
        num_unanswered=scored // 40,
        num_failed=failed,
        score_sum=round(scored * max(0.0, level), 3),
        num_leased_shards=leased,
    )


def _cells(done_share: float) -> tuple[CellView, ...]:
    places = [(m, x, t, n) for m in MODELS for n in LENGTHS for x in METHODS for t in TASKS]
    border = done_share * len(places)
    cells = []
    for place, (model, method, task, length) in enumerate(places):
        late = border - place + 60 * (_unit(model, method, task, length) - 0.5)
        recorded = SAMPLES if late > 25 else 0 if late < -25 else round(SAMPLES * (late + 25) / 50)
        cells.append(_cell(model, method, task, length, recorded, int(0 < recorded < SAMPLES)))
    return tuple(cells)


def _workers(number: int) -> tuple[WorkerView, ...]:
    states = ["busy"] * (number - 3) + ["starting", "draining", "lost"]
    return tuple(
        WorkerView(
            name=f"w{i:02d}",
            host=f"node{i // 2:02d}",
            gpus="4×",
            engine="Qwen2.5-72B-Instruct tp4",
            state=state,
            shard=f"quest 512 · story_multihop · {16 << (i % 4)}k" if state in ("busy", "draining") else "",
            shard_done=(37 * i) % 100,
            shard_samples=100 if state in ("busy", "draining") else 0,
            num_in_flight=16 if state == "busy" else 3 if state == "draining" else 0,
            tokens_per_second=1830.0 + 17 * i if state == "busy" else None,
            kv_use=0.31 + 0.05 * i % 0.69 if state == "busy" else None,
            heartbeat_age_seconds=412.0 if state == "lost" else float(i % 9),
            num_recorded=2000 - 31 * i,
        )
        for i, state in enumerate(states)
    )


_FAILURES = (
    ("worker_lost", "w15 on node07", "no heartbeat for 120 s; the lease expired", "retried, not charged"),
    (
        "out_of_memory",
        "quest 512 · story_multihop · 128k",
        "CUDA out of memory: tried 4.12 GiB",
        "retried, 8 in flight",
    ),
    ("engine_crash", "block_sparse 256 · qa_quality · 64k #17", "engine process died with signal 11", "quarantined"),
    ("over_length", "dense · story_filtering · 128k #3", "prompt 131,211 + output 2,048 > 132,000 tokens", "recorded"),
    (
        "bad_sample",
        "dense · qa_toefl · 128k #88",
        "no passage fills 90 % of the window\x1b[2J\nsecond line",
        "recorded",
    ),
)
_EVENTS = (
    ("lease expired", "shard 4811 returns to ready; attempt 5120 is fenced off"),
    ("worker joined", "w17 on node08: Qwen2.5-72B-Instruct tp4, loaded in 212 s"),
    ("shard done", "quest 512 · story_retrieval · 32k: 100 recorded in 94 s"),
    ("quarantined", "block_sparse 256 · qa_quality · 64k #17 after 3 engine deaths"),
    ("worker lost", "w15 on node07: no heartbeat for 120 s"),
    ("shard done", "dense · ruler_vt · 128k: 100 recorded in 402 s"),
    ("resumed", "campaign resumed; 14 workers adopted with their engines"),
    ("orchestrator lost", "its lease expired; a new one took over"),
)


def _failures() -> tuple[FailureView, ...]:
    return tuple(
        FailureView(at=NOW - timedelta(seconds=71 * i), kind=k, place=p, message=m, consequence=c)
        for i, (k, p, m, c) in enumerate(_FAILURES * 4)
    )


def _events() -> tuple[EventView, ...]:
    return tuple(
        EventView(at=NOW - timedelta(seconds=13 * i), kind=k, text=t, sequence=1000 - i)
        for i, (k, t) in enumerate(_EVENTS * 5)
    )


def _header(cells: tuple[CellView, ...], state: str, num_gpus: int) -> Header:
    recorded = sum(c.num_recorded for c in cells)
    return Header(
        campaign="sparse-frontier-v1",
        state=state,
        is_driven=state == "running",
        store="postgresql+psycopg://eval:***@head.cluster:5432/frontier",
        taken_at=NOW,
        started_at=NOW - timedelta(days=4, hours=3, minutes=12),
        finished_at=NOW - timedelta(hours=2) if state == "complete" else None,
        num_samples=sum(c.num_samples for c in cells),
        num_recorded=recorded,
        num_scored=sum(c.num_scored for c in cells),
        num_unanswered=sum(c.num_unanswered for c in cells),
        num_failed=sum(c.num_failed for c in cells),
        num_retries=17 if recorded else 0,
        samples_per_second=1.32 if state == "running" and recorded else None,
        tokens_per_second=31840.0 if state == "running" and recorded else None,
        eta=Eta(low_seconds=151_000, high_seconds=187_000) if state == "running" and recorded else None,
        num_workers=num_gpus // 4,
        num_busy_workers=num_gpus // 4 * 15 // 18,
        num_gpus=num_gpus,
        gpu_busy_share=0.934 if num_gpus else None,
    )


def running() -> Snapshot:
    """A large campaign in the middle, with failures."""
    cells = _cells(0.45)
    return Snapshot(
        header=_header(cells, "running", 72),
        cells=cells,
        workers=_workers(18),
        failures=_failures(),
        failure_counts=tuple(
            FailureCount(kind=k, num=n)
            for k, n in (("worker_lost", 9), ("out_of_memory", 6), ("over_length", 4), ("engine_crash", 3))
        ),
        events=_events(),
    )


def waiting() -> Snapshot:
    """The same campaign just after its submission: nothing has run."""
    cells = _cells(-1.0)
    return Snapshot(
        header=_header(cells, "ready", 0), cells=cells, workers=(), failures=(), failure_counts=(), events=()
    )


def finished() -> Snapshot:
    """The same campaign at its end."""
    cells = _cells(2.0)
    return Snapshot(
        header=_header(cells, "complete", 0),
        cells=cells,
        workers=(),
        failures=(),
        failure_counts=(),
        events=_events()[:3],
    )
