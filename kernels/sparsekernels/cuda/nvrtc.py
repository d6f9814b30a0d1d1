"""CUDA C++ compiled at run time by NVRTC, which comes with torch's CUDA build.

Sources of ours include no headers but ours: CUDA's own are not on every machine. Kernels are `extern "C"`, so that
they keep their names. Cubins are kept on disk, in $XDG_CACHE_HOME/sparsekernels.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch


class CompileError(RuntimeError):
    """A source could not be compiled; the message holds NVRTC's log."""


def folders() -> Iterator[Path]:
    """Where NVIDIA's wheels and the CUDA toolkit keep NVRTC."""
    spec = find_spec("nvidia")
    for place in (spec.submodule_search_locations if spec else None) or ():
        yield from sorted(Path(place).glob("cu[0-9]*/lib"), reverse=True)
        yield Path(place, "cuda_nvrtc", "lib")
    yield Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda", "lib64")


def candidates(pattern: str) -> Iterator[str]:
    """The libraries of this name in those folders, best first."""
    for folder in folders():
        yield from map(str, sorted(folder.glob(pattern), reverse=True))


def _loaded(names: Iterable[str]) -> Iterator[ctypes.CDLL]:
    for name in names:
        with suppress(OSError):
            yield ctypes.CDLL(name)


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC of torch's CUDA version, of any where torch has none; None where there is no NVRTC.

    First what is loaded already or lies on the loader's path, then what lies in NVIDIA's folders.
    """
    major = torch.version.cuda.split(".")[0] if torch.version.cuda else None
    bare, version = f"libnvrtc.so.{major}" if major else "libnvrtc.so", major or "[0-9][0-9]"
    with suppress(OSError, ValueError):  # a folder that may not be read; a module `nvidia` without a specification
        # NVRTC asks for these by name alone and does not look into its own folder.
        list(_loaded(candidates(f"libnvrtc-builtins.so.{version}*")))
        for found in _loaded([bare, *candidates(f"libnvrtc.so.{version}")]):
            found.nvrtcGetErrorString.restype = ctypes.c_char_p
            return found
    return None


def available() -> bool:
    """Whether this machine can compile."""
    return library() is not None


def options(defines: Mapping[str, str | int], capability: tuple[int, int]) -> list[str]:
    """What NVRTC is told: C++17, functions without a mark are the device's."""
    major, minor = capability
    given = [f"-D{name}={value}" for name, value in sorted(defines.items())]
    return [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", "-default-device", *given]


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, kind: str) -> bytes:
    """The program's "CUBIN" or "ProgramLog"."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    held = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, held)
    return held.raw


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _compile(nvrtc: ctypes.CDLL, source: str, name: str, headers: Mapping[str, str], told: list[str]) -> bytes:
    program = ctypes.c_void_p()
    failed = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), name.encode(), len(headers), _strings(headers.values()),
        _strings(headers),
    )  # fmt: skip
    if failed:
        raise CompileError(f"{name}: {nvrtc.nvrtcGetErrorString(failed).decode()}")
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(told), _strings(told))
        if failed:
            log = _text(nvrtc, program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
            raise CompileError(f"{name}: {nvrtc.nvrtcGetErrorString(failed).decode()} ({' '.join(told)})\n{log}")
        return _text(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _version(nvrtc: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _kept(key: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root, "sparsekernels", f"{key}.cubin")


def _keep(path: Path, cubin: bytes) -> None:
    """Store a cubin whole or not at all; a machine where nothing can be stored compiles again next time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        os.replace(file.name, path)


def compile_source(
    source: str,
    *,
    name: str,
    defines: Mapping[str, str | int],
    capability: tuple[int, int],
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The cubin of a source for a device of `capability`; `name` is what the compiler's messages call the source.

    headers: the texts that it may include, by name.

    Raises CompileError when the source or the capability is not NVRTC's to compile, or where there is no NVRTC.
    """
    nvrtc = library()
    if nvrtc is None:
        raise CompileError(f"{name}: no libnvrtc on the loader's path, in NVIDIA's wheels or in CUDA_HOME")
    told = options(defines, capability)
    kept = _kept(
        hashlib.sha256(repr((source, sorted((headers or {}).items()), told, _version(nvrtc))).encode()).hexdigest()
    )
    try:
        cubin = kept.read_bytes()
    except OSError:
        cubin = b""
    if not cubin:
        cubin = _compile(nvrtc, source, name, headers or {}, told)
        _keep(kept, cubin)
    return cubin
