"""CUDA sources compiled at run time and launched through the driver: clusters, early launches, CUDA graphs, threads."""

from __future__ import annotations

import threading
from itertools import product

import pytest

torch = pytest.importorskip("torch")

from sparsekernels.cuda import launch, nvrtc  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0), reason="needs a Hopper GPU"
    ),
]
SIGNATURE, THREADS, SHARED_BYTES = "pppilf", 256, 96 * 1024
SOURCE = """
// out[i] = a[i] + scale * b[i + offset], where each block writes what its neighbour in the cluster has computed and
// left at the end of its shared memory.
extern "C" __global__ void add(const float* a, const float* b, float* out, int n, long long offset, float scale) {
    extern __shared__ float mine[];
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    unsigned rank, address, other;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    float* last = mine + SHARED_BYTES / 4 - blockDim.x;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    last[threadIdx.x] = i < n ? a[i] + scale * b[i + offset] : 0.0f;
    asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    unsigned peer = rank ^ (CLUSTER > 1);
    address = (unsigned)__cvta_generic_to_shared(last + threadIdx.x);
    float value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(address), "r"(peer));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(other) : "memory");
    int j = (blockIdx.x ^ (CLUSTER > 1)) * blockDim.x + threadIdx.x;
    if (j < n) out[j] = value;
    asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
"""


def function(cluster: int) -> launch.Function:
    cubin = nvrtc.compile_source(
        SOURCE,
        name="add.cu",
        defines={"CLUSTER": cluster, "SHARED_BYTES": SHARED_BYTES},
        capability=torch.cuda.get_device_capability(),
    )
    return launch.load(cubin, "add", SIGNATURE, SHARED_BYTES)


def add(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, cluster: int, early: bool) -> None:
    """out = a + 0.5 · b, by a grid of whole clusters."""
    clusters = -(-len(a) // (THREADS * cluster))
    padded = torch.cat([b.new_zeros(3), b]) if not torch.cuda.is_current_stream_capturing() else b
    offset = len(padded) - len(a)
    function(cluster).launch(
        (clusters * cluster, 1, 1), THREADS, [a, padded, out, len(a), offset, 0.5],
        cluster=cluster, shared_bytes=SHARED_BYTES, early=early,
    )  # fmt: skip


def inputs(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator(device="cuda").manual_seed(length)
    return tuple(torch.randint(-99, 99, (length,), generator=g, device="cuda").float() for _ in range(2))  # type: ignore[return-value]


def test_nvrtc_is_there_where_torch_has_cuda() -> None:
    assert nvrtc.available()


@pytest.mark.parametrize(("cluster", "early"), list(product([1, 2, 16], [False, True])))
@pytest.mark.parametrize("length", [1, 1000, 100_003])
def test_blocks_of_a_cluster_exchange_what_they_added(length: int, cluster: int, early: bool) -> None:
    a, b = inputs(length)
    out = torch.full_like(a, float("nan"))
    add(a, b, out, cluster, early)
    assert torch.equal(out, a + 0.5 * b)


@pytest.mark.parametrize("early", [False, True])
def test_a_chain_of_launches_in_a_cuda_graph_follows_its_inputs(early: bool) -> None:
    a, b = inputs(50_001)
    x, y = torch.empty_like(a), torch.empty_like(a)
    add(a, b, x, 2, early)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        add(a, b, x, 2, early)
        for _ in range(10):
            add(x, b, y, 2, early)
            add(y, b, x, 2, early)
    for _ in range(3):
        a += 1
        x.fill_(float("nan"))
        graph.replay()
        assert torch.equal(x, a + 0.5 * 21 * b)


def test_launches_go_to_torchs_current_stream() -> None:
    a, b = inputs(100_003)
    out, stream, big = torch.zeros_like(a), torch.cuda.Stream(), torch.ones(8192, 8192, device="cuda")
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = a + (big @ big)[0, 0] / 8192
        add(late, b, out, 2, early=True)
        doubled = out * 2
    stream.synchronize()
    assert torch.equal(doubled, 2 * (a + 1 + 0.5 * b))


def test_a_thread_that_never_used_cuda_can_launch() -> None:
    a, b = inputs(5000)
    padded, outs = torch.cat([b.new_zeros(3), b]), [torch.zeros_like(a) for _ in range(4)]
    kernel, wrong = function(2), []

    def launch_often(out: torch.Tensor) -> None:
        try:
            for _ in range(100):
                kernel.launch(
                    (20, 1, 1), THREADS, [a, padded, out, len(a), 3, 0.5], cluster=2, shared_bytes=SHARED_BYTES
                )
            torch.cuda.synchronize()
        except RuntimeError as error:
            wrong.append(error)

    threads = [threading.Thread(target=launch_often, args=[out]) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(torch.equal(out, a + 0.5 * b) for out in outs)


def test_what_the_driver_refuses_is_an_error_with_its_name() -> None:
    a, b = inputs(64)
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_INVALID_VALUE .*, launching add"):
        function(1).launch((1, 1, 1), 4096, [a, b, a, 64, 0, 0.5], shared_bytes=SHARED_BYTES)
    cubin = nvrtc.compile_source(
        'extern "C" __global__ void one() {}', name="one.cu", defines={}, capability=torch.cuda.get_device_capability()
    )
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_NOT_FOUND .*, looking up two"):
        launch.load(cubin, "two", "")
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_\w+ .*, loading a cubin of 20 bytes"):
        launch.load(b"this is not a cubin\0", "one", "")
    add(a, b, a, 1, early=False)
