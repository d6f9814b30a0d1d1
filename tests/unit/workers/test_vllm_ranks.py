"""What a KV head keeps does not depend on how many ranks share it: ranks as threads, an exchange as a barrier."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from sparsekernels.methods import snapkv  # noqa: E402
from sparsekernels.parameters import MethodChoice  # noqa: E402

from workers.vllm_plugin.methods import votes_by_head  # noqa: E402
from workers.vllm_plugin.parallel import Ranks  # noqa: E402

LENGTH, WINDOW, QUERY_HEADS, SIZE = 200, 32, 8, 16


class Meeting:
    """All ranks put a tensor on the table, then read everybody's."""

    def __init__(self, size: int) -> None:
        self.barrier = Barrier(size, timeout=20)
        self.table: list[Any] = [None] * size

    def group_of(self, rank: int) -> Any:
        meeting = self

        class Group:
            def all_gather(self, tensor: Any, dim: int) -> Any:
                meeting.table[rank] = tensor
                meeting.barrier.wait()
                everyone = torch.cat(meeting.table, dim)
                meeting.barrier.wait()
                return everyone

        return Group()


def kept(queries: Any, keys: Any, method: Any, ranks: Ranks) -> list[list[int]]:
    votes = votes_by_head(ranks.group_queries(queries), keys, method, SIZE**-0.5)
    found = snapkv.keep(votes, method, ranks.gather_votes)
    return [row[:count].tolist() for row, count in zip(found.tokens, found.counts, strict=True)]


def on_one_rank(queries: Any, keys: Any, method: Any, rank: int, size: int, group: Any) -> list[list[int]]:
    """Rank `rank` holds its share of the query heads, and whole KV heads or a copy of one."""
    heads, kv_heads = QUERY_HEADS // size, max(1, keys.shape[1] // size)
    copies = max(1, size // keys.shape[1])
    first = rank // copies * kv_heads
    own = keys[:, first : first + kv_heads]
    return kept(queries[:, rank * heads : (rank + 1) * heads], own, method, Ranks(group, rank, size, copies))


@pytest.mark.parametrize(("kv_heads", "size"), [(1, 2), (2, 2), (2, 4), (4, 2), (1, 8)])
@pytest.mark.parametrize("name", ["snapkv", "ada_snapkv"])
def test_ranks_keep_what_one_rank_keeps(name: str, kv_heads: int, size: int) -> None:
    generator = torch.Generator().manual_seed(kv_heads * 10 + size)
    queries = torch.randn(WINDOW, QUERY_HEADS, SIZE, generator=generator)
    keys = torch.randn(LENGTH, kv_heads, SIZE, generator=generator)
    options = {"name": name, "token_capacity": 64, "window": WINDOW, "local_size": 8}
    if name == "ada_snapkv":
        options["pool_heads"] = "layer"
    method = MethodChoice.from_wire({"compress": options}).compress
    expected = kept(queries, keys, method, Ranks(None, 0, 1, 1))
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        calls = [pool.submit(on_one_rank, queries, keys, method, r, size, meeting.group_of(r)) for r in range(size)]
        found = [call.result(timeout=30) for call in calls]
    copies = max(1, size // kv_heads)
    assert [heads for rank in found[::copies] for heads in rank] == expected
    assert all(found[r] == found[r // copies * copies] for r in range(size)), "copies of a KV head agree"
