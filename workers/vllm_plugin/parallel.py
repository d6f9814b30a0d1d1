"""What tensor parallelism asks of the methods: results must not depend on the number of ranks.

Ranks hold consecutive heads. With fewer KV heads than ranks, several ranks hold the same KV head and a part of its
query heads each; wherever a method joins the query heads of a KV head, it must see all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """This rank among those of one engine."""

    group: Any
    """vLLM's tensor-parallel group; None when alone."""
    rank: int
    size: int
    copies: int
    """Ranks that hold the same KV head; 1 unless there are more ranks than KV heads."""

    def group_queries(self, queries: Tensor) -> Tensor:
        """Queries [rows, heads, D] of this rank, joined with those of the other ranks that hold its KV head."""
        if self.copies == 1:
            return queries
        everyone: Tensor = self.group.all_gather(queries.contiguous(), dim=1)
        heads = queries.shape[1] * self.copies
        first = self.rank // self.copies * heads
        return everyone[:, first : first + heads]

    def gather_votes(self, votes: Tensor) -> tuple[Tensor, int]:
        """Votes [KV heads, L] of this rank to those of all KV heads, each once, and the first local head's index."""
        if self.size == 1:
            return votes, 0
        everyone: Tensor = self.group.all_gather(votes.contiguous(), dim=0)
        return everyone[:: self.copies], self.rank // self.copies * votes.shape[0]


def current_ranks(total_kv_heads: int) -> Ranks:
    """The ranks of this worker process."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    copies = max(1, group.world_size // total_kv_heads)
    return Ranks(group, group.rank_in_group, group.world_size, copies)
