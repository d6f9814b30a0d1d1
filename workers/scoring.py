"""From an engine's generation to a scored outcome."""

from __future__ import annotations

import traceback
from typing import Any

from workers.engine import Generation
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome, ShardOrder
from workers.source import Prepared, SampleSource


def scored_outcome(
    source: SampleSource, order: ShardOrder, prepared: Prepared, made: Generation, seconds_total: float
) -> SampleOutcome:
    """The outcome of a completion; one that cannot be scored becomes a failure of this sample alone."""
    try:
        score = source.score(order, prepared, made.text)
    except Exception as error:
        return failed_outcome(order, prepared.index, _failure(error, "score"), prepared)
    return SampleOutcome(
        **_identity(order, prepared.index, prepared),
        verdict=str(score.verdict),
        score=score.value,
        extracted=score.extracted[:2000],
        reason=score.reason[:500],
        completion=made.text,
        finish_reason=made.finish_reason,
        num_prompt_tokens=made.num_prompt_tokens,
        num_cached_tokens=made.num_cached_tokens,
        num_output_tokens=len(made.token_ids),
        density_prefill=made.density_prefill,
        density_decode=made.density_decode,
        kv_kept=made.kv_kept,
        num_decode_steps=made.num_decode_steps,
        seconds_to_first_token=made.seconds_to_first_token,
        seconds_decode=made.seconds_decode,
        seconds_total=seconds_total,
        extras=_extras(made),
    )


def failed_outcome(order: ShardOrder, index: int, failure: Failure, prepared: Prepared | None = None) -> SampleOutcome:
    """A sample that has a failure instead of a completion."""
    return SampleOutcome(**_identity(order, index, prepared), failure=failure)


def unmade_outcome(order: ShardOrder, index: int, error: BaseException) -> SampleOutcome:
    """A sample that could not be generated."""
    return failed_outcome(order, index, _failure(error, "generate"))


def _identity(order: ShardOrder, index: int, prepared: Prepared | None) -> dict[str, Any]:
    return {
        "attempt_id": order.attempt_id,
        "shard_id": order.shard_id,
        "cell_key": order.cell_key,
        "index": index,
        "sample_key": prepared.sample_key if prepared else "",
        "prompt_hash": prepared.prompt_hash if prepared else "",
    }


def _failure(error: BaseException, where: str) -> Failure:
    message = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    detail = "".join(traceback.format_exception(error))[-4000:]
    return Failure(kind=FailureKind.BAD_SAMPLE, message=message, where=where, detail=detail)


def _extras(made: Generation) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if made.num_preemptions:
        extras["num_preemptions"] = made.num_preemptions
    if made.seconds_queued:
        extras["seconds_queued"] = round(made.seconds_queued, 4)
    if made.layers is not None:
        extras["layers"] = {name: list(values) for name, values in made.layers.items()}
    return extras
