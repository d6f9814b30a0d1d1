"""The order that runs one sample of a recorded campaign again."""

from __future__ import annotations

from orchestrator.errors import UserError
from orchestrator.store import views
from orchestrator.store.plan import find_cell
from orchestrator.store.session import Store
from workers.protocol import ShardOrder


def sample_order(store: Store, name: str, cell_key: str, index: int) -> tuple[str, ShardOrder]:
    """The engine's name and an order for this one sample. Raises UserError for an unknown cell or index."""
    header = views.campaign_header(store, name)
    found = find_cell(store, header.id, cell_key)
    if found is None:
        raise UserError(f"campaign {name!r} has no cell {cell_key!r}")
    cell, engine, num_samples = found
    if index >= num_samples:
        raise UserError(f"--index is {index}; cell {cell_key} has {num_samples} samples")
    order = ShardOrder(
        campaign=name,
        cell_key=cell.key,
        shard_id=0,
        attempt_id=0,
        engine=engine,
        task=cell.task,
        length_tokens=cell.length_tokens,
        seed=cell.seed,
        indices=(index,),
        isolated=(index,),
        method=cell.method,
        max_output_tokens=cell.max_output_tokens,
        sampling=cell.sampling,
    )
    return header.engine_name, order
