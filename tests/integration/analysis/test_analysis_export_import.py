"""Export, import, and what conflicts do: a round trip loses nothing."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.columns import CELL_COLUMNS, OUTCOME_COLUMNS
from orchestrator.cli.export import import_campaign, write_export
from orchestrator.errors import StoreError, UserError
from orchestrator.store import views
from orchestrator.store.dump import Dump, dump_campaign
from orchestrator.store.session import Store, open_store
from tests.support.recorded_campaigns import SAMPLES, record_campaign

IDS = {"id", "campaign_id", "cell_id", "shard_id", "worker_id", "attempt_id"}
NOT_KEPT = {"state", "epoch", "orchestrator", "orchestrator_until", "stopped_at"}


def contents(dump: Dump) -> dict[str, Any]:
    """Everything in a dump with references replaced by what they refer to, in a comparable order."""
    keys = {row["id"]: row["key"] for row in dump.tables["cells"]}
    names = {row["id"]: row["name"] for row in dump.tables["workers"]}
    attempts = {row["id"]: (names[row["worker_id"]], row["opened_at"]) for row in dump.tables["attempts"]}
    shards = {row["id"]: (keys[row["cell_id"]], row["first_index"]) for row in dump.tables["shards"]}

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        own = {k: round(v, 9) if isinstance(v, float) else v for k, v in row.items() if k not in IDS | NOT_KEPT}
        own["cell"] = keys.get(row.get("cell_id", -1))
        own["shard"] = shards.get(row.get("shard_id", -1))
        return own | {"attempt": attempts.get(row.get("attempt_id", -1))}

    tables = {name: sorted((plain(r) for r in rows), key=repr) for name, rows in dump.tables.items()}
    campaign = {k: v for k, v in dump.campaign.items() if k not in IDS | NOT_KEPT}
    return {"campaign": campaign, "outcomes": sorted((plain(r) for r in dump.outcomes()), key=repr), **tables}


def test_an_outcome_whose_cell_is_not_there_is_told_in_one_line(store: Store, tmp_path: Path) -> None:
    record_campaign(store, share=0.2)
    dump = dump_campaign(store, "recorded")
    foreign = replace(dump, outcomes=lambda: (row | {"cell_id": 987} for row in dump.outcomes()))
    with pytest.raises(StoreError, match="damaged: an outcome is of cell 987, which is not there"):
        write_export(foreign, "jsonl", tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_round_trip_loses_nothing(store: Store, tmp_path: Path, kind: str) -> None:
    record_campaign(store, share=0.8)
    before = dump_campaign(store, "recorded")
    write_export(before, kind, tmp_path / "out")
    target = f"sqlite:///{tmp_path / 'target.sqlite'}"
    merged = import_campaign(str(tmp_path / "out"), None, target, None, "refuse")
    assert merged.created
    assert merged.num_new > 200
    with open_store(target) as other:
        assert contents(dump_campaign(other, "recorded")) == contents(before)
        shards = views.campaign_header(other, "recorded").shards
        assert shards["leased"] == 0
        assert shards["done"] == views.campaign_header(store, "recorded").shards["done"]
    again = import_campaign(str(tmp_path / "out"), None, target, None, "refuse")
    assert (again.created, again.num_new, again.num_same) == (False, 0, merged.num_new)
    with open_store(target) as other:
        assert contents(dump_campaign(other, "recorded")) == contents(before)


def test_another_store_fills_in_what_is_missing(store: Store, store_url: str, tmp_path: Path) -> None:
    part = f"sqlite:///{tmp_path / 'part.sqlite'}"
    record_campaign(store, share=1.0)
    with open_store(part) as other:
        record_campaign(other, share=0.5)
        missing = views.campaign_header(other, "recorded")
    source = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    with open_store(source) as copy:
        from orchestrator.store.merge import merge_campaign

        merge_campaign(copy, dump_campaign(store, "recorded"))
    merged = import_campaign(source, "recorded", part, None, "refuse")
    assert merged.num_new == missing.num_samples - missing.num_recorded
    assert merged.num_same == missing.num_recorded
    with open_store(part) as other:
        after = views.campaign_header(other, "recorded")
        assert (after.num_recorded, after.state) == (after.num_samples, "complete")
        cells = {c.key: (c.num_correct, c.score_sum, c.num_failed) for c in views.cell_rows(other, "recorded")}
    with_all = {c.key: (c.num_correct, c.score_sum, c.num_failed) for c in views.cell_rows(store, "recorded")}
    assert cells == with_all


def test_conflicts_are_refused_by_default_and_leave_no_trace(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}.sqlite" for name in ("ours", "theirs")]
    for url, value in zip(urls, (1.0, 0.0), strict=True):
        with open_store(url) as opened:
            record_campaign(opened, score=lambda key, index, value=value: value)
    with open_store(urls[0]) as ours:
        before = contents(dump_campaign(ours))
    with pytest.raises(StoreError, match=r"outcomes are in the store with another answer or score.*nothing was imp"):
        import_campaign(urls[1], "recorded", urls[0], None, "refuse")
    with open_store(urls[0]) as ours:
        assert contents(dump_campaign(ours)) == before
    kept = import_campaign(urls[1], "recorded", urls[0], None, "keep")
    assert kept.num_conflicts > 0
    replaced = import_campaign(urls[1], "recorded", urls[0], None, "replace")
    assert replaced.num_conflicts == kept.num_conflicts
    with open_store(urls[0]) as ours:
        assert sum(c.score_sum for c in views.cell_rows(ours, "recorded")) == 0
        assert views.campaign_header(ours).num_recorded == views.campaign_header(ours).num_samples


def test_another_spec_of_the_same_name_needs_another_name(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name}.sqlite" for name in ("one", "two")]
    for url, models in zip(urls, (1, 2), strict=True):
        with open_store(url) as opened:
            record_campaign(opened, models=models)
    with pytest.raises(StoreError, match="another spec"):
        import_campaign(urls[1], None, urls[0], None, "refuse")
    assert import_campaign(urls[1], None, urls[0], "theirs", "refuse").created
    with open_store(urls[0]) as opened:
        assert views.campaign_names(opened) == ["recorded", "theirs"]


def test_csv_and_hf_hold_every_row_and_documented_column(store: Store, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    record_campaign(store)
    dump = dump_campaign(store)
    written = write_export(dump, "csv", tmp_path / "csv")
    rows = list(csv.DictReader((tmp_path / "csv" / "outcomes.csv").open(newline="", encoding="utf-8")))
    assert len(rows) == written.num_outcomes == len(dump.tables["cells"]) * SAMPLES
    assert list(rows[0]) == [c.name for c in OUTCOME_COLUMNS]
    assert rows[0]["completion"].startswith("<b>line one</b>,\n\tline two")
    write_export(dump, "hf", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "data_files: data/outcomes.parquet" in card
    table = pq.read_table(tmp_path / "hf" / "data" / "cells.parquet")
    assert table.column_names == [c.name for c in CELL_COLUMNS]
    schema = json.loads((tmp_path / "hf" / "schema.json").read_text())
    assert [c["name"] for c in schema["outcomes"]] == table_names(tmp_path / "hf" / "data" / "outcomes.parquet")


def table_names(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def test_lm_eval_form_has_what_its_tools_read(store: Store, tmp_path: Path) -> None:
    record_campaign(store)
    write_export(dump_campaign(store), "lm-eval", tmp_path / "out")
    runs = sorted(p for p in (tmp_path / "out").iterdir())
    assert len(runs) == 2 * 3 * 2
    results = json.loads(next(runs[0].glob("results_*.json")).read_text())
    assert set(results["results"]) == {"ruler_niah", "qa_squad"}
    for task, values in results["results"].items():
        lines = [json.loads(x) for x in next(runs[0].glob(f"samples_{task}_*.jsonl")).read_text().splitlines()]
        assert len(lines) == results["n-samples"][task]["effective"] == SAMPLES - 1
        assert values["score,none"] == pytest.approx(sum(line["score"] for line in lines) / len(lines))
        assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "doc_hash"} <= set(lines[0])
        metrics = [metric["metric"] for metric in results["configs"][task]["metric_list"]]
        assert metrics == ["score"]
        assert set(metrics) <= set(lines[0])


def test_what_cannot_be_written_or_read_is_one_clear_line(store: Store, tmp_path: Path) -> None:
    record_campaign(store, models=1)
    dump = dump_campaign(store)
    with pytest.raises(UserError, match="--format is 'xml'"):
        write_export(dump, "xml", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        write_export(dump, "csv", tmp_path / "full")
    target = f"sqlite:///{tmp_path / 't.sqlite'}"
    with pytest.raises(UserError, match=r"no campaign\.json"):
        import_campaign(str(tmp_path / "full"), None, target, None, "refuse")
    write_export(dump, "jsonl", tmp_path / "bad")
    with (tmp_path / "bad" / "outcomes.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError, match=r"outcomes\.jsonl:\d+: not valid JSON"):
        import_campaign(str(tmp_path / "bad"), None, target, None, "refuse")
    with open_store(target) as opened:
        assert views.campaign_names(opened) == []
    with pytest.raises(UserError, match="--on-conflict is 'maybe'"):
        import_campaign(str(tmp_path / "bad"), None, target, None, "maybe")


@pytest.mark.parametrize(("old", "new"), [('"score": ', '"score": "much", "old": '), ('"index": 1,', '"index": 0,')])
def test_rows_that_fit_no_store_are_refused_and_leave_no_trace(old: str, new: str, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 's.sqlite'}") as store:
        record_campaign(store, models=1)
        write_export(dump_campaign(store), "jsonl", tmp_path / "bad")
    path = tmp_path / "bad" / "outcomes.jsonl"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    target = f"sqlite:///{tmp_path / 't.sqlite'}"
    with pytest.raises(StoreError, match="cannot be imported, a row of it fits no store: "):
        import_campaign(str(tmp_path / "bad"), None, target, None, "refuse")
    with open_store(target) as opened:
        assert views.campaign_names(opened) == []
