"""`frontier export` and `frontier import`: a campaign out of a store, and into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import CampaignArgument, JsonOption, StoreOption, store_url
from orchestrator.cli.output import made_folder, note, print_json
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.analysis.export import Exported
    from orchestrator.store.dump import Dump
    from orchestrator.store.merge import Merged


def register(app: typer.Typer) -> None:
    """Add both commands."""

    @app.command("export", epilog="Example: frontier export quickstart --format parquet --out quickstart-data")
    def export(
        name: CampaignArgument = None,
        kind: Annotated[str, typer.Option("--format", help="parquet, csv, jsonl, lm-eval or hf.")] = "parquet",
        out: Annotated[Path | None, typer.Option(help="Folder; default: NAME-FORMAT.")] = None,
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Write a campaign's outcomes and cells to files, with the meaning of every column."""
        from orchestrator.cli.analysis_options import need_analysis_packages
        from orchestrator.store.dump import dump_campaign
        from orchestrator.store.session import open_store

        need_analysis_packages()
        with open_store(store_url(store), create=False) as opened:
            dump = dump_campaign(opened, name)
            folder = out or Path(f"{dump.campaign['name']}-{kind}")
            written = write_export(dump, kind, folder)
        if as_json:
            print_json({"folder": str(written.folder), "files": len(written.files), "outcomes": written.num_outcomes})
        else:
            print(written.folder)
            note(f"{written.num_outcomes:,} outcomes in {len(written.files)} files")

    @app.command("import", epilog="Example: frontier import laptop.sqlite quickstart")
    def import_(
        source: Annotated[str, typer.Argument(help="A parquet or jsonl export, or another store.", metavar="SOURCE")],
        name: Annotated[str | None, typer.Argument(help="Campaign there; default: the newest.")] = None,
        rename: Annotated[str | None, typer.Option("--as", help="Name here, if another.")] = None,
        on_conflict: Annotated[str, typer.Option(help="refuse, keep (ours) or replace (by theirs).")] = "refuse",
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Take a campaign from an export or another store into this one, by identity."""
        merged = import_campaign(source, name, store_url(store), rename, on_conflict)
        document = {"campaign": merged.campaign, "created": merged.created, "new": merged.num_new}
        document |= {"same": merged.num_same, "conflicts": merged.num_conflicts}
        if as_json:
            print_json(document)
        else:
            print(f"{merged.campaign}: {merged.num_new} new, {merged.num_same} already there, ", end="")
            print(f"{merged.num_conflicts} conflicts")


def write_export(dump: Dump, kind: str, folder: Path) -> Exported:
    """Write `dump` as `kind` into `folder`. Raises UserError for an unknown kind or a folder in use."""
    from orchestrator.analysis.export import Exported, Format, export_tables
    from orchestrator.analysis.export_lm_eval import export_lm_eval
    from orchestrator.analysis.export_rows import cell_records, outcome_records

    if kind not in list(Format):
        raise UserError(f"--format is {kind!r}; it must be one of: {', '.join(Format)}")
    if any(made_folder("--out", folder).iterdir()):
        raise UserError(f"--out {folder}: exists and is not an empty folder")
    if kind == Format.LM_EVAL:
        files, count = export_lm_eval(dump, cell_records(dump), outcome_records(dump), folder)
        return Exported(folder, files, count)
    return export_tables(dump, cell_records(dump), outcome_records(dump), folder, Format(kind))


def import_campaign(source: str, name: str | None, url: str, rename: str | None, on_conflict: str) -> Merged:
    """Merge `source` into the store at `url`. Raises UserError when it cannot be read or conflicts."""
    from orchestrator.domain.spec import NAME, NAME_RULE
    from orchestrator.store.dump import dump_campaign
    from orchestrator.store.merge import OnConflict, merge_campaign
    from orchestrator.store.session import open_store

    if on_conflict not in list(OnConflict):
        raise UserError(f"--on-conflict is {on_conflict!r}; it must be one of: {', '.join(OnConflict)}")
    if rename is not None and not NAME.fullmatch(rename):
        raise UserError(f"--as is {rename!r}; it must be {NAME_RULE}")
    answer = OnConflict(on_conflict)
    with open_store(url) as target:
        if Path(source).is_dir():
            from orchestrator.analysis.export_read import read_export

            return merge_campaign(target, read_export(Path(source)), name=rename, on_conflict=answer)
        with open_store(store_url(source), create=False) as other:
            return merge_campaign(target, dump_campaign(other, name), name=rename, on_conflict=answer)
