"""A SQLite file that opens and holds what no version of ours wrote is a clear error, not a fault of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.session import Store, open_store
from orchestrator.store.views import campaign_header, event_rows
from tests.support.campaigns import make_campaign

DAMAGES: list[tuple[str, Callable[[Store], object]]] = [
    ("UPDATE campaigns SET name = CAST(X'D0D0' AS TEXT)", lambda store: campaign_header(store, None)),
    ("UPDATE campaigns SET state = 'nonsense'", lambda store: campaign_header(store, None)),
    ("UPDATE campaigns SET spec = '{'", lambda store: campaign_header(store, None)),
    ("UPDATE events SET message = CAST(X'FF' AS TEXT)", event_rows),
]


@pytest.mark.parametrize(("damage", "read"), DAMAGES)
def test_a_damaged_value_is_told_with_the_store(damage: str, read: Callable[[Store], object], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    with open_store(url) as store:
        make_campaign(store)
    with sqlite3.connect(tmp_path / "store.sqlite") as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute(damage)
    raw.close()
    with open_store(url) as store, pytest.raises(StoreError, match=r"store sqlite:.*store\.sqlite"):
        read(store)
