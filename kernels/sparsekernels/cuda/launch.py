"""Kernels of compiled modules, launched through the driver on torch's current stream: in clusters, early, in a graph.

The structures are cuda.h's (CUlaunchConfig, CUlaunchAttribute) of CUDA 12 and later.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int, c_uint, c_uint64, c_void_p
from functools import cache

import torch
from torch import Tensor

CLUSTER_DIMENSION = 4
PROGRAMMATIC_STREAM_SERIALIZATION = 6
MAX_DYNAMIC_SHARED_BYTES = 8
NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14
SHARED_BYTES_WITHOUT_ASKING = 48 * 1024
FORMATS = {"p": "Q", "i": "i", "l": "q", "f": "f"}
"""Kinds of argument: pointer, int32, int64, float32."""


class AttributeValue(ctypes.Union):
    """CUlaunchAttributeValue, of which we use two members."""

    _fields_ = (("cluster", c_uint * 3), ("early", c_int), ("size", c_uint64 * 8))


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = (("id", c_int), ("value", AttributeValue))


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("num_attributes", c_uint),
    )


@cache
def driver() -> ctypes.CDLL:
    """The CUDA driver. Raises OSError where there is none."""
    return ctypes.CDLL("libcuda.so.1")


def _check(result: int, doing: str) -> None:
    if result:
        name = c_char_p()
        driver().cuGetErrorName(result, byref(name))
        raise RuntimeError(f"{(name.value or b'CUDA error %d' % result).decode()} from the CUDA driver, {doing}")


def _enter_context(device: int) -> None:
    """Make torch's context of a device this thread's, where it has none: a thread that has launched nothing yet."""
    context, handle = c_void_p(), c_int()
    _check(driver().cuCtxGetCurrent(byref(context)), "asking for this thread's context")
    if not context.value:
        _check(driver().cuDeviceGet(byref(handle), device), f"looking up device {device}")
        _check(driver().cuDevicePrimaryCtxRetain(byref(context), handle), f"opening device {device}")
        _check(driver().cuCtxSetCurrent(context), f"entering device {device}")


@cache
def _module(cubin: bytes, device: int) -> c_void_p:
    """A cubin loaded on a device, which is torch's current one; it stays loaded."""
    _enter_context(device)
    module = c_void_p()
    _check(driver().cuModuleLoadData(byref(module), cubin), f"loading a cubin of {len(cubin)} bytes on device {device}")
    return module


@cache
def _attributes(cluster: int, early: bool) -> ctypes.Array[LaunchAttribute]:
    given = []
    if cluster > 1:
        given.append(LaunchAttribute(CLUSTER_DIMENSION, AttributeValue(cluster=(cluster, 1, 1))))
    if early:
        given.append(LaunchAttribute(PROGRAMMATIC_STREAM_SERIALIZATION, AttributeValue(early=1)))
    return (LaunchAttribute * len(given))(*given)


class _Frame(threading.local):
    """A thread's own memory for the launches of one kernel: the driver copies it during the call."""

    def __init__(self, layout: struct.Struct, offsets: Sequence[int], device: int) -> None:
        self.values = ctypes.create_string_buffer(layout.size)
        self.pointers = (c_void_p * len(offsets))(*(ctypes.addressof(self.values) + offset for offset in offsets))
        self.config = LaunchConfig()
        _enter_context(device)


class Function:
    """A kernel on the device on which it was loaded. Threads may launch it at the same time."""

    def __init__(self, handle: c_void_p, name: str, signature: str, device: int) -> None:
        self.name, self.signature, self.device = name, signature, device
        self._handle = handle
        formats = "".join(FORMATS[kind] for kind in signature)
        self._layout = struct.Struct(formats)
        offsets = [struct.calcsize(formats[: n + 1]) - struct.calcsize(kind) for n, kind in enumerate(formats)]
        self._frame = _Frame(self._layout, offsets, device)

    def launch(
        self,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Tensor | int | float],
        *,
        cluster: int = 1,
        shared_bytes: int = 0,
        early: bool = False,
    ) -> None:
        """Launch on torch's current stream: nothing is waited for, and nothing allocated on the device.

        grid: blocks, a multiple of `cluster` along x; block: threads; arguments: one for each kind of the signature,
        where a pointer is a tensor on this device or an address; shared_bytes: at most those it was loaded with. A
        kernel launched `early` may start before its predecessor ends, and must wait (griddepcontrol.wait) before it
        reads what that wrote. Raises struct.error for arguments that the signature does not take, RuntimeError when
        the driver refuses.
        """
        frame, attributes = self._frame, _attributes(cluster, early)
        values = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
        self._layout.pack_into(frame.values, 0, *values)
        config = frame.config
        config.grid, config.block, config.shared_bytes = grid, (block, 1, 1), shared_bytes
        config.stream = torch.cuda.current_stream(self.device).cuda_stream
        config.attributes, config.num_attributes = attributes, len(attributes)
        result = driver().cuLaunchKernelEx(byref(config), self._handle, frame.pointers, None)
        if result:
            _check(result, f"launching {self.name} on {grid} blocks of {block} threads, {cluster} a cluster")

    def active_clusters(self, cluster: int, block: int, shared_bytes: int) -> int:
        """How many clusters of `cluster` blocks of `block` threads have room on the device at once."""
        attributes = (LaunchAttribute * 1)(LaunchAttribute(CLUSTER_DIMENSION, AttributeValue(cluster=(cluster, 1, 1))))
        config = LaunchConfig((cluster, 1, 1), (block, 1, 1), shared_bytes, None, attributes, 1)
        number = c_int()
        _enter_context(self.device)
        _check(
            driver().cuOccupancyMaxActiveClusters(byref(number), self._handle, byref(config)),
            f"asking how many clusters of {cluster} blocks of {self.name} have room",
        )
        return number.value


@cache
def _load(cubin: bytes, name: str, signature: str, shared_bytes: int, device: int) -> Function:
    function = c_void_p()
    _check(driver().cuModuleGetFunction(byref(function), _module(cubin, device), name.encode()), f"looking up {name}")
    if shared_bytes > SHARED_BYTES_WITHOUT_ASKING:
        _check(
            driver().cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_BYTES, shared_bytes),
            f"asking for {shared_bytes} bytes of shared memory for {name}",
        )
    _check(driver().cuFuncSetAttribute(function, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1), f"allowing clusters of {name}")
    return Function(function, name, signature, device)


def load(cubin: bytes, name: str, signature: str, shared_bytes: int = 0) -> Function:
    """The kernel `name` of a cubin on torch's current device; loaded once, which must be before a graph is captured.

    signature: a letter of FORMATS for each argument; shared_bytes: the most dynamic shared memory of a launch. Any
    cluster size that the device has is allowed. Raises RuntimeError when the driver refuses.
    """
    return _load(cubin, name, signature, shared_bytes, torch.cuda.current_device())
