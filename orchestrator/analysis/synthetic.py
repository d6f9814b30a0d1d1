"""Synthetic campaigns drawn from a known law, for tests, demonstrations and sizing; marked as synthetic throughout.

Scores follow logit(accuracy) = intercept + α log N + β log L + γ log C + δ_task. Samples share a latent
difficulty across methods, so that paired scores correlate while each cell's mean stays exactly the law's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd

from orchestrator.analysis.columns import CELL_COLUMNS
from orchestrator.analysis.frame import Array, CampaignFrames

MODELS: dict[str, float] = {
    "Qwen2.5-7B-Instruct": 7.6,
    "Qwen2.5-14B-Instruct": 14.8,
    "Qwen2.5-32B-Instruct": 32.8,
    "Qwen2.5-72B-Instruct": 72.7,
}
TASKS: dict[str, tuple[float, int]] = {
    "qa_squad": (0.9, 5),
    "qa_quality": (0.5, 1),
    "qa_toefl": (1.1, 1),
    "ruler_niah": (3.2, 4),
    "ruler_vt": (-0.6, 5),
    "ruler_cwe": (0.4, 10),
    "story_retrieval": (1.6, 16),
    "story_multihop": (-1.6, 1),
    "story_filtering": (-1.9, 3),
}
"""Task effect on the logit scale, and the number of queries whose mean is a sample's score."""
METHODS: dict[str, tuple[str, float]] = {
    "vertical_slash": ("prefill", -0.45),
    "flexprefill": ("prefill", -0.6),
    "block_sparse": ("prefill", -0.7),
    "snapkv": ("compress", -0.85),
    "ada_snapkv": ("compress", -0.7),
    "quest": ("decode", -0.3),
    "vertical_slash+quest": ("prefill+decode", -0.65),
}
"""Phase and γ of each method."""
COMPRESSIONS = (1.43, 1.67, 2.0, 2.5, 3.33, 5.0, 7.5, 10.0, 15.0, 20.0)
LENGTHS = (16384, 32768, 65536, 128000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The truth behind a synthetic campaign; natural logarithms of N (parameters), L (tokens) and C."""

    intercept: float = -14.6
    alpha: float = 1.1
    beta: float = -0.95
    methods: Mapping[str, tuple[str, float]] = field(default_factory=lambda: dict(METHODS))
    tasks: Mapping[str, tuple[float, int]] = field(default_factory=lambda: dict(TASKS))

    def logit(self, parameters_b: Array, length: Array, compression: Array, gamma: Array, delta: Array) -> Array:
        size = self.alpha * np.log(parameters_b * 1e9)
        value: Array = self.intercept + size + self.beta * np.log(length) + gamma * np.log(compression) + delta
        return value


def synthetic_campaign(
    *,
    law: Law | None = None,
    models: Mapping[str, float] = MODELS,
    lengths: tuple[int, ...] = LENGTHS,
    compressions: tuple[float, ...] = COMPRESSIONS,
    num_samples: int = 100,
    correlation: float = 0.7,
    recorded_share: float = 1.0,
    unanswered_share: float = 0.01,
    failed_share: float = 0.002,
    seed: int = 43,
    name: str = "synthetic",
) -> CampaignFrames:
    """A campaign of dense and every method of the law at every compression; the full size by default.

    `recorded_share` below 1 leaves out that share of cells from the end, as an unfinished campaign does.
    """
    law = law or Law()
    generator = np.random.default_rng(seed)
    cells = _cells(law, models, lengths, compressions, num_samples, name)
    probability = _probability(law, cells)
    scores = _scores(law, cells, probability, num_samples, correlation, generator)
    num_recorded = round(recorded_share * len(cells))
    cells["state"] = np.where(np.arange(len(cells)) < num_recorded, "done", "ready")
    outcomes = _outcomes(cells.iloc[:num_recorded], scores[:num_recorded], generator, unanswered_share, failed_share)
    provenance = {"source": "synthetic data drawn from a known law; not a measurement", "generator seed": str(seed)}
    state = "done" if recorded_share >= 1 else "running"
    return CampaignFrames(name=name, state=state, cells=cells, outcomes=outcomes, provenance=provenance)


def _cells(
    law: Law,
    models: Mapping[str, float],
    lengths: tuple[int, ...],
    compressions: tuple[float, ...],
    num_samples: int,
    name: str,
) -> pd.DataFrame:
    levels = [("dense", "dense", 1.0), *((m, p, c) for (m, (p, _)), c in product(law.methods.items(), compressions))]
    rows: list[dict[str, object]] = []
    for (task, (model, size), length), (method, phase, level) in product(
        product(law.tasks, models.items(), lengths), levels
    ):
        row = {"campaign": name, "model": model, "num_parameters_b": size, "method": method, "phase": phase}
        row |= {"task": task, "length_tokens": length, "compression": level, "seed": 43, "num_samples": num_samples}
        row |= {
            "budget": "" if method == "dense" else f"{level:g}×",
            "task_version": 1,
            "cell_key": f"c{len(rows):06d}",
        }
        rows.append(row | {"method_choice": json.dumps(_wire(method, length, level))})
    return pd.DataFrame(rows).reindex(columns=[c.name for c in CELL_COLUMNS])


def _wire(method: str, length: int, level: float) -> dict[str, dict[str, object]]:
    tokens = max(160, int(length / level) // 16 * 16)
    forms: dict[str, tuple[str, dict[str, object]]] = {
        "vertical_slash": ("prefill", {"name": "vertical_slash", "vertical_size": tokens, "slash_size": tokens}),
        "flexprefill": ("prefill", {"name": "flexprefill", "alpha": 0.0, "min_budget": tokens}),
        "block_sparse": ("prefill", {"name": "block_sparse", "top_blocks": max(3, tokens // 16)}),
        "snapkv": ("compress", {"name": "snapkv", "token_capacity": tokens}),
        "ada_snapkv": ("compress", {"name": "ada_snapkv", "token_capacity": tokens}),
        "quest": ("decode", {"name": "quest", "token_budget": tokens}),
    }
    return dict(forms[part] for part in method.split("+") if part in forms)


def _probability(law: Law, cells: pd.DataFrame) -> Array:
    gamma = cells["method"].map({m: g for m, (_, g) in law.methods.items()}).fillna(0.0).to_numpy(np.float64)
    delta = cells["task"].map({t: d for t, (d, _) in law.tasks.items()}).to_numpy(np.float64)
    size, length, level = (cells[c].to_numpy(np.float64) for c in ("num_parameters_b", "length_tokens", "compression"))
    probability: Array = 1 / (1 + np.exp(-law.logit(size, length, level, gamma, delta)))
    return probability


def _scores(
    law: Law,
    cells: pd.DataFrame,
    probability: Array,
    num_samples: int,
    correlation: float,
    generator: np.random.Generator,
) -> Array:
    """[cells, samples]: each query is right when its latent uniform is below p; a share of uniforms is common."""
    scores = np.empty((len(cells), num_samples), dtype=np.float32)
    for _, rows in cells.groupby(["task", "model", "length_tokens"], sort=False).indices.items():
        num_queries = law.tasks[cells["task"].iat[int(rows[0])]][1]
        shared = generator.random((1, num_samples, num_queries), dtype=np.float32)
        own = generator.random((len(rows), num_samples, num_queries), dtype=np.float32)
        use_shared = generator.random(own.shape, dtype=np.float32) < correlation
        right = np.where(use_shared, shared, own) < probability[rows][:, None, None]
        scores[rows] = right.mean(axis=2)
    return scores.astype(np.float64)


def _outcomes(
    cells: pd.DataFrame, scores: Array, generator: np.random.Generator, unanswered_share: float, failed_share: float
) -> pd.DataFrame:
    count, width = scores.shape
    size = count * width
    draw = generator.random(size, dtype=np.float32)
    failed, unanswered = draw < failed_share, (draw >= failed_share) & (draw < failed_share + unanswered_share)
    score = np.where(unanswered, 0.0, np.where(failed, np.nan, scores.reshape(-1)))
    verdict = np.select([failed, unanswered, score >= 0.5], [0, 1, 2], 3)
    repeat = {c: np.repeat(cells[c].to_numpy(), width) for c in ("length_tokens", "compression", "num_parameters_b")}
    prompts = cells.groupby(["task", "model", "length_tokens"], sort=False).ngroup().to_numpy()
    samples = (prompts[:, None] * width + np.arange(width)).reshape(-1)
    data = {
        "cell_key": pd.Categorical.from_codes(np.repeat(np.arange(count), width), categories=cells["cell_key"]),
        "seed": np.full(size, 43),
        "index": np.tile(np.arange(width), count),
        "sample_key": pd.Categorical.from_codes(
            samples, categories=[f"s{i}" for i in range(samples.max(initial=-1) + 1)]
        ),
        "verdict": pd.Categorical.from_codes(verdict, categories=["unscored", "unanswered", "correct", "incorrect"]),
        "score": score,
        "failure_kind": pd.Categorical.from_codes(np.where(failed, 0, 1), categories=["over_length", ""]),
    }
    return pd.DataFrame(data | _densities(cells, width) | _times(repeat, size, generator))


def _densities(cells: pd.DataFrame, width: int) -> dict[str, Array]:
    density = 1 / cells["compression"].to_numpy()
    acts = {phase: cells["phase"].str.contains(phase).to_numpy() for phase in ("prefill", "decode", "compress")}
    columns = {"density_prefill": "prefill", "density_decode": "decode", "kv_kept": "compress"}
    return {n: np.repeat(np.where(acts[p], density, 1.0), width).astype(np.float32) for n, p in columns.items()}


def _times(repeat: Mapping[str, Array], size: int, generator: np.random.Generator) -> dict[str, Array]:
    noise = generator.lognormal(0, 0.1, size).astype(np.float32)
    work = repeat["num_parameters_b"] * repeat["length_tokens"] / 1e6
    first = (0.2 + 2.0 * work * (0.5 + 0.5 / repeat["compression"])) * noise
    tokens = generator.integers(80, 320, size)
    decode = tokens * (0.006 + 0.0004 * repeat["num_parameters_b"]) * noise
    return {
        "num_prompt_tokens": (repeat["length_tokens"] * 0.98).astype(np.float32),
        "num_output_tokens": tokens.astype(np.float32),
        "seconds_to_first_token": first.astype(np.float32),
        "seconds_decode": decode.astype(np.float32),
        "seconds_total": (first + decode).astype(np.float32),
        "recorded_at": 1.7e9 + np.cumsum(first + decode) / 64,
    }
