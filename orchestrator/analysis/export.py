"""Writing a campaign to files: parquet, csv, jsonl, the lm-evaluation-harness form and a Hugging Face data set.

Rows stream through; memory holds one chunk. The parquet and jsonl forms also carry `campaign.json` with
everything that `frontier import` needs to rebuild the campaign without loss.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.analysis.columns import CELL_COLUMNS, OUTCOME_COLUMNS, SCHEMA_VERSION, Column
from orchestrator.store.dump import Dump

CHUNK_ROWS = 20_000
ROW_GROUP_ROWS = 100_000

Record = Mapping[str, Any]


class Format(StrEnum):
    """File formats of `frontier export`."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    LM_EVAL = "lm-eval"
    HF = "hf"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    folder: Path
    files: tuple[Path, ...]
    num_outcomes: int


def export_tables(
    dump: Dump, cells: Iterable[Record], outcomes: Iterable[Record], folder: Path, kind: Format
) -> Exported:
    """Write cells and outcomes (records by the names of their columns) as parquet, csv, jsonl or hf under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    where = folder / "data" if kind is Format.HF else folder
    where.mkdir(exist_ok=True)
    ending = "parquet" if kind is Format.HF else str(kind)
    write = _WRITERS[ending]
    paths = where / f"cells.{ending}", where / f"outcomes.{ending}"
    write(cells, CELL_COLUMNS, paths[0])
    count = write(outcomes, OUTCOME_COLUMNS, paths[1])
    extra = [write_schema(folder / "schema.json")]
    if kind in (Format.PARQUET, Format.JSONL):
        extra.append(write_campaign(dump, folder / "campaign.json"))
    if kind is Format.HF:
        extra.append(_write_card(dump, folder / "README.md"))
    return Exported(folder, (*paths, *extra), count)


def write_schema(path: Path) -> Path:
    """The meaning of every column, beside the data."""
    tables = {"cells": CELL_COLUMNS, "outcomes": OUTCOME_COLUMNS}
    described = {
        table: [{"name": c.name, "kind": c.kind, "meaning": c.meaning} for c in columns]
        for table, columns in tables.items()
    }
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **described}, indent=1, ensure_ascii=False) + "\n")
    return path


def write_campaign(dump: Dump, path: Path) -> Path:
    """The campaign's own rows, without its outcomes."""
    content = {"schema_version": SCHEMA_VERSION, "campaign": dict(dump.campaign), "tables": dict(dump.tables)}
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def write_parquet(rows: Iterable[Record], columns: tuple[Column, ...], path: Path) -> int:
    """Rows as one Parquet file, in row groups of ROW_GROUP_ROWS; returns their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(columns)
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        pending: list[Any] = []
        for chunk in chunks(rows, CHUNK_ROWS):
            pending.append(pa.RecordBatch.from_pydict(_by_column(chunk, columns), schema=schema))
            count += len(chunk)
            if len(pending) * CHUNK_ROWS >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(pending, schema))
                pending = []
        if pending:
            writer.write_table(pa.Table.from_batches(pending, schema))
    return count


def arrow_schema(columns: tuple[Column, ...]) -> Any:
    """The columns as an Arrow schema with their meanings as metadata; JSON columns are strings."""
    import pyarrow as pa

    types = {"string": pa.string(), "json": pa.string(), "int": pa.int64(), "float": pa.float64()}
    fields = [pa.field(c.name, types[c.kind], metadata={"meaning": c.meaning}) for c in columns]
    return pa.schema(fields, metadata={"frontier_schema_version": str(SCHEMA_VERSION)})


def _by_column(chunk: list[Record], columns: tuple[Column, ...]) -> dict[str, list[Any]]:
    return {c.name: [_plain(row.get(c.name), c) for row in chunk] for c in columns}


def _plain(value: Any, column: Column) -> Any:
    if value is None or column.kind in ("float", "int"):
        return value
    if column.kind == "json" and not isinstance(value, str):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return str(value)


def write_csv(rows: Iterable[Record], columns: tuple[Column, ...], path: Path) -> int:
    """Rows as CSV with a header; null is an empty field."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([c.name for c in columns])
        for count, row in enumerate(rows, 1):  # noqa: B007
            writer.writerow([_plain(row.get(c.name), c) for c in columns])
    return count


def write_jsonl(rows: Iterable[Record], columns: tuple[Column, ...], path: Path) -> int:
    """Rows as one JSON object a line."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            values = {c.name: _plain(row.get(c.name), c) for c in columns}
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
    return count


_WRITERS: dict[str, Callable[[Iterable[Record], tuple[Column, ...], Path], int]] = {
    "parquet": write_parquet,
    "csv": write_csv,
    "jsonl": write_jsonl,
}


def chunks(rows: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Lists of at most `size` rows."""
    stream = iter(rows)
    while chunk := list(islice(stream, size)):
        yield chunk


def _write_card(dump: Dump, path: Path) -> Path:
    """A data set card whose header tells `datasets.load_dataset` where the two tables are."""
    name = str(dump.campaign["name"])
    lines = [
        "---",
        "configs:",
        *(f"- config_name: {t}\n  data_files: data/{t}.parquet" for t in ("outcomes", "cells")),
        "---",
        "",
        f"# {name}",
        "",
        f"Outcomes and cells of the sparse-attention campaign {name!r}",
        f"(spec hash {dump.campaign['spec_hash']}, code revision {dump.campaign['code_revision'] or 'unknown'}).",
        "Join the two tables on `cell_key`.",
        "",
        *(_column_list("outcomes", OUTCOME_COLUMNS)),
        *(_column_list("cells", CELL_COLUMNS)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _column_list(title: str, columns: tuple[Column, ...]) -> list[str]:
    return [f"## {title}", "", *(f"- `{c.name}` ({c.kind}): {c.meaning}" for c in columns), ""]
