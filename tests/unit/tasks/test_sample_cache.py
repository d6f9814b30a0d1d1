"""The cache of prepared samples: whole or absent, bounded, shared by writers."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tasks.cache import SampleCache, node_cache, prepared_sample
from tasks.registry import get_task
from tasks.sample import Sample
from tasks.tokenizer import Tokenizer


def _sample(number: int, size: int = 200) -> Sample:
    ids = tuple((number * 7919 + at * 104729) % 50000 for at in range(size))
    return Sample(
        key=f"{number:064x}", task="ruler_vt", index=number, prompt=f"é {number}", prompt_token_ids=ids, tail_tokens=3,
        gold=["A"], gold_answer="A", num_gold_tokens=4, extras={"depth": 0.5},
    )  # fmt: skip


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path)
    assert cache.get(_sample(1).key) is None
    cache.put(_sample(1))
    assert cache.get(_sample(1).key) == _sample(1)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "swapped"])
def test_damaged_files_count_as_absent_and_are_replaced(damage: str, tmp_path: Path) -> None:
    cache = SampleCache(tmp_path)
    cache.put(_sample(1)), cache.put(_sample(2))
    path = cache.path(_sample(1).key)
    content = path.read_bytes()
    changed = {
        "cut": content[:-9], "flip": content[:-1] + bytes([content[-1] ^ 1]), "empty": b"", "foreign": b"hello",
        "swapped": cache.path(_sample(2).key).read_bytes(),
    }  # fmt: skip
    path.write_bytes(changed[damage])
    assert cache.get(_sample(1).key) is None
    cache.put(_sample(1))
    assert cache.get(_sample(1).key) == _sample(1)


def test_the_least_recently_used_go_when_the_bound_is_exceeded(tmp_path: Path) -> None:
    one = SampleCache(tmp_path)
    for number in range(20):
        one.put(_sample(number))
        os.utime(one.path(_sample(number).key), (number, number))
    size = sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    assert one.get(_sample(0).key) is not None, "reading makes it recent"
    SampleCache(tmp_path, max_bytes=size // 2).trim()
    left = {number for number in range(20) if one.get(_sample(number).key)}
    assert 0 in left
    assert {18, 19} <= left
    assert not left & {1, 2, 3, 4, 5}
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= size // 2


def _write_many(folder: str, start: int) -> int:
    cache = SampleCache(folder, max_bytes=40_000)
    seen = 0
    for step in range(40):
        number = (start + step * 7) % 90
        cache.put(_sample(number))
        found = cache.get(_sample((number + 13) % 90).key)
        assert found is None or found == _sample(found.index)
        seen += found is not None
    return seen


def test_writers_share_a_bounded_folder(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        seen = list(pool.map(_write_many, [str(tmp_path)] * 3, (0, 30, 60)))
    assert sum(seen) > 0
    cache = SampleCache(tmp_path, max_bytes=40_000)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 40_000 * (1 + 4 / 16)
    assert not list(tmp_path.glob("*/.writing-*"))
    assert all(cache.get(path.stem) is not None for path in tmp_path.glob("*/*.sample"))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = SampleCache(tmp_path / "file")
    cache.put(_sample(1))
    assert cache.get(_sample(1).key) is None


def test_prepared_samples_are_made_once(tmp_path: Path, byte_bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("ruler_vt")
    parameters = task.parse_parameters({})

    def prepared() -> Sample:
        return prepared_sample(
            SampleCache(tmp_path), task, parameters, length_tokens=2048, tokenizer=byte_bpe, seed=1, index=4
        )

    first = prepared()
    monkeypatch.setattr(task, "_fit", lambda *_: pytest.fail("generated again"))
    assert prepared() == first


def test_the_machine_has_one_cache_that_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONTIER_HOME", str(tmp_path))
    cache = node_cache()
    assert cache is not None
    assert (cache.folder, cache.max_bytes) == (tmp_path / "samples", 4 << 30)
    monkeypatch.setenv("FRONTIER_SAMPLE_CACHE_GIB", "0")
    assert node_cache() is None
    monkeypatch.setenv("FRONTIER_SAMPLE_CACHE_GIB", "much")
    with pytest.raises(ValueError, match="FRONTIER_SAMPLE_CACHE_GIB is 'much'"):
        node_cache()
