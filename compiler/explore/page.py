"""The trade-off as one HTML page that needs neither network nor script."""

from __future__ import annotations

from html import escape

from ..planning.plan import PlannedAction
from ..reports.chart import chart_svg
from ..reports.rewrites import loss_text
from ..reports.table import bytes_change, count_change, fidelity_value, shown_share
from ..units import format_bytes, format_count, printable
from .charts import charts_of
from .report import (
    Exploration,
    ExploredOutput,
    ExploredPoint,
    accuracy_text,
    anchor,
    legend,
    measured_text,
    percent,
)


def explore_page(found: Exploration) -> str:
    """One page of the charts, and a table whose rows open to each point's actions and command.

    Every name in it comes from files that others made: all text is escaped.
    """
    title = _text(found.title)
    charts = "".join(f"<figure>{chart_svg(chart)}</figure>" for chart in charts_of(found))
    lines = "".join(f"<p>{_text(line)}.</p>" for line in legend(found))
    notes = "".join(f"<li>{_text(note)}</li>" for note in found.notes)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; "
        "style-src 'unsafe-inline'\">\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        '<meta name=color-scheme content="light dark">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f"<p>The models apart have {_text(format_bytes(found.weights_apart_nbytes))} of weights "
        f"and take {_text(format_count(found.macs_apart))} multiply-accumulates a frame.</p>\n"
        f"<div class=charts>{charts}</div>\n{_table(found)}\n{lines}\n"
        f"{f'<h2>Notes</h2><ul>{notes}</ul>' if notes else ''}\n</body></html>\n"
    )


def _table(found: Exploration) -> str:
    judged = bool(found.points[0].accuracy)
    headings = ["", "weights", "%", "MACs", "%", "predicted", "measured"]
    headings += ["accuracy"] if judged else []
    head = "".join(f"<th scope=col class=figure>{_text(one)}</th>" for one in headings)
    rows = "\n".join(_row(found, point, judged) for point in found.points)
    return (
        f"<table><thead><tr>{head}<th scope=col>plan</th></tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table>"
    )


def _row(found: Exploration, point: ExploredPoint, judged: bool) -> str:
    cells = [
        format_bytes(point.weights_nbytes),
        percent(found.weights_share(point)),
        format_count(point.macs),
        percent(found.macs_share(point)),
        shown_share(point.predicted),
        measured_text(point),
        *([accuracy_text(found, point)] if judged else []),
    ]
    figures = "".join(f"<td class=figure>{_text(cell)}</td>" for cell in cells)
    return (
        f'<tr id="{_text(anchor(point))}"><th scope=row class=figure>{point.number}</th>{figures}'
        f"<td>{_details(found, point)}</td></tr>"
    )


def _details(found: Exploration, point: ExploredPoint) -> str:
    """The point's actions, what they did to each output, and how to compile them."""
    actions = "".join(
        f"<li>{_text(str(one.action))}: {_text(_saved(one))}</li>" for one in point.plan.actions
    )
    outputs = "".join(f"<li>{_text(_output(output))}</li>" for output in point.outputs)
    before = found.points[0]
    change = (
        f"<p>weights {_text(bytes_change(before.weights_nbytes, point.weights_nbytes))}, MACs "
        f"{_text(count_change(before.macs, point.macs))} beside what is exact</p>"
        if point is not before
        else ""
    )
    command = f"<pre>{_text(point.command)}</pre>" if point.command else ""
    return (
        f"<details><summary>{_text(point.summary)}</summary>{change}"
        f"{f'<ol>{actions}</ol>' if actions else ''}<ul>{outputs}</ul>{command}</details>"
    )


def _saved(planned: PlannedAction) -> str:
    """What an action saves by itself, and what it is predicted to lose."""
    nbytes, macs = planned.weights_saved_nbytes, planned.macs_saved
    parts = [f"{format_bytes(nbytes)} of weights"] if nbytes > 0 else []
    parts += [f"{format_count(macs)} MACs"] if macs > 0 else []
    saved = f"{' and '.join(parts)} less alone" if parts else "nothing less alone"
    if planned.predicted is None:
        return saved
    return f"{saved}, predicted to lose {loss_text(planned.predicted)}"


def _output(output: ExploredOutput) -> str:
    parts = [f"predicted to lose {output.predicted_loss:.4f} of its variance"]
    if output.fidelity is not None:
        bound = output.fidelity.lower
        proved = "" if bound is None else f", at least {shown_share(bound)}"
        parts.append(f"measured {fidelity_value(output.fidelity)}{proved}")
    if output.accuracy is not None:
        parts.append(f"accuracy {100 * output.accuracy:.2f} %")
    return f"{output.name}: {'; '.join(parts)}"


def _text(text: str) -> str:
    return escape(printable(text))


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --line: #d2d2d2;
  --level: #be1e1e; --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #56b4e9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181c; --line: #3c4048; --level: #ff7a70; --s0: #5ab0e8;
    --s1: #f0934e; --s2: #3cc8a0; --s3: #e0a3c6; --s4: #9ad4f5; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em auto; max-width: 96em; padding: 0 1em;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.4em; overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1em; }
figure { margin: 0; flex: 1 1 30em; max-width: 50em; }
svg { width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--ink); }
svg text.title { font-size: 14px; font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; }
.level { stroke: var(--level); stroke-width: 1.2; stroke-dasharray: 6 6; }
svg text.level { fill: var(--level); stroke: none; }
polyline { fill: none; stroke: currentColor; stroke-width: 2; }
circle { fill: currentColor; stroke: currentColor; stroke-width: 1.5; }
.predicted polyline { stroke-dasharray: 6 6; }
.predicted circle { fill: var(--paper); }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); }
.s0 > text, .s1 > text, .s2 > text, .s3 > text, .s4 > text { fill: currentColor; }
table { border-collapse: collapse; width: 100%; margin-top: 1em; }
th, td { padding: .3em .7em; border-bottom: 1px solid var(--line); vertical-align: top;
  text-align: left; overflow-wrap: anywhere; }
.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr:target { outline: 2px solid var(--s0); }
summary { cursor: pointer; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000000; --paper: #ffffff; --line: #bbbbbb; --level: #be1e1e; --s0: #0072b2;
    --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #56b4e9; }
  body { margin: 0; max-width: none; font-size: 11px; }
  figure { max-width: 48%; }
  tr, figure { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
