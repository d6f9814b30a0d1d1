"""Where a store is: from a flag, the environment, the settings file, or at home; and its address without a password."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.paths import data_folder


def config_file() -> Path:
    """The user's settings file (TOML with a key `store`); it need not exist."""
    chosen = os.environ.get("FRONTIER_CONFIG")
    return Path(chosen).expanduser() if chosen else Path.home() / ".config" / "frontier" / "config.toml"


def store_url(option: str | None) -> str:
    """The store's URL: from the flag, else FRONTIER_STORE, else the settings file, else a SQLite file at home."""
    chosen = option or os.environ.get("FRONTIER_STORE") or _configured_store()
    if not chosen:
        chosen = str(data_folder() / "frontier.sqlite")
    if "://" in chosen:
        return _with_driver(chosen)
    return f"sqlite:///{Path(chosen).expanduser().absolute()}"


def _configured_store() -> str | None:
    path = config_file()
    if not path.is_file():
        return None
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise UserError(f"{path}: not valid TOML: {error}") from None
    store = settings.get("store")
    if store is not None and not isinstance(store, str):
        raise UserError(f"{path}: store is {store!r}; it must be a string")
    return store


def _with_driver(url: str) -> str:
    scheme, rest = url.split("://", 1)
    if scheme in ("postgres", "postgresql"):
        return f"postgresql+psycopg://{rest}"
    if scheme in ("sqlite", "postgresql+psycopg"):
        return url
    raise UserError(f"store URL {mask_password(url)}: scheme {scheme!r} is not sqlite or postgresql")


def mask_password(url: str) -> str:
    """The URL with its password replaced by `***`, for outputs and logs."""
    return _PASSWORD_IN_QUERY.sub(r"\1***", _PASSWORD_OF_URL.sub(r"\1:***@", url))


# Greedy up to the last @: people forget to escape an @ or a / in a password, and SQLAlchemy takes it as it is.
_PASSWORD_OF_URL = re.compile(r"^([^:]*://[^:/@]*):.*@", re.DOTALL)
_PASSWORD_IN_TEXT = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):\S*@", re.IGNORECASE)
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:ssl)?password=)[^&\s]*", re.IGNORECASE)


def mask_passwords(text: str) -> str:
    """`text` with the password of every URL in it replaced by `***`."""
    return _PASSWORD_IN_QUERY.sub(r"\1***", _PASSWORD_IN_TEXT.sub(r"\1:***@", text))
