"""The report: self-contained, escaped, honest about what is missing, and drawn from what there is."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from orchestrator.analysis.findings import AnalysisSettings, Findings, analyse
from orchestrator.analysis.headline import headline
from orchestrator.analysis.plots import cost, operations, quality
from orchestrator.analysis.plots.style import plain, plain_number, short_model, tokens
from orchestrator.analysis.report import ReportFiles, render_page, result_tables, write_report
from orchestrator.analysis.report_figures import drawings, render
from orchestrator.analysis.report_html import inline_figure, table
from orchestrator.analysis.synthetic import TASKS, Law, synthetic_campaign

EVIL = '<script>alert("x")</script> & $a_b$ \u202e\x1b[2J'
SMALL: dict[str, Any] = {"models": {"Qwen2.5-7B-Instruct": 7.6, "Qwen2.5-72B-Instruct": 72.7}, "num_samples": 60}
SMALL |= {"lengths": (16384, 128000), "compressions": (2.0, 5.0, 20.0)}
METHODS = {"vertical_slash": ("prefill", -0.45), "quest": ("decode", -0.3)}
SMALL |= {"law": Law(methods=METHODS, tasks={name: TASKS[name] for name in ("qa_squad", "ruler_vt", "ruler_niah")})}
QUICK = AnalysisSettings(resamples=50, law_resamples=10)


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset", "poster") and value:
                self.fetched.append(value)
            if name == "id" and value:
                self.ids.append(value)


@pytest.fixture(scope="module")
def findings() -> Findings:
    frames = synthetic_campaign(**SMALL)
    examples = [{"verdict": "unanswered", "method": EVIL, "task": EVIL, "completion": EVIL, "reason": EVIL}]
    return analyse(replace(frames, name=EVIL, examples=examples), QUICK)


@pytest.fixture(scope="module")
def written(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write_report(findings, tmp_path_factory.mktemp("report"), processes=2)


@pytest.fixture(scope="module")
def page(written: ReportFiles) -> str:
    return written.html.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    outside = [url for url in reader.fetched if not url.startswith(("#", "data:"))]
    assert outside == []
    assert "@import" not in page
    assert not re.search(r"url\((?!['\"]?#)", page)
    assert "default-src 'none'" in page


def test_ids_are_unique_although_many_figures_share_the_page(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert [name for name, count in Counter(reader.ids).items() if count > 1] == []
    used = set(re.findall(r'(?:xlink:)?href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {a or b for a, b in used} <= set(reader.ids)


def test_foreign_text_is_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page


def test_every_figure_is_there_in_three_formats(findings: Findings, written: ReportFiles) -> None:
    names = {path.stem for path in written.figures}
    assert {"heat-16384", "accuracy-128000", "admissible", "admissible-length"} <= names
    assert {"frontier-prefill", "frontier-decode", "frontier-density", "frontier-seconds", "theory"} <= names
    assert {"law", "law-coefficients", "relative-error", "sensitivity", "speed", "throughput", "failures"} <= names
    assert "completeness" not in names
    for path in written.figures:
        ElementTree.parse(path)
        assert path.with_suffix(".png").stat().st_size > 5000
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert {path.stem for path in written.tables} == set(result_tables(findings))


def test_accuracy_by_model_is_drawn_when_asked(findings: Findings) -> None:
    extra = {d.name for d in drawings(findings, by_model=True)} - {d.name for d in drawings(findings)}
    assert extra == {f"accuracy-{length}-{model}" for length in (16384, 128000) for model in (0, 1)}


def test_an_unfinished_campaign_says_so_and_shows_what_is_missing(tmp_path: Path) -> None:
    findings = analyse(synthetic_campaign(**SMALL, recorded_share=0.6), QUICK)
    assert "Unfinished campaign (state: running)" in render_page(findings, {})
    completeness = next(d for d in drawings(findings) if d.name == "completeness")
    assert render(completeness, tmp_path) is not None


@pytest.mark.parametrize("share", [0.0, 0.012])
def test_a_campaign_that_has_just_begun_still_reports(share: float, tmp_path: Path) -> None:
    findings = analyse(synthetic_campaign(**SMALL, recorded_share=share), QUICK)
    text = write_report(findings, tmp_path).html.read_text()
    assert "nothing can be compared" in text


def test_comparisons_without_a_known_compression_are_not_called_absent() -> None:
    frames = synthetic_campaign(**SMALL)
    cells = frames.cells.assign(compression=frames.cells["compression"].where(frames.cells["method"] == "dense"))
    findings = analyse(replace(frames, cells=cells), QUICK)
    assert len(findings.comparisons) == 2 * 2 * 3 * 2 * 3
    sentence, *others = headline(findings)
    assert sentence.startswith("72 of 72 comparisons with dense say nothing of admissible compression")
    assert not any("nothing can be compared" in other for other in others)


def test_headlines_hold_the_tables_figures(findings: Findings) -> None:
    sentences = headline(findings)
    means = findings.admissible.groupby("method")["admissible"].mean()
    named = sentences[0].split(" tolerates most: ")[0]
    # Two methods may tie; either may be named.
    assert means[named] == pytest.approx(means.max())
    assert sentences[0].startswith(f"{named} tolerates most: {means.max():.1f}×")
    assert any("dense models are matched or beaten" in s for s in sentences)
    assert len(findings.tasks) == 3


def test_figure_text_is_never_a_formula_or_too_long() -> None:
    assert plain("a$b$ \x1b" + "x" * 80).startswith(r"a\$b\$  x")
    assert len(plain("x" * 80)) == 40
    assert short_model("Qwen/Qwen2.5-7B-Instruct") == "Qwen2.5-7B"
    assert [tokens(n) for n in (512, 16384, 128000, 131072, 1500)] == ["512", "16k", "128k", "128k", "1.5k"]
    assert [plain_number(v) for v in (0.05, 20, 3e17, 2e-5)] == ["0.05", "20", "3e17", "2e-5"]


def test_tables_escape_and_count_what_they_leave_out() -> None:
    import pandas as pd

    html = table(pd.DataFrame({"<a>": ["<b>"] * 3, "n": [1.0, float("nan"), 2e7]}), limit=2)
    assert "&lt;a&gt;" in html
    assert "&lt;b&gt;" in html
    assert "1 more rows" in html
    assert "–" in html


def test_inline_figures_keep_their_references() -> None:
    svg = (
        '<?xml version="1.0"?><svg><metadata>m</metadata><path id="p"/><use xlink:href="#p" clip-path="url(#p)"/></svg>'
    )
    html = inline_figure(svg, "fig", 'a "caption"')
    assert 'id="fig-p"' in html
    assert 'xlink:href="#fig-p" clip-path="url(#fig-p)"' in html
    assert "<?xml" not in html
    assert "metadata" not in html
    assert "a &quot;caption&quot;" in html


def test_a_figure_of_one_length_leaves_out_the_tasks_that_were_not_run_there(findings: Findings) -> None:
    here = findings.comparisons["task"] == "qa_squad"
    figure = quality.loss_heat_map(findings.comparisons[here], 16384, sorted(TASKS), ["quest"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["qa_squad"]
    scores = findings.scores[findings.scores["task"] == "qa_squad"]
    figure = quality.accuracy_by_task(scores, 16384, sorted(TASKS), ["quest"], None)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["qa_squad"]
    assert shown[0].get_xlabel()


def test_speed_joins_compressions_that_differ_by_rounding_alone() -> None:
    rows = [(5.0, 1.0), (5.02, 2.0), (5.1, 3.0), (10.0, 4.0), (10.3, 6.0)]
    table = pd.DataFrame(rows, columns=["compression", "ttft_speedup"]).assign(method="quest", decode_speedup=1.0)
    line = operations.measured_speed(table, ["quest"]).axes[0].lines[0]
    assert list(line.get_xdata()) == pytest.approx([5.02, 10.15])
    assert list(line.get_ydata()) == [2.0, 5.0]


def test_a_frontier_of_nearly_equal_scores_keeps_a_readable_scale() -> None:
    row = {"length_tokens": 8192, "model": "m", "num_parameters_b": 1.0, "method": "dense", "on_front": True}
    table = pd.DataFrame([row | {"cost": 1.0, "mean": 0.98}, row | {"cost": 2.0, "mean": 0.985}])
    low, high = cost.frontier_figure(table, "cost").axes[0].get_ylim()
    assert high - low == pytest.approx(cost.LEAST_SCORE_SPAN)
    assert low < 0.98 < 0.985 < high
