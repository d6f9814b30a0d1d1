"""Where question answering data comes from: the shipped sample, the machine's data cache, or a named file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tasks.errors import DataError
from tasks.home import home_folder
from tasks.qa.articles import DATA_FOLDER
from tasks.qa.documents import Collection
from tasks.qa.readers import read_quality, read_squad, read_toefl


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set: its reader, and where its file can be fetched."""

    name: str
    read: Callable[[Path, str], Collection]
    file_name: str
    url: str
    revision: str
    sha256: str | None
    """None where we know no checksum: the first fetch then records the one that it sees."""
    licence: str


SOURCES = {
    "squad": Source(
        name="squad",
        read=read_squad,
        file_name="squad.json",
        url="https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
        revision="dev-v2.0",
        sha256="80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
        licence="CC BY-SA 4.0",
    ),
    "quality": Source(
        name="quality",
        read=read_quality,
        file_name="quality.jsonl",
        url="https://raw.githubusercontent.com/nyu-mll/quality/main/data/v1.0.1/QuALITY.v1.0.1.htmlstripped.dev",
        revision="v1.0.1, dev, html stripped",
        sha256=None,
        licence="CC BY 4.0",
    ),
    "toefl": Source(
        name="toefl",
        read=read_toefl,
        file_name="toefl.jsonl",
        url="https://raw.githubusercontent.com/PiotrNawrot/sparse-frontier/31d86c1/sparse_frontier/tasks/qa/data/toeflqa.jsonl",
        revision="31d86c1",
        sha256="fa2bd391116f2d24d3ad5ccf9fecd099becc0ffb842d116909220d089b448f6c",
        licence="not stated",
    ),
}


def fetched_path(source: Source) -> Path:
    """Where the fetched file of a source lies, whether or not it is there."""
    return home_folder() / "datasets" / source.file_name


def load_collection(source_name: str, dataset: str) -> Collection:
    """The data set `sample` (shipped), `full` (fetched), or the file of that name. Raises DataError."""
    source = SOURCES[source_name]
    if dataset == "sample":
        return _load(source.name, str(DATA_FOLDER / source.file_name), "the shipped sample", 0)
    path = fetched_path(source) if dataset == "full" else Path(dataset)
    if not path.is_file():
        hint = f"run `frontier tasks fetch {source.name}` on this machine, or use `dataset: sample`"
        raise DataError(f"the data set {source.name} ({dataset}) is not at {path}; {hint}")
    return _load(source.name, str(path), dataset, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load(source_name: str, path: str, label: str, _changed: int) -> Collection:
    return SOURCES[source_name].read(Path(path), f"{source_name} ({label})")
