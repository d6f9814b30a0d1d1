"""What reaches the CUDA driver: structures as cuda.h has them, packed arguments, attributes, errors.

The driver is a fake, called through C's calling convention like the real one.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_uint64, c_void_p
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sparsekernels.cuda import launch
from sparsekernels.cuda.launch import AttributeValue, LaunchAttribute, LaunchConfig

STREAM, FUNCTION, MODULE, CONTEXT = 0x1234_5678_9ABC, 0xF00D, 0xBEEF, 0xC0DE
ON_DEVICE: dict[str, Any] = dict(grid=(4, 2, 1), block=256)


class FakeDriver:
    """Keeps what it is told; `result` is what its launches return."""

    def __init__(self) -> None:
        self.launches: list[SimpleNamespace] = []
        self.function_attributes: list[tuple[int, int, int]] = []
        self.modules: list[bytes] = []
        self.contexts: dict[int, int] = {}
        self.result = 0
        self.signature = "p"
        handle, handles = c_void_p, POINTER(c_void_p)
        self.cuCtxGetCurrent = CFUNCTYPE(c_int, handles)(self._context)
        self.cuCtxSetCurrent = CFUNCTYPE(c_int, handle)(self._enter)
        self.cuDeviceGet = CFUNCTYPE(c_int, POINTER(c_int), c_int)(lambda out, n: self._put(out, n))
        self.cuDevicePrimaryCtxRetain = CFUNCTYPE(c_int, handles, c_int)(lambda out, n: self._put(out, CONTEXT + n))
        self.cuModuleLoadData = CFUNCTYPE(c_int, handles, c_char_p)(self._load)
        self.cuModuleGetFunction = CFUNCTYPE(c_int, handles, handle, c_char_p)(self._function)
        self.cuFuncSetAttribute = CFUNCTYPE(c_int, handle, c_int, c_int)(self._attribute)
        self.cuGetErrorName = CFUNCTYPE(c_int, c_int, POINTER(c_char_p))(self._name)
        self.cuLaunchKernelEx = CFUNCTYPE(c_int, POINTER(LaunchConfig), handle, handles, handle)(self._launch)

    def _put(self, out: Any, value: Any) -> int:
        out[0] = value
        return 0

    def _context(self, out: Any) -> int:
        return self._put(out, self.contexts.get(threading.get_ident()))

    def _enter(self, context: int) -> int:
        self.contexts[threading.get_ident()] = context
        return 0

    def _load(self, out: Any, cubin: bytes) -> int:
        self.modules.append(cubin)
        return self._put(out, MODULE)

    def _function(self, out: Any, module: int, name: bytes) -> int:
        assert module == MODULE
        return self._put(out, FUNCTION) if name != b"missing" else 500

    def _attribute(self, function: int, attribute: int, value: int) -> int:
        self.function_attributes.append((function, attribute, value))
        return 0

    def _name(self, error: int, out: Any) -> int:
        names = {500: b"CUDA_ERROR_NOT_FOUND", 1: b"CUDA_ERROR_INVALID_VALUE"}
        return self._put(out, names[error]) if error in names else 1

    def _launch(self, config: Any, function: int, pointers: Any, extra: int | None) -> int:
        given = config[0]
        assert (function, extra) == (FUNCTION, None)
        kinds: dict[str, Any] = {"p": c_uint64, "i": c_int, "l": ctypes.c_int64, "f": ctypes.c_float}
        attributes = [given.attributes[n] for n in range(given.num_attributes)]
        self.launches.append(
            SimpleNamespace(
                grid=tuple(given.grid),
                block=tuple(given.block),
                shared_bytes=given.shared_bytes,
                stream=given.stream,
                clusters=[tuple(a.value.cluster) for a in attributes if a.id == 4],
                early=[a.value.early for a in attributes if a.id == 6],
                num_attributes=len(attributes),
                arguments=[kinds[kind].from_address(pointers[n]).value for n, kind in enumerate(self.signature)],
                thread=threading.get_ident(),
            )
        )
        return self.result


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    fake = FakeDriver()
    caches = (launch._load, launch._module)
    monkeypatch.setattr(launch, "driver", lambda: fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM + device))
    for kept in caches:
        kept.cache_clear()
    yield fake
    for kept in caches:
        kept.cache_clear()


def load(driver: FakeDriver, signature: str, **options: Any) -> launch.Function:
    driver.signature = signature
    return launch.load(b"cubin", "kernel", signature, **options)


def test_structures_are_those_of_cuda_h() -> None:
    assert (ctypes.sizeof(AttributeValue), ctypes.sizeof(LaunchAttribute), ctypes.sizeof(LaunchConfig)) == (64, 72, 56)
    assert (LaunchAttribute.id.offset, LaunchAttribute.value.offset) == (0, 8)
    offsets = {name: getattr(LaunchConfig, name).offset for name, *_ in LaunchConfig._fields_}
    assert offsets == dict(grid=0, block=12, shared_bytes=24, stream=32, attributes=40, num_attributes=48)


def test_a_plain_launch_has_no_attribute_and_torchs_stream(driver: FakeDriver) -> None:
    x = torch.zeros(3)
    load(driver, "p").launch(**ON_DEVICE, arguments=[x], shared_bytes=100)
    (sent,) = driver.launches
    assert (sent.grid, sent.block, sent.shared_bytes, sent.stream) == ((4, 2, 1), (256, 1, 1), 100, STREAM)
    assert sent.arguments == [x.data_ptr()]
    assert sent.num_attributes == 0


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("cluster", [1, 2, 16])
def test_cluster_and_early_are_attributes_of_the_launch(driver: FakeDriver, cluster: int, early: bool) -> None:
    load(driver, "i").launch(**ON_DEVICE, arguments=[1], cluster=cluster, early=early)
    (sent,) = driver.launches
    assert sent.clusters == ([(cluster, 1, 1)] if cluster > 1 else [])
    assert sent.early == ([1] if early else [])
    assert sent.num_attributes == len(sent.clusters) + len(sent.early)


def test_arguments_of_every_kind_and_any_order(driver: FakeDriver) -> None:
    x = torch.zeros(3, dtype=torch.bfloat16)
    arguments: list[Any] = [-7, x, 0.5, 1 << 40, 3, 0, -(1 << 50), x[1:]]
    load(driver, "ipfliplp").launch(**ON_DEVICE, arguments=arguments)
    address = x.data_ptr()
    assert driver.launches[0].arguments == [-7, address, 0.5, 1 << 40, 3, 0, -(1 << 50), address + 2]


@pytest.mark.parametrize("arguments", [[1], [1, 2, 3], [1 << 31, 2], [1, 0.5], [torch.zeros(1), 2]], ids=str)
def test_arguments_that_the_signature_does_not_take_are_refused(driver: FakeDriver, arguments: list[Any]) -> None:
    with pytest.raises(struct.error):
        load(driver, "ii").launch(**ON_DEVICE, arguments=arguments)
    assert driver.launches == []


def test_a_module_is_loaded_once_a_device_and_allowed_what_it_needs(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(driver, "i", shared_bytes=48 * 1024)
    assert driver.function_attributes == [(FUNCTION, 14, 1)]
    assert load(driver, "i", shared_bytes=48 * 1024) is first
    load(driver, "i", shared_bytes=200_000)
    assert driver.function_attributes[1:] == [(FUNCTION, 8, 200_000), (FUNCTION, 14, 1)]
    assert driver.modules == [b"cubin"]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    load(driver, "i").launch(**ON_DEVICE, arguments=[1])
    assert driver.modules == [b"cubin"] * 2
    assert driver.launches[0].stream == STREAM + 1


def test_a_thread_that_launched_nothing_yet_enters_torchs_context_and_has_its_own_memory(driver: FakeDriver) -> None:
    function = load(driver, "l")
    barrier = threading.Barrier(4)

    def launch_often(mine: int) -> None:
        barrier.wait()
        for n in range(200):
            function.launch((n + 1, 1, 1), 32, [mine * 1000 + n])

    threads = [threading.Thread(target=launch_often, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {driver.contexts[sent.thread] for sent in driver.launches} == {CONTEXT}
    assert sorted(sent.arguments[0] for sent in driver.launches) == [m * 1000 + n for m in range(4) for n in range(200)]
    assert all(sent.grid == (sent.arguments[0] % 1000 + 1, 1, 1) for sent in driver.launches)


def test_a_context_that_the_thread_has_stays(driver: FakeDriver) -> None:
    driver.contexts[threading.get_ident()] = 5
    load(driver, "i").launch(**ON_DEVICE, arguments=[1])
    assert driver.contexts == {threading.get_ident(): 5}


def test_errors_say_their_name_and_what_was_done(driver: FakeDriver) -> None:
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NOT_FOUND from the CUDA driver, looking up missing"):
        launch.load(b"cubin", "missing", "i")
    driver.result = 1
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_INVALID_VALUE .*, launching kernel on \(4, 2, 1\) blocks"):
        load(driver, "i").launch(**ON_DEVICE, arguments=[1])
    driver.result = 4321
    with pytest.raises(RuntimeError, match="CUDA error 4321 from the CUDA driver"):
        load(driver, "i").launch(**ON_DEVICE, arguments=[1])
