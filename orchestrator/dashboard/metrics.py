"""A campaign's figures for Prometheus, read from the store at each scrape. Reading changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from orchestrator.dashboard.reader import Fetch
from orchestrator.dashboard.snapshot import CellView, Header, Snapshot, WorkerView
from orchestrator.errors import StoreError, UserError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CELL_LABELS = ("campaign", "model", "method", "budget", "task", "length_tokens", "seed", "cell")
"""The last one is the cell's identity: what tables call a budget may be the same for two settings of a method."""
STATES = ("ready", "running", "paused", "complete", "cancelled")


class CampaignCollector:
    """What a Prometheus registry asks at each scrape. While the store is away only `frontier_store_up 0` is told."""

    def __init__(self, fetch: Fetch, *, with_cells: bool = True) -> None:
        self._fetch = fetch
        self._with_cells = with_cells
        self._one_at_a_time = Lock()

    def describe(self) -> list[Metric]:
        """Nothing beforehand: registering must not read the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._one_at_a_time:
                snapshot = self._fetch()
        except StoreError:
            yield _gauge("store_up", "Whether the campaign's store answered.", [((), 0.0)])
            return
        yield _gauge("store_up", "Whether the campaign's store answered.", [((), 1.0)])
        yield from metrics(snapshot, with_cells=self._with_cells)


def serve(fetch: Fetch, host: str, port: int, *, with_cells: bool = True) -> Any:
    """Serve /metrics in a thread; returns a server with `server_port`, `shutdown` and `server_close`."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(CampaignCollector(fetch, with_cells=with_cells))
    try:
        server, _ = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise UserError(f"cannot serve metrics on {host}:{port}: {error.strerror or error}") from None
    return server


def exposition(fetch: Fetch, *, with_cells: bool = True) -> str:
    """One scrape as text, for node_exporter's textfile collector and for looking."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(CampaignCollector(fetch, with_cells=with_cells))
    return str(generate_latest(registry).decode())


def need_prometheus() -> None:
    """Raises UserError when the extra `metrics` is not installed."""
    from importlib.util import find_spec

    if find_spec("prometheus_client") is None:
        raise UserError("prometheus_client not installed; install the extra: sparse-frontier-campaigns[metrics]")


def metrics(snapshot: Snapshot, *, with_cells: bool = True) -> Iterator[Metric]:
    """Every metric of one snapshot; docs/metrics.md lists them."""
    header = snapshot.header
    yield from _campaign(header)
    failures = [((header.campaign, count.kind), float(count.num)) for count in snapshot.failure_counts]
    yield _counter(
        "failures", "Failures by kind, those that were tried again included.", failures, ("campaign", "kind")
    )
    yield from _workers(header.campaign, snapshot.workers)
    if with_cells:
        yield from _cells(header.campaign, snapshot.cells)


def _campaign(header: Header) -> Iterator[Metric]:
    campaign = ("campaign",)

    def one(value: float | None) -> list[tuple[tuple[str, ...], float]]:
        return [] if value is None else [((header.campaign,), float(value))]

    states = [((header.campaign, state), float(state == header.state)) for state in STATES]
    yield _gauge("campaign_state", "1 for the state that the campaign is in.", states, ("campaign", "state"))
    yield _gauge("campaign_driven", "Whether an orchestrator holds the campaign.", one(header.is_driven), campaign)
    yield _gauge("samples_planned", "Samples of the whole campaign.", one(header.num_samples), campaign)
    yield _counter("samples_recorded", "Samples with an outcome, good or bad.", one(header.num_recorded), campaign)
    yield _counter("samples_scored", "Samples with a score.", one(header.num_scored), campaign)
    yield _counter("samples_unanswered", "Completions without an answer.", one(header.num_unanswered), campaign)
    yield _counter("samples_failed", "Samples that ended unscored.", one(header.num_failed), campaign)
    yield _counter("attempts_retried", "Failed attempts that were tried again.", one(header.num_retries), campaign)
    yield _gauge("samples_per_second", "Over the last minutes.", one(header.samples_per_second), campaign)
    yield _gauge(
        "tokens_per_second", "Prompt and output, over the last minutes.", one(header.tokens_per_second), campaign
    )
    yield _gauge("gpus", "GPUs held by workers.", one(header.num_gpus), campaign)
    yield _gauge("gpu_busy_ratio", "Share of held GPUs with requests in flight.", one(header.gpu_busy_share), campaign)
    if header.eta is not None:
        bounds = (("low", header.eta.low_seconds), ("high", header.eta.high_seconds))
        left = [((header.campaign, bound), seconds) for bound, seconds in bounds]
        yield _gauge("eta_seconds", "Seconds until the last outcome, as an interval.", left, ("campaign", "bound"))


_OF_WORKERS: tuple[tuple[str, str, Callable[[WorkerView], float | None]], ...] = (
    ("worker_in_flight", "Requests in flight.", lambda w: w.num_in_flight),
    ("worker_tokens_per_second", "Prompt and output tokens.", lambda w: w.tokens_per_second),
    ("worker_kv_use_ratio", "Share of the KV cache in use.", lambda w: w.kv_use),
    ("worker_heartbeat_age_seconds", "Since the worker was last heard.", lambda w: w.heartbeat_age_seconds),
)


def _workers(campaign: str, workers: Sequence[WorkerView]) -> Iterator[Metric]:
    by_state = Counter(worker.state for worker in workers)
    states = [((campaign, state), float(number)) for state, number in sorted(by_state.items())]
    yield _gauge("workers", "Workers by state.", states, ("campaign", "state"))
    labels = ("campaign", "worker", "host")
    for name, about, read in _OF_WORKERS:
        values = [(w, read(w)) for w in workers if w.state not in ("lost", "stopped", "broken")]
        rows = [((campaign, w.name, w.host), float(value)) for w, value in values if value is not None]
        yield _gauge(name, about, rows, labels)


def _cells(campaign: str, cells: Sequence[CellView]) -> Iterator[Metric]:
    def key(cell: CellView) -> tuple[str, ...]:
        length, seed = str(cell.length_tokens), str(cell.seed)
        return (campaign, cell.model, cell.method, cell.budget, cell.task, length, seed, cell.key)

    planned = [(key(cell), float(cell.num_samples)) for cell in cells]
    recorded = [(key(cell), float(cell.num_recorded)) for cell in cells]
    scores = [(key(cell), cell.score_sum / cell.num_scored) for cell in cells if cell.num_scored]
    yield _gauge("cell_samples_planned", "Samples of a cell.", planned, CELL_LABELS)
    yield _counter("cell_samples_recorded", "Samples of a cell with an outcome.", recorded, CELL_LABELS)
    yield _gauge("cell_score", "Mean score of a cell's scored samples, 0 to 1.", scores, CELL_LABELS)


Rows = Sequence[tuple[tuple[str, ...], float]]


def _gauge(name: str, about: str, rows: Rows, labels: Sequence[str] = ()) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"frontier_{name}", about, labels=labels), rows)


def _counter(name: str, about: str, rows: Rows, labels: Sequence[str] = ()) -> Metric:
    """A count that a requeue may lower: Prometheus takes that as a restart."""
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"frontier_{name}", about, labels=labels), rows)


def _filled(family: Any, rows: Rows) -> Metric:
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
