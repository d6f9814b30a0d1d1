"""The documented columns of the two tables that analyses read and exports write. Plain Python.

The names are stable: a column may be added, never renamed or given another meaning. `SCHEMA_VERSION`
rises with every addition and is written into each export.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, kind (`string`, `int`, `float`, `json`) and meaning with unit."""

    name: str
    kind: str
    meaning: str


CELL_COLUMNS: tuple[Column, ...] = (
    Column("campaign", "string", "name of the campaign"),
    Column("cell_key", "string", "identity of the cell: hash of everything that can change its numbers"),
    Column("model", "string", "name of the model"),
    Column("num_parameters_b", "float", "parameters of the model, 10⁹; null when unknown"),
    Column("method", "string", "label of the method; `dense` for full attention"),
    Column("phase", "string", "where it acts: dense, prefill, decode, compress, or several joined by +"),
    Column("budget", "string", "the knob in the method's own unit; empty for dense"),
    Column("compression", "float", "nominal dense ÷ computed pairs or entries; 1 for dense; null when only measured"),
    Column("method_choice", "json", "the methods of all phases with every parameter"),
    Column("task", "string", "label of the task"),
    Column("task_version", "int", "version of the task's generator and scorer"),
    Column("length_tokens", "int", "target prompt length, tokens"),
    Column("seed", "int", "seed of the samples"),
    Column("num_samples", "int", "samples that the spec asks for"),
    Column("state", "string", "computed state of the cell"),
)

OUTCOME_COLUMNS: tuple[Column, ...] = (
    Column("campaign", "string", "name of the campaign"),
    Column("cell_key", "string", "identity of the cell"),
    Column("model", "string", "name of the model"),
    Column("method", "string", "label of the method"),
    Column("budget", "string", "the knob in the method's own unit; empty for dense"),
    Column("compression", "float", "nominal compression; 1 for dense"),
    Column("task", "string", "label of the task"),
    Column("length_tokens", "int", "target prompt length, tokens"),
    Column("seed", "int", "seed of the samples"),
    Column("index", "int", "index of the sample in its cell"),
    Column("sample_key", "string", "hash of the sample's identity; equal in cells that are compared in pairs"),
    Column("prompt_hash", "string", "hash of the prompt's token ids"),
    Column("verdict", "string", "correct, incorrect, unanswered or unscored"),
    Column("score", "float", "in [0, 1]; null when unscored; 0 when unanswered"),
    Column("extracted", "string", "the answer found in the completion"),
    Column("reason", "string", "why the verdict is what it is"),
    Column("completion", "string", "the text that the model returned"),
    Column("finish_reason", "string", "why generation ended"),
    Column("density_prefill", "float", "computed ÷ causally allowed pairs in the prefill, measured"),
    Column("density_decode", "float", "read ÷ present cache entries over all decode steps, measured"),
    Column("kv_kept", "float", "retained ÷ prompt cache entries, measured"),
    Column("num_prompt_tokens", "int", "tokens of the prompt"),
    Column("num_cached_tokens", "int", "prompt tokens found in the prefix cache"),
    Column("num_output_tokens", "int", "generated tokens"),
    Column("num_decode_steps", "int", "decode steps that were measured"),
    Column("seconds_to_first_token", "float", "from submission to the first token, seconds"),
    Column("seconds_decode", "float", "from the first to the last token, seconds"),
    Column("seconds_total", "float", "from submission to the end, queueing included, seconds"),
    Column("recorded_at", "float", "when the outcome reached the store, seconds since 1970, UTC"),
    Column("failure_kind", "string", "kind of the failure; empty when scored"),
    Column("attempt_id", "int", "the attempt that reported it; rows of the same attempt ran on one worker"),
    Column("extras", "json", "secondary scores and counters of the task or engine"),
)

FRAME_COLUMNS: tuple[str, ...] = (
    "cell_key",
    "seed",
    "index",
    "sample_key",
    "verdict",
    "score",
    "density_prefill",
    "density_decode",
    "kv_kept",
    "num_prompt_tokens",
    "num_output_tokens",
    "seconds_to_first_token",
    "seconds_decode",
    "seconds_total",
    "recorded_at",
    "failure_kind",
)
"""Columns of OUTCOME_COLUMNS that analyses hold in memory, besides those that follow from the cell."""
