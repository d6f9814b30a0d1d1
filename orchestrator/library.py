"""Campaigns from Python: notebooks, scripts, other programs. `from orchestrator import Campaign`.

Stable: what this module's `__all__` names keeps its meaning within a major version. Tables are pandas frames whose
columns are named in docs/analysis.md; everything else is a frozen record or plain data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from orchestrator.address import mask_password, store_url
from orchestrator.errors import ModelError, SpecError, StoreError, UserError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.analysis.frame import CampaignFrames
    from orchestrator.dashboard.snapshot import Snapshot
    from orchestrator.domain.grid import Cell
    from orchestrator.domain.spec import CampaignSpec
    from orchestrator.scheduler.background import BackgroundRun
    from orchestrator.scheduler.campaign import CampaignResult
    from orchestrator.store.session import Store

__all__ = ["Campaign", "ModelError", "Progress", "SpecError", "StoreError", "UserError", "campaigns"]

Progress = Literal["auto", "notebook", "lines", "none"]
"""How a run is followed: in a cell of a notebook, as lines on standard error, or not; `auto` chooses."""


class Campaign:
    """One campaign in one store. It holds no connection: every method opens the store and closes it.

    Every method raises UserError (one line that names the value and its place) for what the caller can mend.
    """

    def __init__(self, name: str, url: str) -> None:
        """For a campaign that is in the store; use `from_file`, `from_spec` or `open`."""
        self.name = name
        self._url = url

    @classmethod
    def from_file(cls, path: str | Path, *, store: str | Path | None = None, engine: str = "vllm") -> Campaign:
        """The campaign of a YAML file, written into the store if it is not there.

        `store` is a SQLite file or a postgresql:// URL, by default what the commands use. `engine` is `vllm`, or
        `fake`, which needs no model. Raises SpecError, ModelError, or StoreError when the name has another spec.
        """
        from orchestrator.creation import prepare

        return cls._created(*prepare(Path(path)), store, engine)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], *, store: str | Path | None = None, engine: str = "vllm") -> Campaign:
        """The same from a mapping with the keys of a campaign file."""
        from orchestrator.creation import prepare_spec, spec_from

        checked = spec_from(spec)
        return cls._created(checked, prepare_spec(checked), store, engine)

    @classmethod
    def open(cls, name: str | None = None, *, store: str | Path | None = None) -> Campaign:
        """A campaign that is in the store; without a name the newest. Raises StoreError when there is none."""
        from orchestrator.store.session import open_store
        from orchestrator.store.views import campaign_header

        url = _url(store)
        with open_store(url, create=False) as opened:
            return cls(campaign_header(opened, name).name, url)

    @classmethod
    def _created(cls, spec: CampaignSpec, cells: list[Cell], store: str | Path | None, engine: str) -> Campaign:
        from orchestrator.creation import create
        from orchestrator.store.session import open_store
        from workers.factory import engine_names

        if engine not in engine_names():
            raise UserError(f"engine is {engine!r}; it must be one of: {', '.join(engine_names())}")
        url = _url(store)
        with open_store(url) as opened:
            create(opened, spec, cells, engine)
        return cls(spec.name, url)

    def run(
        self,
        *,
        pool: str = "ray",
        workers: int | None = None,
        ray: str | None = None,
        progress: Progress = "auto",
        grace_seconds: float = 20.0,
        wall_seconds: float | None = None,
    ) -> CampaignResult:
        """Drive the campaign to its end, from wherever it stands. Safe to call again after any interruption.

        `pool` is `ray` (`ray` gives the address of a cluster; by default a local one is started) or `inline`, which
        runs the engine in this process. A KeyboardInterrupt drains: what is in flight may finish within
        `grace_seconds`, and the result says `interrupted`; a second one is raised. Raises StoreError (CampaignBusy)
        while another process drives the campaign.
        """
        from orchestrator.paths import data_folder
        from orchestrator.scheduler.background import BackgroundRun
        from orchestrator.scheduler.pools import make_pool
        from orchestrator.scheduler.settings import LoopSettings
        from orchestrator.store.views import campaign_header

        if progress not in get_args(Progress):
            raise UserError(f"progress is {progress!r}; it must be one of: {', '.join(get_args(Progress))}")
        _at_least(1, "workers", workers)
        _at_least(0, "grace_seconds", grace_seconds)
        _at_least(1, "wall_seconds", wall_seconds)
        with self._opened() as store:
            engine = campaign_header(store, self.name).engine_name
            chosen = make_pool(pool, workers=workers, ray=ray, engine=engine)
            settings = LoopSettings(grace_seconds=grace_seconds, spool_folder=data_folder() / "spool")
            driving = BackgroundRun(store, self.name, chosen, settings, wall_seconds)
            driving.start()
            try:
                _follow(store, self.name, progress, driving)
            except KeyboardInterrupt:
                driving.stop.set()
            return driving.result()

    def status(self) -> dict[str, Any]:
        """Progress, workers and cells as data: the document of `frontier status --json` (docs/status.md)."""
        from orchestrator.cli.status_document import status_document
        from orchestrator.store.views import campaign_snapshot

        with self._opened() as store:
            return status_document(campaign_snapshot(store, self.name))

    def snapshot(self) -> Snapshot:
        """What the dashboard shows: header, cells, workers, failures, events, at one moment."""
        from orchestrator.dashboard.read import SnapshotSource

        with self._opened() as store:
            return SnapshotSource(store, self.name)()

    def cells(self) -> pd.DataFrame:
        """One row a cell: model, method, budget, task, length and what is planned."""
        return self._frames().cells

    def outcomes(self) -> pd.DataFrame:
        """One row a recorded sample: verdict, score, measured densities, tokens, seconds."""
        return self._frames().outcomes

    def scores(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """One row a point: its means, their denominators and intervals."""
        from orchestrator.analysis.frame import score_matrix
        from orchestrator.analysis.scores import score_table

        return score_table(score_matrix(self._frames()), confidence=_share("confidence", confidence))

    def against_dense(self, *, margin: float = 0.05) -> pd.DataFrame:
        """One row a sparse point: its paired difference to dense on the same prompts, with corrected p-values."""
        from orchestrator.analysis.frame import score_matrix
        from orchestrator.analysis.significance import compare_with_dense

        return compare_with_dense(score_matrix(self._frames()), margin=_share("margin", margin))

    def admissible(self, *, margin: float = 0.05, alpha: float = 0.05, rule: str = "noninferior") -> pd.DataFrame:
        """The largest compression that each (model, method, task, length) tolerates, by `rule`."""
        from orchestrator.analysis.admissible import admissible_compression
        from orchestrator.cli.analysis_options import checked_rule

        tests = self.against_dense(margin=margin)
        known = tests[tests["num_pairs"] > 0]
        return admissible_compression(known, rule=checked_rule(rule), alpha=_share("alpha", alpha))

    def report(self, folder: str | Path, *, margin: float = 0.05, alpha: float = 0.05) -> Path:
        """Write report.html, figures/ and tables/ under `folder`; returns the page's path. Works before the end."""
        from orchestrator.analysis.findings import AnalysisSettings, analyse
        from orchestrator.analysis.report import write_report
        from orchestrator.cli.output import made_folder

        settings = AnalysisSettings(margin=_share("margin", margin), alpha=_share("alpha", alpha))
        frames = self._frames()
        made_folder("folder", Path(folder))
        processes = min(4, os.cpu_count() or 1) if len(frames.cells) > 100 else 1
        return write_report(analyse(frames, settings), Path(folder), processes=processes).html

    def pause(self) -> str:
        """Give out no more work; returns the campaign's state."""
        from orchestrator.store import control

        return self._controlled(control.pause)

    def resume(self) -> str:
        """Undo a pause; returns the campaign's state."""
        from orchestrator.store import control

        return self._controlled(control.resume)

    def cancel(self) -> str:
        """End the campaign; what is recorded stays. Returns the campaign's state."""
        from orchestrator.store import control

        return self._controlled(control.cancel)

    def requeue(self, kinds: Collection[str] = ()) -> int:
        """Take failed samples back, all or those of the given kinds, for the next run; returns their number."""
        from orchestrator.store import control
        from workers.failures import FailureKind

        kinds = (kinds,) if isinstance(kinds, str) else kinds
        unknown = sorted(set(kinds) - set(FailureKind))
        if unknown:
            raise UserError(f"kind is {unknown[0]!r}; it must be one of: {', '.join(FailureKind)}")
        with self._opened() as store:
            return control.requeue(store, self.name, [FailureKind(kind) for kind in kinds]).num_outcomes

    def _controlled(self, act: Callable[[Store, str], Any]) -> str:
        with self._opened() as store:
            return str(act(store, self.name))

    def _frames(self) -> CampaignFrames:
        from orchestrator.analysis.load import load_campaign

        with self._opened() as store:
            return load_campaign(store, self.name)

    @contextmanager
    def _opened(self) -> Iterator[Store]:
        from orchestrator.store.session import open_store

        with open_store(self._url, create=False) as store:
            yield store

    def __repr__(self) -> str:
        return f"Campaign({self.name!r}, store={mask_password(self._url)!r})"

    def _repr_html_(self) -> str:
        """A notebook shows the dashboard's first page."""
        from orchestrator.dashboard.notebook import page

        return page(self.snapshot())


def campaigns(store: str | Path | None = None) -> list[str]:
    """Names of all campaigns in a store, oldest first."""
    from orchestrator.store.session import open_store
    from orchestrator.store.views import campaign_names

    with open_store(_url(store), create=False) as opened:
        return campaign_names(opened)


def _follow(store: Store, name: str, progress: Progress, driving: BackgroundRun) -> None:
    """Shows the run until it ends. A broken view never stops a campaign."""
    from orchestrator.dashboard import notebook
    from orchestrator.dashboard.read import SnapshotSource

    chosen = progress if progress != "auto" else "notebook" if notebook.is_here() else "lines"
    if chosen != "none":
        notebook.follow(SnapshotSource(store, name), as_page=chosen == "notebook", stop=driving.done)
    driving.done.wait()


def _url(store: str | Path | None) -> str:
    return store_url(str(store) if store is not None else None)


def _at_least(least: float, name: str, value: float | None) -> None:
    if value is not None and not value >= least:
        raise UserError(f"{name} is {value}; it must be at least {least}")


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise UserError(f"{name} is {value:g}; it must lie between 0 and 1")
    return value
