"""The tables. The database guards what must never happen: names are unique, one open attempt a shard,
one outcome a sample. All times are seconds since 1970 by the database's clock."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Table

from orchestrator.domain.states import CampaignState, Ending, ShardState, WorkerState
from orchestrator.store.columns import (
    Id,
    campaign_column,
    count_column,
    enum_type,
    sum_column,
    text_column,
)
from orchestrator.store.columns import metadata as metadata
from workers.failures import FailureKind

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", sa.String(200), nullable=False, unique=True),
    Column("state", enum_type(CampaignState, "state"), nullable=False),
    Column("spec", sa.JSON, nullable=False),
    Column("spec_hash", sa.String(64), nullable=False),
    Column("code_revision", sa.String(80), nullable=False),
    Column("engine_name", sa.String(40), nullable=False),
    Column("settings", sa.JSON, nullable=False),
    Column("created_at", sa.Double, nullable=False),
    Column("started_at", sa.Double),
    Column("finished_at", sa.Double),
    Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    Column("orchestrator", sa.String(200)),
    Column("orchestrator_until", sa.Double),
    CheckConstraint("epoch >= 0", name="epoch_counts_up"),
)
"""`epoch` is the fence between orchestrators: every taking over raises it."""

cells = Table(
    "cells",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("key", sa.String(80), nullable=False),
    Column("position", sa.Integer, nullable=False),
    Column("model_name", sa.String(200), nullable=False),
    Column("engine_key", sa.String(64), nullable=False),
    Column("engine", sa.JSON, nullable=False),
    Column("task", sa.String(80), nullable=False),
    Column("task_order", sa.JSON, nullable=False),
    Column("task_label", sa.String(120), nullable=False),
    Column("length_tokens", sa.Integer, nullable=False),
    Column("seed", sa.BigInteger, nullable=False),
    Column("num_samples", sa.Integer, nullable=False),
    Column("method", sa.JSON, nullable=False),
    Column("method_label", sa.String(120), nullable=False),
    Column("budget", sa.String(120), nullable=False),
    Column("compression", sa.Double),
    Column("max_output_tokens", sa.Integer, nullable=False),
    Column("sampling", sa.JSON, nullable=False),
    count_column("num_recorded"),
    count_column("num_correct"),
    count_column("num_incorrect"),
    count_column("num_unanswered"),
    count_column("num_unscored"),
    count_column("num_failed"),
    count_column("num_scored"),
    count_column("num_measured"),
    sum_column("score_sum"),
    sum_column("score_square_sum"),
    sum_column("density_prefill_sum"),
    sum_column("density_decode_sum"),
    count_column("num_density_decode"),
    sum_column("kv_kept_sum"),
    count_column("prompt_tokens"),
    count_column("cached_tokens"),
    count_column("output_tokens"),
    sum_column("seconds_total_sum"),
    sum_column("seconds_to_first_token_sum"),
    sum_column("seconds_decode_sum"),
    Column("first_recorded_at", sa.Double),
    Column("last_recorded_at", sa.Double),
    sa.UniqueConstraint("campaign_id", "key"),
    CheckConstraint("num_recorded <= num_samples", name="no_more_than_all"),
)
"""The counters are kept in the transaction that records the outcomes, so that no view has to count rows."""

shards = Table(
    "shards",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("cell_id", Id, ForeignKey("cells.id"), nullable=False),
    Column("engine_key", sa.String(64), nullable=False),
    Column("rank", sa.BigInteger, nullable=False),
    Column("first_index", sa.Integer, nullable=False),
    Column("num_samples", sa.Integer, nullable=False),
    sum_column("predicted_seconds"),
    Column("state", enum_type(ShardState, "state"), nullable=False),
    count_column("num_recorded"),
    count_column("num_attempts"),
    count_column("num_charged"),
    count_column("num_losses"),
    Column("not_before", sa.Double, nullable=False, server_default="0"),
    Column("max_in_flight", sa.Integer),
    sa.UniqueConstraint("cell_id", "first_index"),
    CheckConstraint("num_recorded <= num_samples", name="no_more_than_all"),
    CheckConstraint("state <> 'done' OR num_recorded = num_samples", name="done_means_all"),
    Index("ix_shards_claim", "campaign_id", "state", "engine_key", "rank"),
)
"""`num_losses` counts worker losses in a row without a new outcome; `rank` orders the claims;
`predicted_seconds` is one engine's time for the whole shard."""

workers = Table(
    "workers",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("name", sa.String(200), nullable=False, unique=True),
    Column("pool", sa.String(40), nullable=False),
    Column("engine_key", sa.String(64), nullable=False),
    Column("model_name", sa.String(200), nullable=False),
    Column("state", enum_type(WorkerState, "state"), nullable=False),
    text_column("node"),
    Column("pid", sa.BigInteger),
    text_column("device"),
    Column("facts", sa.JSON),
    count_column("num_weight_loads"),
    sum_column("load_seconds"),
    Column("started_at", sa.Double, nullable=False),
    Column("seen_at", sa.Double, nullable=False),
    Column("stopped_at", sa.Double),
    count_column("num_in_flight"),
    count_column("num_queued"),
    count_column("num_tokens"),
    sum_column("kv_use"),
    count_column("num_outcomes"),
    count_column("good_until_attempt"),
    Column("good_canary_at", sa.Double),
    text_column("last_words"),
    Index("ix_workers_campaign_state", "campaign_id", "state"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("shard_id", Id, ForeignKey("shards.id"), nullable=False),
    Column("worker_id", Id, ForeignKey("workers.id"), nullable=False),
    Column("epoch", sa.BigInteger, nullable=False),
    Column("num_ordered", sa.Integer, nullable=False),
    count_column("num_recorded"),
    Column("isolated", sa.JSON, nullable=False),
    Column("max_in_flight", sa.Integer),
    Column("executor", sa.String(40), nullable=False, server_default=""),
    Column("opened_at", sa.Double, nullable=False),
    Column("lease_until", sa.Double, nullable=False),
    Column("closed_at", sa.Double),
    Column("ending", enum_type(Ending, "ending")),
    Column("failure_kind", enum_type(FailureKind, "failure_kind")),
    CheckConstraint("(closed_at IS NULL) = (ending IS NULL)", name="closed_once"),
    Index(
        "one_open_attempt_a_shard",
        "shard_id",
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    ),
    Index("ix_attempts_worker", "worker_id"),
    Index("ix_attempts_shard", "shard_id"),
    sqlite_autoincrement=True,
)
"""An attempt's id is the fence; it is never used again."""

outcomes = Table(
    "outcomes",
    metadata,
    Column("cell_id", Id, ForeignKey("cells.id"), primary_key=True),
    Column("sample_index", sa.Integer, primary_key=True),
    Column("attempt_id", Id, ForeignKey("attempts.id"), nullable=False),
    Column("recorded_at", sa.Double, nullable=False),
    Column("sample_key", sa.String(80), nullable=False),
    Column("prompt_hash", sa.String(80), nullable=False),
    Column("verdict", sa.String(12), nullable=False),
    Column("score", sa.Double),
    Column("failure_kind", enum_type(FailureKind, "failure_kind")),
    text_column("extracted"),
    text_column("reason"),
    text_column("finish_reason"),
    count_column("num_prompt_tokens"),
    count_column("num_cached_tokens"),
    count_column("num_output_tokens"),
    Column("density_prefill", sa.Double),
    Column("density_decode", sa.Double),
    Column("kv_kept", sa.Double),
    count_column("num_decode_steps"),
    sum_column("seconds_to_first_token"),
    sum_column("seconds_decode"),
    sum_column("seconds_total"),
    Column("extras", sa.JSON),
    CheckConstraint("verdict IN ('correct', 'incorrect', 'unanswered', 'unscored')", name="verdict"),
    CheckConstraint("verdict <> 'unscored' OR score IS NULL", name="unscored_has_no_score"),
    CheckConstraint("score IS NULL OR (score >= 0 AND score <= 1)", name="score_range"),
    Index("ix_outcomes_attempt", "attempt_id"),
    sqlite_with_rowid=False,
)
"""The primary key makes a second outcome of a sample impossible."""

completions = Table(
    "completions",
    metadata,
    Column("cell_id", Id, primary_key=True),
    Column("sample_index", sa.Integer, primary_key=True),
    text_column("text"),
    sa.ForeignKeyConstraint(
        ["cell_id", "sample_index"], ["outcomes.cell_id", "outcomes.sample_index"], ondelete="CASCADE"
    ),
    sqlite_with_rowid=False,
)
"""The long text lies apart, so that scans of scores stay small."""

failures = Table(
    "failures",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("at", sa.Double, nullable=False),
    Column("kind", enum_type(FailureKind, "kind"), nullable=False),
    Column("cell_id", Id, ForeignKey("cells.id")),
    Column("shard_id", Id, ForeignKey("shards.id")),
    Column("attempt_id", Id),
    Column("worker_id", Id),
    Column("sample_index", sa.Integer),
    Column("charged", sa.Boolean, nullable=False),
    Column("answer", sa.String(24), nullable=False),
    text_column("place"),
    text_column("message"),
    text_column("detail"),
    text_column("reproduction"),
    Index("ix_failures_campaign", "campaign_id", "id"),
)

suspects = Table(
    "suspects",
    metadata,
    Column("cell_id", Id, ForeignKey("cells.id"), primary_key=True),
    Column("sample_index", sa.Integer, primary_key=True),
    Column("shard_id", Id, ForeignKey("shards.id"), nullable=False),
    Column("num_deaths", sa.Integer, nullable=False),
    Column("kind", enum_type(FailureKind, "kind"), nullable=False),
    Index("ix_suspects_shard", "shard_id"),
)
"""Samples that were in flight when an engine died and have no outcome yet: they run alone."""

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("at", sa.Double, nullable=False),
    Column("kind", sa.String(40), nullable=False),
    Column("shard_id", Id),
    Column("attempt_id", Id),
    Column("worker_id", Id),
    text_column("message"),
    Index("ix_events_campaign", "campaign_id", "id"),
)

ticks = Table(
    "ticks",
    metadata,
    Column("id", Id, primary_key=True),
    campaign_column(),
    Column("at", sa.Double, nullable=False),
    count_column("num_recorded"),
    count_column("prompt_tokens"),
    count_column("output_tokens"),
    count_column("num_in_flight"),
    count_column("num_workers"),
    Index("ix_ticks_campaign_at", "campaign_id", "at"),
)
"""Cumulative counters every few seconds: rates are differences of two rows."""

canaries = Table(
    "canaries",
    metadata,
    Column("engine_key", sa.String(64), primary_key=True),
    Column("platform", sa.String(200), primary_key=True),
    Column("name", sa.String(80), primary_key=True),
    Column("digest", sa.String(80), nullable=False),
    Column("worker_id", Id, ForeignKey("workers.id"), nullable=False),
    Column("at", sa.Double, nullable=False),
)
"""What the known prompts gave the first time, for each engine on each kind of device."""
