"""The tables. The database guards what must never happen: names are unique, one open attempt a shard,
one outcome a sample. All times are seconds since 1970 by the database's clock."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Table

from orchestrator.domain.states import CampaignState, Ending, ShardState, WorkerState
from workers.failures import FailureKind

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _enum(kind: type[StrEnum], name: str) -> sa.Enum:
    values = [str(member) for member in kind]
    return sa.Enum(
        kind, name=name, native_enum=False, create_constraint=True, length=24, values_callable=lambda _: values
    )


def _count(name: str) -> Column[int]:
    return Column(name, sa.BigInteger, nullable=False, server_default="0", default=0)


def _sum(name: str) -> Column[float]:
    return Column(name, sa.Double, nullable=False, server_default="0", default=0.0)


def _text(name: str) -> Column[str]:
    return Column(name, sa.Text, nullable=False, server_default="", default="")


def _campaign() -> Column[int]:
    return Column("campaign_id", Id, ForeignKey("campaigns.id"), nullable=False)


campaigns = Table(
    "campaigns",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", sa.String(200), nullable=False, unique=True),
    Column("state", _enum(CampaignState, "state"), nullable=False),
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
    _campaign(),
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
    _count("num_recorded"),
    _count("num_correct"),
    _count("num_incorrect"),
    _count("num_unanswered"),
    _count("num_unscored"),
    _count("num_failed"),
    _count("num_scored"),
    _count("num_measured"),
    _sum("score_sum"),
    _sum("score_square_sum"),
    _sum("density_prefill_sum"),
    _sum("density_decode_sum"),
    _count("num_density_decode"),
    _sum("kv_kept_sum"),
    _count("prompt_tokens"),
    _count("cached_tokens"),
    _count("output_tokens"),
    _sum("seconds_total_sum"),
    _sum("seconds_to_first_token_sum"),
    _sum("seconds_decode_sum"),
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
    _campaign(),
    Column("cell_id", Id, ForeignKey("cells.id"), nullable=False),
    Column("engine_key", sa.String(64), nullable=False),
    Column("rank", sa.BigInteger, nullable=False),
    Column("first_index", sa.Integer, nullable=False),
    Column("num_samples", sa.Integer, nullable=False),
    _sum("predicted_seconds"),
    Column("state", _enum(ShardState, "state"), nullable=False),
    _count("num_recorded"),
    _count("num_attempts"),
    _count("num_charged"),
    _count("num_losses"),
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
    _campaign(),
    Column("name", sa.String(200), nullable=False, unique=True),
    Column("pool", sa.String(40), nullable=False),
    Column("engine_key", sa.String(64), nullable=False),
    Column("model_name", sa.String(200), nullable=False),
    Column("state", _enum(WorkerState, "state"), nullable=False),
    _text("node"),
    Column("pid", sa.BigInteger),
    _text("device"),
    Column("facts", sa.JSON),
    _count("num_weight_loads"),
    _sum("load_seconds"),
    Column("started_at", sa.Double, nullable=False),
    Column("seen_at", sa.Double, nullable=False),
    Column("stopped_at", sa.Double),
    _count("num_in_flight"),
    _count("num_queued"),
    _count("num_tokens"),
    _sum("kv_use"),
    _count("num_outcomes"),
    _count("good_until_attempt"),
    Column("good_canary_at", sa.Double),
    _text("last_words"),
    Index("ix_workers_campaign_state", "campaign_id", "state"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Id, primary_key=True),
    _campaign(),
    Column("shard_id", Id, ForeignKey("shards.id"), nullable=False),
    Column("worker_id", Id, ForeignKey("workers.id"), nullable=False),
    Column("epoch", sa.BigInteger, nullable=False),
    Column("num_ordered", sa.Integer, nullable=False),
    _count("num_recorded"),
    Column("isolated", sa.JSON, nullable=False),
    Column("max_in_flight", sa.Integer),
    Column("executor", sa.String(40), nullable=False, server_default=""),
    Column("opened_at", sa.Double, nullable=False),
    Column("lease_until", sa.Double, nullable=False),
    Column("closed_at", sa.Double),
    Column("ending", _enum(Ending, "ending")),
    Column("failure_kind", _enum(FailureKind, "failure_kind")),
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
    Column("failure_kind", _enum(FailureKind, "failure_kind")),
    _text("extracted"),
    _text("reason"),
    _text("finish_reason"),
    _count("num_prompt_tokens"),
    _count("num_cached_tokens"),
    _count("num_output_tokens"),
    Column("density_prefill", sa.Double),
    Column("density_decode", sa.Double),
    Column("kv_kept", sa.Double),
    _count("num_decode_steps"),
    _sum("seconds_to_first_token"),
    _sum("seconds_decode"),
    _sum("seconds_total"),
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
    _text("text"),
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
    _campaign(),
    Column("at", sa.Double, nullable=False),
    Column("kind", _enum(FailureKind, "kind"), nullable=False),
    Column("cell_id", Id, ForeignKey("cells.id")),
    Column("shard_id", Id, ForeignKey("shards.id")),
    Column("attempt_id", Id),
    Column("worker_id", Id),
    Column("sample_index", sa.Integer),
    Column("charged", sa.Boolean, nullable=False),
    Column("answer", sa.String(24), nullable=False),
    _text("place"),
    _text("message"),
    _text("detail"),
    _text("reproduction"),
    Index("ix_failures_campaign", "campaign_id", "id"),
)

suspects = Table(
    "suspects",
    metadata,
    Column("cell_id", Id, ForeignKey("cells.id"), primary_key=True),
    Column("sample_index", sa.Integer, primary_key=True),
    Column("shard_id", Id, ForeignKey("shards.id"), nullable=False),
    Column("num_deaths", sa.Integer, nullable=False),
    Column("kind", _enum(FailureKind, "kind"), nullable=False),
    Index("ix_suspects_shard", "shard_id"),
)
"""Samples that were in flight when an engine died and have no outcome yet: they run alone."""

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True),
    _campaign(),
    Column("at", sa.Double, nullable=False),
    Column("kind", sa.String(40), nullable=False),
    Column("shard_id", Id),
    Column("attempt_id", Id),
    Column("worker_id", Id),
    _text("message"),
    Index("ix_events_campaign", "campaign_id", "id"),
)

ticks = Table(
    "ticks",
    metadata,
    Column("id", Id, primary_key=True),
    _campaign(),
    Column("at", sa.Double, nullable=False),
    _count("num_recorded"),
    _count("prompt_tokens"),
    _count("output_tokens"),
    _count("num_in_flight"),
    _count("num_workers"),
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
