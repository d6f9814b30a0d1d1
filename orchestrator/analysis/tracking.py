"""Scores of cells in an experiment tracker: one run a cell, written anew each time, never doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol, Self

from orchestrator.errors import UserError

METRICS = (
    *("score", "score_low", "score_high", "n", "unanswered", "unscored", "failed", "compression"),
    *("density_prefill", "density_decode", "kv_kept", "tokens_per_second", "seconds_total"),
    *("prompt_tokens", "cached_tokens", "output_tokens"),
)
"""Fields of a cell in the status document (docs/status.md) that are measured."""
PARAMETERS = ("model", "method", "budget", "task", "length_tokens", "seed", "samples")
"""Fields that were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What a tracker is told of one cell."""

    key: str
    """The cell's identity: the same cell is the same run, however often it is told."""
    name: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    """Without those that are not known yet."""


class Tracker(Protocol):
    """A place for records. `log` of the same key replaces what it knew."""

    def log(self, record: CellRecord) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def cell_records(document: Mapping[str, Any]) -> list[CellRecord]:
    """The cells of a status document that have an outcome."""
    return [_record(document["campaign"], cell) for cell in document["cells"] if cell["n"]]


def _record(campaign: str, cell: Mapping[str, Any]) -> CellRecord:
    words = (cell["method"], cell["budget"], cell["task"], str(cell["length_tokens"]), cell["model"])
    return CellRecord(
        key=f"{campaign}/{cell['key']}",
        name=" ".join(word for word in words if word),
        parameters={"campaign": campaign, **{name: str(cell[name]) for name in PARAMETERS}},
        metrics={name: float(cell[name]) for name in METRICS if cell[name] is not None},
    )


class _Closing:
    """Closes at the end of a `with` block."""

    def close(self) -> None:
        """Nothing is open by default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MlflowTracker(_Closing):
    """One MLflow run a cell, in the experiment `project`; found again by a tag."""

    TAG = "frontier.cell"

    def __init__(self, project: str, uri: str | None) -> None:
        _need("mlflow")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._place, self._error = f"MLflow at {uri or 'its default place'}", MlflowException
        with _told(self._place, self._error):
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(project)
            self._experiment = found.experiment_id if found else self._client.create_experiment(project)

    def log(self, record: CellRecord) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.utils.time import get_current_time_millis

        now = int(get_current_time_millis())
        metrics = [Metric(name, value, now, 0) for name, value in record.metrics.items()]
        # Parameters of a run cannot change, and ours do not: they are part of the cell's identity.
        params = [Param(name, value) for name, value in record.parameters.items() if value]
        with _told(self._place, self._error):
            run = self._run_of(record)
            self._client.log_batch(run, metrics=metrics, params=params)
            self._client.set_terminated(run)

    def _run_of(self, record: CellRecord) -> str:
        known = self._client.search_runs([self._experiment], f"tags.`{self.TAG}` = '{record.key}'", max_results=1)
        if known:
            return str(known[0].info.run_id)
        made = self._client.create_run(self._experiment, tags={self.TAG: record.key}, run_name=record.name)
        return str(made.info.run_id)


class WandbTracker(_Closing):
    """One Weights & Biases run a cell, in the project `project`; its id is the cell's."""

    def __init__(self, project: str, uri: str | None) -> None:
        _need("wandb")
        import wandb

        self._project = project
        self._settings = wandb.Settings(**({"base_url": uri} if uri else {}), silent=True)

    def log(self, record: CellRecord) -> None:
        import wandb

        with _told("W&B", wandb.Error):
            run = wandb.init(
                project=self._project,
                id=_run_id(record.key),
                name=record.name,
                group=record.parameters["campaign"],
                config=dict(record.parameters),
                resume="allow",
                reinit="finish_previous",
                settings=self._settings,
            )
            run.summary.update(dict(record.metrics))
            run.finish()


TRACKERS: Mapping[str, Callable[[str, str | None], Tracker]] = {"mlflow": MlflowTracker, "wandb": WandbTracker}


def open_tracker(kind: str, project: str, uri: str | None = None) -> Tracker:
    """The tracker `kind`. Raises UserError for an unknown one, a missing package, or a place that does not answer."""
    if kind not in TRACKERS:
        raise UserError(f"tracker is {kind!r}; it must be one of: {', '.join(TRACKERS)}")
    return TRACKERS[kind](project, uri)


@contextmanager
def _told(place: str, kind: type[Exception]) -> Iterator[None]:
    """A tracker's own errors (no account, no answer, no right) in one line."""
    try:
        yield
    except kind as error:
        raise UserError(f"{place}: {(str(error) or type(error).__name__).splitlines()[0]}") from None


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{package} not installed; install the extra: sparse-frontier-campaigns[{package}]")


def _run_id(key: str) -> str:
    """A run id that W&B accepts, 64 characters at most, equal for equal keys."""
    import hashlib

    return f"frontier-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
