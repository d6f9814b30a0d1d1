"""How CUDA sources are compiled: where NVRTC is looked for, what it is told, what is kept, and every source itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sparsekernels import cuda
from sparsekernels.cuda import nvrtc
from sparsekernels.cuda.quest_step import Kind, compile_step

TINY = 'extern "C" __global__ void scale(float* x, int n) { int i = threadIdx.x; if (i < n) x[i] *= TIMES; }'
KIND = Kind(head_size=128, group=7, kv_heads=4, ratio=1, half=False, skip_empty=False)
STEPS = [
    (KIND, 3),
    (replace(KIND, half=True, skip_empty=True), 8),
    (replace(KIND, head_size=64, group=8, ratio=2), 6),
    (replace(KIND, group=1, kv_heads=1), 1),
]
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC (the extra `dev` brings it)")


class FakeNvrtc:
    """NVRTC 13.0 whose cubins are the options it got; it refuses sources that hold "wrong"."""

    def __init__(self) -> None:
        self.compiled: list[list[bytes]] = []
        self.alive = 0
        self.wrong = False

    def nvrtcVersion(self, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 13, 0
        return 0

    def nvrtcCreateProgram(self, program: Any, source: bytes, name: bytes, *headers: Any) -> int:
        assert [headers[0], *map(len, headers[1:])] == [0, 0, 0]
        program._obj.value, self.wrong = 77, b"wrong" in source
        self.alive += 1
        return 0

    def nvrtcCompileProgram(self, program: ctypes.c_void_p, count: int, options: Any) -> int:
        assert program.value == 77
        assert count == len(options)
        self.compiled.append(list(options))
        return 6 if self.wrong else 0

    def nvrtcGetCUBINSize(self, program: Any, size: Any) -> int:
        size._obj.value = len(b" ".join(self.compiled[-1]))
        return 0

    def nvrtcGetCUBIN(self, program: Any, out: Any) -> int:
        out.raw = b" ".join(self.compiled[-1])
        return 0

    def nvrtcGetProgramLogSize(self, program: Any, size: Any) -> int:
        size._obj.value = 20
        return 0

    def nvrtcGetProgramLog(self, program: Any, out: Any) -> int:
        out.value = b"line 3 is wrong\n"
        return 0

    def nvrtcGetErrorString(self, error: int) -> bytes:
        return b"NVRTC_ERROR_%d" % error

    def nvrtcDestroyProgram(self, program: Any) -> int:
        self.alive -= 1
        return 0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sparsekernels"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeNvrtc:
    library = FakeNvrtc()
    monkeypatch.setattr(nvrtc, "library", lambda: library)
    return library


def compiled(
    source: str = TINY,
    capability: tuple[int, int] = (9, 0),
    headers: dict[str, str] | None = None,
    **defines: str | int,
) -> bytes:
    return nvrtc.compile_source(source, name="tiny.cu", defines=defines, capability=capability, headers=headers)


Search = Callable[[str | None, set[str]], tuple[list[str], object]]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Search]:
    """Looks for NVRTC with a CUDA version of torch and the names that load; returns what was tried and found."""
    (tmp_path / "cuda" / "lib64").mkdir(parents=True)
    for file in (
        "nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.8",
        "cuda/lib64/libnvrtc.so.13", "cuda/lib64/libnvrtc.so.13.0.88",
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()

    def look(version: str | None, loadable: set[str]) -> tuple[list[str], object]:
        tried: list[str] = []

        def load(name: str) -> SimpleNamespace:
            tried.append(name.removeprefix(f"{tmp_path}/"))
            if tried[-1] not in loadable:
                raise OSError(name)
            return SimpleNamespace(name=tried[-1], nvrtcGetErrorString=SimpleNamespace())

        with monkeypatch.context() as patched:
            patched.setattr(torch.version, "cuda", version)
            patched.setenv("CUDA_HOME", str(tmp_path / "cuda"))
            patched.setattr(
                nvrtc, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path / name)])
            )
            patched.setattr(ctypes, "CDLL", load)
            nvrtc.library.cache_clear()
            found = nvrtc.library()
            assert nvrtc.available() is (found is not None)
        return tried, getattr(found, "name", None)

    yield look
    nvrtc.library.cache_clear()


def test_the_loaders_nvrtc_comes_first_and_the_wheels_builtins_before_it(search: Search) -> None:
    tried, found = search("13.0", {"libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc.so.13"})
    assert tried == ["nvidia/cu13/lib/libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]
    assert found == "libnvrtc.so.13"


def test_wheels_then_the_toolkit_of_torchs_major_version_alone(search: Search) -> None:
    tried, found = search("13.0", {"cuda/lib64/libnvrtc.so.13"})
    assert tried[1:] == ["libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc.so.13", "cuda/lib64/libnvrtc.so.13"]
    assert found == "cuda/lib64/libnvrtc.so.13"
    tried, found = search("12.8", {"nvidia/cuda_nvrtc/lib/libnvrtc.so.12"})
    assert tried[1:] == ["libnvrtc.so.12", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"]
    assert found == tried[-1]
    assert search("14.1", {"nvidia/cu13/lib/libnvrtc.so.13"}) == (["libnvrtc.so.14"], None)


def test_a_torch_without_cuda_takes_any_nvrtc(search: Search) -> None:
    assert search(None, {"nvidia/cuda_nvrtc/lib/libnvrtc.so.12"})[1] == "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    assert search(None, set())[1] is None


@pytest.mark.parametrize("error", [ValueError("nvidia.__spec__ is None"), PermissionError("nvidia")])
def test_looking_for_nvrtc_never_raises(search: Search, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(pattern: str) -> Iterator[str]:
        raise error

    monkeypatch.setattr(nvrtc, "candidates", broken)
    assert search("13.0", {"libnvrtc.so.13"})[1] is None


def test_options_name_the_device_and_the_defines(fake: FakeNvrtc) -> None:
    told = b"--gpu-architecture=sm_100 --std=c++17 -default-device -DD=128 -DTYPE=float"
    assert compiled(capability=(10, 0), TYPE="float", D=128) == told
    assert fake.alive == 0


def test_a_cubin_is_kept_for_the_same_source_defines_device_and_version(fake: FakeNvrtc, own_cache: Path) -> None:
    first = compiled(TIMES=2)
    assert compiled(TIMES=2) == first
    assert len(fake.compiled) == 1
    assert [path.read_bytes() for path in own_cache.iterdir()] == [first]
    compiled(TIMES=3)
    compiled(TIMES=2, capability=(10, 0))
    compiled(source=TINY + "\n", TIMES=2)
    assert len(fake.compiled) == 4
    fake.nvrtcVersion = lambda major, minor: 0  # type: ignore[method-assign]
    compiled(TIMES=2)
    assert len(fake.compiled) == 5


def test_an_empty_file_in_the_cache_is_no_cubin(fake: FakeNvrtc, own_cache: Path) -> None:
    whole = compiled(TIMES=2)
    (kept,) = own_cache.iterdir()
    kept.write_bytes(b"")
    assert compiled(TIMES=2) == whole
    assert kept.read_bytes() == whole


def test_where_nothing_can_be_kept_it_compiles_all_the_same(fake: FakeNvrtc, own_cache: Path) -> None:
    own_cache.parent.write_text("a file where the folder would be")
    assert compiled(TIMES=2) == compiled(TIMES=2)
    assert len(fake.compiled) == 2


def test_an_error_holds_the_log_and_keeps_nothing(fake: FakeNvrtc, own_cache: Path) -> None:
    with pytest.raises(nvrtc.CompileError, match=r"^tiny.cu: NVRTC_ERROR_6 \(.*-DTIMES=2\)\nline 3 is wrong$"):
        compiled(source="wrong", TIMES=2)
    assert fake.alive == 0
    assert not own_cache.exists()


def test_without_nvrtc_the_error_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "library", lambda: None)
    with pytest.raises(nvrtc.CompileError, match=r"tiny\.cu: no libnvrtc on the loader's path"):
        compiled(TIMES=2)


@needs_nvrtc
def test_nvrtc_compiles_a_tiny_kernel_and_names_what_is_wrong() -> None:
    first = compiled(TIMES=2)
    assert first.startswith(b"\x7fELF")
    assert b"scale" in first
    assert compiled(TIMES=3) != first
    with pytest.raises(nvrtc.CompileError, match=r'tiny\.cu\(1\): error: identifier "TIMES" is undefined'):
        compiled()
    with pytest.raises(nvrtc.CompileError, match=r"sm_99.*\n.*invalid value for --gpu-architecture"):
        compiled(capability=(9, 9), TIMES=2)


@needs_nvrtc
def test_headers_are_found_by_name_and_belong_to_what_is_kept() -> None:
    source = '#include "twice.cuh"\n' + TINY.replace("TIMES", "FACTOR")
    first, second, again = (
        compiled(source=source, headers={"twice.cuh": f"#define FACTOR {factor}"}) for factor in (2, 3, 2)
    )
    assert first == again != second
    with pytest.raises(nvrtc.CompileError, match=r"twice\.cuh"):
        compiled(source=source)


@needs_nvrtc
@pytest.mark.parametrize(("kind", "cluster"), STEPS)
def test_quests_step_compiles_for_hopper(kind: Kind, cluster: int) -> None:
    assert b"quest_step" in compile_step(kind, cluster, (9, 0))


def test_no_other_source_is_left_uncompiled() -> None:
    assert [path.name for path in Path(next(iter(cuda.__path__))).glob("*.cu")] == ["quest_step.cu"]
