"""Reading an export folder (parquet or jsonl) back as a dump, for `frontier import`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.analysis.columns import SCHEMA_VERSION
from orchestrator.analysis.export_rows import stored_outcome
from orchestrator.errors import UserError
from orchestrator.store.dump import TABLES, Dump

BATCH_ROWS = 10_000


def read_export(folder: Path) -> Dump:
    """The campaign in `folder`. Raises UserError when it is not an importable export."""
    described = folder / "campaign.json"
    if not described.is_file():
        raise UserError(f"{folder}: no campaign.json; only parquet and jsonl exports can be imported")
    try:
        content = json.loads(described.read_text(encoding="utf-8"))
        version = int(content["schema_version"])
        tables = {name: content["tables"][name] for name in TABLES}
        campaign = dict(content["campaign"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{described}: not a campaign export: {error}") from None
    if version > SCHEMA_VERSION:
        raise UserError(f"{described}: schema version {version} is newer than this program's {SCHEMA_VERSION}")
    source = next((p for p in (folder / "outcomes.parquet", folder / "outcomes.jsonl") if p.is_file()), None)
    if source is None:
        raise UserError(f"{folder}: neither outcomes.parquet nor outcomes.jsonl is there")
    keys = {str(cell["key"]): int(cell["id"]) for cell in tables["cells"]}
    return Dump(campaign, tables, lambda: (stored_outcome(r, keys) for r in _records(source)))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    return _parquet(path) if path.suffix == ".parquet" else _jsonl(path)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from None


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: not valid JSON: {error}") from None
