"""One sample, alone, in this process: for reproducing a failure."""

from __future__ import annotations

from workers.exchange import AttemptEnd
from workers.factory import load_engine
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome, ShardOrder
from workers.runner import ShardRunner
from workers.source import TaskSource


def run_alone(engine_name: str, order: ShardOrder, *, stall_seconds: float = 600.0) -> SampleOutcome:
    """Load the engine, run the order's only sample, shut down. An engine's death becomes the outcome's failure."""
    engine = load_engine(engine_name, order.engine)
    runner = ShardRunner(engine, TaskSource(), max_in_flight=1, stall_seconds=stall_seconds)
    try:
        runner.add(order)
        while True:
            for record in runner.step(0.1):
                if isinstance(record, SampleOutcome):
                    return record
                if isinstance(record, AttemptEnd):
                    return _lost(order, record.failure)
    finally:
        runner.close()


def _lost(order: ShardOrder, failure: Failure | None) -> SampleOutcome:
    reason = failure or Failure(kind=FailureKind.BAD_SPEC, message="the order ended without an outcome", where="worker")
    return SampleOutcome(attempt_id=0, shard_id=0, cell_key=order.cell_key, index=order.indices[0], failure=reason)
