"""Tokenizers of three families and generated data, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.tokenizer import Tokenizer, load_tokenizer
from tests.support.small_tokenizers import FAMILIES, build_folder
from tests.support.task_settings import write_invented_data


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {family: build_folder(family, root / family) for family in (*FAMILIES, "bytes")}


@pytest.fixture(scope="session")
def tokenizers_by_family(tokenizer_folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {family: load_tokenizer(folder) for family, folder in tokenizer_folders.items()}


@pytest.fixture(scope="session")
def byte_bpe(tokenizers_by_family: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers_by_family["byte_bpe"]


@pytest.fixture(scope="session")
def invented_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_invented_data(tmp_path_factory.mktemp("data"), 400)
