"""HTML by hand: a page without scripts, network or fonts of its own. Every text is escaped here, once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

CSS = """
:root { --ink:#1d2330; --soft:#5a6475; --line:#d9dee7; --back:#f6f7f9; --accent:#0072b2; --warn:#8a3b00; }
* { box-sizing:border-box; }
body { margin:0; color:var(--ink); background:var(--back);
  font:15px/1.5 "DejaVu Sans",Verdana,Arial,sans-serif; }
header { background:#fff; border-bottom:1px solid var(--line); padding:1.6rem 2rem 1.1rem; }
h1 { margin:0 0 .2rem; font-size:1.7rem; } h2 { margin:0 0 .4rem; font-size:1.25rem; } h3 { font-size:1rem;
  margin:1.2rem 0 .3rem; }
h1,li,pre { overflow-wrap:anywhere; }
header p { margin:.2rem 0; color:var(--soft); }
nav { position:sticky; top:0; z-index:5; background:#fff; display:flex; flex-wrap:wrap;
  border-bottom:1px solid var(--line); padding:.5rem 2rem; font-size:.85rem; }
nav a { color:var(--accent); text-decoration:none; margin-right:1.1rem; white-space:nowrap; }
main { max-width:1280px; margin:0 auto; padding:1.2rem 2rem 4rem; }
section { background:#fff; border:1px solid var(--line); border-radius:8px; padding:1.2rem 1.4rem;
  margin:1.1rem 0; scroll-margin-top:3rem; }
.lead { color:var(--soft); max-width:62rem; margin:.1rem 0 .8rem; }
.banner { border-left:6px solid var(--warn); background:#fff4e5; padding:.8rem 1.2rem; border-radius:6px;
  margin:1.1rem 0; }
.banner.done { border-color:#006b4f; background:#eaf6f1; }
.tiles { display:flex; flex-wrap:wrap; gap:.8rem; margin:1.1rem 0 0; }
.tile { background:#fff; border:1px solid var(--line); border-radius:8px; padding:.6rem 1rem; min-width:8.5rem;
  }
.tile b { display:block; font-size:1.35rem; } .tile span { color:var(--soft); font-size:.8rem; }
figure { margin:.6rem 0 0; } figure svg { max-width:100%; height:auto; display:block; } figcaption {
  color:var(--soft); font-size:.85rem; margin-top:.3rem; }
.scroll { overflow-x:auto; } table { border-collapse:collapse; font-size:.82rem; margin:.4rem 0; }
th,td { padding:.22rem .6rem; border-bottom:1px solid var(--line); text-align:left; vertical-align:top; }
th { background:var(--back); position:sticky; top:0; } td.n,th.n { text-align:right;
  font-variant-numeric:tabular-nums; }
pre { white-space:pre-wrap; background:var(--back); border:1px solid var(--line); border-radius:6px;
  padding:.6rem; font-size:.8rem; max-height:14rem; overflow:auto; }
details { margin:.6rem 0; } summary { cursor:pointer; color:var(--accent); }
.tabs > input { position:absolute; opacity:0; } .tabs > label { display:inline-block; padding:.25rem .9rem;
  border:1px solid var(--line); border-radius:999px; margin:.2rem .3rem .2rem 0; cursor:pointer;
  font-size:.85rem; }
.tabs > input:checked + label { background:var(--accent); color:#fff; border-color:var(--accent); } .tabs >
  input:focus-visible + label { outline:2px solid var(--ink); }
.tabs > .panel { display:none; }
@media print { nav { display:none; } section { break-inside:avoid; } .tabs > .panel { display:block !important;
  } }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: `body` is HTML, `title` and `lead` are text."""

    anchor: str
    title: str
    lead: str
    body: str


def page(title: str, subtitle: Sequence[str], top: str, sections: Sequence[Section]) -> str:
    """The whole document; `top` is HTML above the sections."""
    links = "".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    lines = "".join(f"<p>{escape(line)}</p>" for line in subtitle)
    body = "".join(_section(s) for s in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{CSS}</style></head>'
        f"<body><header><h1>{escape(title)}</h1>{lines}</header><nav>{links}</nav>"
        f"<main>{top}{body}</main></body></html>\n"
    )


def _section(section: Section) -> str:
    lead = f'<p class="lead">{escape(section.lead)}</p>' if section.lead else ""
    return f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>{lead}{section.body}</section>'


def banner(text: str, *, done: bool) -> str:
    return f'<div class="banner{" done" if done else ""}" role="status">{escape(text)}</div>'


def tiles(values: Mapping[str, str]) -> str:
    """Numbers at a glance: label → value."""
    cells = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in values.items())
    return f'<div class="tiles">{cells}</div>'


def bullets(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in sentences) + "</ul>"


def table(frame: pd.DataFrame, *, digits: int = 3, limit: int = 400) -> str:
    """A frame as a table; numbers flush right, at most `limit` rows (the rest is said to be in the CSV files)."""
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    head = "".join(
        f"<th{_number_class(n)}>{escape(str(c).replace('_', ' '))}</th>"
        for c, n in zip(frame.columns, numeric, strict=True)
    )
    rows = []
    for values in frame.head(limit).itertuples(index=False):
        cells = (f"<td{_number_class(n)}>{escape(_text(v, digits))}</td>" for v, n in zip(values, numeric, strict=True))
        rows.append("<tr>" + "".join(cells) + "</tr>")
    more = f"<p>{len(frame) - limit} more rows are in the CSV file.</p>" if len(frame) > limit else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>{more}'


def _number_class(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _text(value: object, digits: int) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.3g}"
    return str(value)


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def quoted(text: str, limit: int = 2000) -> str:
    """Foreign text, such as a model's, shown as it is."""
    return f"<pre>{escape(text[:limit])}{'…' if len(text) > limit else ''}</pre>"


def tabs(group: str, panels: Mapping[str, str], *, opened: int | None = None) -> str:
    """Panels of which one is seen at a time (first `opened`, else the last), switched by radio buttons and CSS."""
    inputs, bodies, rules = [], [], []
    first = len(panels) - 1 if opened is None else opened
    for number, (label, body) in enumerate(panels.items()):
        key = f"{group}-{number}"
        checked = " checked" if number == first else ""
        inputs.append(
            f'<input type="radio" name="{group}" id="{key}"{checked}><label for="{key}">{escape(label)}</label>'
        )
        bodies.append(f'<div class="panel" id="{key}-panel">{body}</div>')
        rules.append(f"#{key}:checked ~ #{key}-panel {{ display:block; }}")
    return f'<style>{"".join(rules)}</style><div class="tabs">{"".join(inputs)}{"".join(bodies)}</div>'


def inline_figure(svg: str, name: str, caption: str) -> str:
    """An SVG document as a figure: declarations and metadata go, ids get the figure's name so that none collide."""
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'((?:xlink:)?href="#|url\(#)', lambda m: f"{m[1]}{name}-", drawing)
    label = f'<svg role="img" aria-label="{escape(caption, quote=True)}" '
    return f"<figure>{drawing.replace('<svg ', label, 1)}<figcaption>{escape(caption)}</figcaption></figure>"
