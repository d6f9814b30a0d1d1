"""What identifies a model folder: a hash that changes when its configuration, tokenizer or weights do."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 1 << 20
NUM_CHUNKS = 16
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def folder_fingerprint(folder: Path) -> str:
    """Hash over the small files and over samples of each weight file: 16 chunks of 1 MiB spread over it.

    Sampling keeps a 140 GB model under a second; a fine-tune of the same shapes differs in every chunk.
    """
    digest = hashlib.sha256()
    for name in SMALL_FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _update_with_samples(digest, path)
    return f"sha256:{digest.hexdigest()}"


def _update_with_samples(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    step = max(CHUNK_BYTES, size // NUM_CHUNKS)
    with path.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            digest.update(stream.read(CHUNK_BYTES))
