"""One self-contained HTML page over all runs of a folder: opens by double click, needs no network.

plotly.js and DataTables stand in it once, taken from the installed packages plotly and itables. Every text from a run is escaped twice
over: as HTML where it stands in the page, and as Plotly's own markup where it stands in a figure; figures travel as JSON without a `<`.
"""

import html
import importlib.resources
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from curvexp import __version__
from curvexp.quantities import QUANTITIES, plain
from curvexp.report import charts, findings, frames
from curvexp.report.formats import KINDS, number, rate
from curvexp.report.frames import SETTING
from curvexp.report.tables import COUNTS, aggregate
from curvexp.store import Runs, load_block_densities, load_blocks, load_densities, load_planes, replaced

MOST_CLOSE = 12  # runs that are shown closely, one a setting
MOST_ROWS = 2000  # runs in the table of runs
MOST_LISTED = 500  # runs without an end that are listed, of a kind
LONGEST = 300  # characters of a reason

SIGNS = {  # of the tables, beside the symbols of quantities
    "setting": "problem, preprocessing of the inputs, and optimizer. Runs of one setting differ in the random seed, and in what is named as different",
    "median [low, high]": "over the runs of a setting, with its 95 % bootstrap interval",
    "(n/m)": "n of m runs reached the target",
    "≥": "a lower bound: only a part of the spectrum was measured",
    "⁺": "some eigenvalue is zero to rounding; the number is taken over the positive ones",
    "ggn, fisher": "beside a number: of the generalized Gauss-Newton matrix or the Fisher information, in place of the Hessian. Of runs that "
    "measured different operators no median is taken",
    "?": "unchecked: in one of the runs a larger eigenvalue may have been missed, with a probability above 0.001",
}


def write_page(found: Runs, folder: str | Path, target: str | Path, *, by: Sequence[str] = SETTING) -> Path:
    """The page over these runs of `folder`, written to `target`, replaced as a whole.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(target)
    text = page(found, folder, by=by)
    with replaced(target) as beside:
        beside.write_text(text, encoding="utf-8")
    return target


def page(found: Runs, folder: str | Path, *, by: Sequence[str] = SETTING) -> str:
    """The HTML of the page over `found`; densities, planes and studies are read from `folder`."""
    with np.errstate(all="ignore"):  # whatever numbers a folder holds
        return _Page(found, folder, by).html()


class _Page:
    """The page while it is put together: figures are numbered as they come."""

    def __init__(self, found: Runs, folder: str | Path, by: Sequence[str]) -> None:
        self.found, self.folder, self.by = found, folder, list(by)
        self.figures: list[str] = []
        self.missing: dict[str, None] = {}
        self.runs = found.runs.assign(setting=frames.labels(found.runs, by))
        self.readable = self.runs[self.runs["status"] != "unreadable"]
        self.looks = charts.looks(self.readable["setting"])
        self.metrics = frames.joined(found.metrics, found.runs, by)
        self.spectra = frames.joined(found.spectra, found.runs, by)
        names = set(self.runs["run"])
        found_in = (load(folder) for load in (load_densities, load_blocks, load_block_densities))
        self.densities, self.blocks, self.block_densities = (part[part["run"].isin(names)] for part in found_in)
        problems = self.runs.drop_duplicates("run").set_index("run")["problem"]
        self.planes = [
            {**plane, "problem": str(problems[plane["run"]])} for plane in load_planes(folder) if plane["run"] in names
        ]

    def html(self) -> str:
        title = f"curvexp: {os.path.basename(os.path.abspath(self.folder))}"
        sections = [
            ("run", "What was run", self._what()),
            ("findings", "What was found", self._findings()),
            ("settings", "All settings", self._aggregate()),
            *self._problems(),
            ("across", "Across all runs", self._across()),
            *self._studies(),
            ("runs", "All runs", self._runs()),
            ("exceptions", "Runs that did not complete", self._exceptions()),
        ]
        if self.runs.empty:
            sections = self._studies()
        sections = [(key, heading, body) for key, heading, body in sections if body]
        links = "".join(f'<a href="#{key}">{_e(heading)}</a>' for key, heading, _ in sections)
        bodies = "".join(
            f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{_e(heading)}</h2>{body}</section>'
            for key, heading, body in sections
        )
        return "".join(
            (
                '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
                "style-src 'unsafe-inline'; img-src data: blob:; font-src data:\">",
                f'<link rel="icon" href="data:,"><title>{_e(title)}</title><style>{_datatables("css")}</style><style>{_asset("page.css")}</style></head>',
                f'<body><a class="skip" href="#main">Skip to the content</a><header><h1>{_e(title)}</h1><p>{_e(os.path.abspath(self.folder))}</p>',
                f'<nav aria-label="Sections">{links}</nav></header><main id="main">{bodies}</main>',
                f"<footer><p>Made by curvexp {_e(__version__)}. Every chart is also a function, <code>curvexp.report.charts.NAME(frame)</code>.</p></footer>",
                f'<script type="application/json" id="figures">[{",".join(self.figures)}]</script>',
                f"<script>{_plotly()}</script>",
                f'<script type="module">{_datatables("js")}</script>',
                f'<script type="module">{_asset("page.js")}</script></body></html>',
            )
        )

    # ---- sections ---------------------------------------------------------------------------------------------------------------

    def _what(self) -> str:
        rows = self.readable
        counts = self.runs["status"].value_counts()
        texts = {"completed": "completed", **KINDS}
        ended = ", ".join(f"{counts[status]} {text}" for status, text in texts.items() if status in counts)
        parts = [f"<p><strong>{len(self.runs)} runs</strong>: {_e(ended)}.</p>"]
        for name, text in (
            ("problem", "problems"),
            ("preprocess", "preprocessings"),
            ("optim", "optimizers"),
            ("seed", "seeds"),
        ):
            values = [_short(value) for value in dict.fromkeys(rows[name].dropna())]
            shown = ", ".join(values[:12]) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
            parts.append(f"<dt>{text}</dt><dd>{_e(shown) or '–'}</dd>")
        if extra := frames.varying(self.runs, self.by):
            shown = ", ".join(extra[:8]) + (f" and {len(extra) - 8} more" if len(extra) > 8 else "")
            parts.append(f"<dt>runs of one setting differ in</dt><dd>{_e(shown)}, and the seed</dd>")
        own = {
            _short(column.removeprefix("quantities.")): str(next(iter(rows[column].dropna()), ""))
            for column in map(str, rows)
            if column.startswith("quantities.")
        }
        terms = {quantity.label: quantity.meaning for quantity in QUANTITIES if quantity.overview} | SIGNS | own
        glossary = "".join(f"<dt>{_e(term)}</dt><dd>{_e(plain(text))}</dd>" for term, text in terms.items())
        return f'{parts[0]}<dl class="facts">{"".join(parts[1:])}</dl><details><summary>What the words mean</summary><dl>{glossary}</dl></details>'

    def _findings(self) -> str:
        found = findings.sentences(self.readable)
        if not found:
            return "<p>One setting a problem: there is nothing to compare.</p>"
        shown = "".join(f"<li>{_e(_cut(text))}</li>" for text in found[:30])
        more = f"<p>{len(found) - 30} further comparisons are left out.</p>" if len(found) > 30 else ""
        return f'<ul class="findings">{shown}</ul>{more}<p class="note">Medians over pairs of runs that agree in all else, with 95 % bootstrap intervals over the pairs.</p>'

    def _aggregate(self) -> str:
        table = aggregate(self.found.runs, self.by)
        head = [
            *self.by,
            "runs",
            "κ start",
            "κ end",
            "λmax start",
            "λmax end",
            "sharpness / threshold",
            "steps to target",
            "loss",
            "rate",
            "theory",
        ]
        body = []
        for row in table.to_dict("records"):
            cells: list[tuple[str, Any]] = [(_short(row[name]), None) for name in self.by]
            ended = row["completed"] + row["diverged"]
            others = ", ".join(f"{row[name]} {name}" for name in COUNTS[1:] if row[name])
            cells.append((f"{row['runs']}" + (f" ({others})" if others else ""), row["runs"]))
            star = "" if row["operator"] == "hessian" else f" {_short(row['operator'])}"
            for suffix in ("_start", ""):
                value, positive = row[f"condition_number{suffix}"], row[f"condition_number_positive{suffix}"]
                text = number(value)
                if row[f"condition_number{suffix}_is_bound"]:
                    text = f"≥ {text}"
                elif np.isinf(value) and not np.isnan(positive):
                    text = f"∞ ({number(positive)}⁺)"
                cells.append((text + (star if text != "–" else ""), value))
            marks = {"lambda_max_start": "lambda_max_start", "lambda_max": "lambda_max", "sharpness_ratio": "sharpness"}
            for name, mark in marks.items():
                text = number(row[name]) + "?" * (row[f"{mark}_unchecked"] and not np.isnan(row[name]))
                cells.append((text + (star if mark != "sharpness" and text != "–" else ""), row[name]))
            steps, low, high = (row[f"steps_to_target{suffix}"] for suffix in ("", "_low", "_high"))
            text = "–" if np.isnan(steps) else f"{steps:.0f}" if np.isfinite(steps) else "not reached"
            text += f" [{low:.0f}, {high:.0f}]" if np.isfinite(low) and np.isfinite(high) and low < high else ""
            text += f" ({row['reached']}/{ended})" if row["reached"] < ended and not np.isnan(steps) else ""
            cells += [
                (text, steps),
                (number(row["loss"]), row["loss"]),
                (rate(row["rate"]), row["rate"]),
                (rate(row["rate_theory"]), row["rate_theory"]),
            ]
            body.append(cells)
        caption = "One row a setting; medians over its runs. The words are explained above."
        return _table("aggregate", caption, head, body, texts=len(self.by))

    def _problems(self) -> list[tuple[str, str, str]]:
        found = []
        close = self._close()
        problems = (
            list(dict.fromkeys(self.readable["problem"].fillna("?"))) if "problem" in self.by else ["all problems"]
        )
        for index, problem in enumerate(problems):
            chosen = (
                self.readable[self.readable["problem"].fillna("?") == problem]
                if "problem" in self.by
                else self.readable
            )
            metrics = self.metrics[self.metrics["run"].isin(set(chosen["run"]))]
            self.missing = {}
            body = self._figure(charts.loss(metrics, looks=self.looks), "Loss against step", "one line a setting")
            body += self._figure(
                charts.sharpness(metrics, looks=self.looks), "Sharpness against its threshold", "one line a setting"
            )
            body += self._runs_closely(index, chosen, close)
            found.append((f"problem-{index}", str(_cut(problem, 60)), body + self._gone()))
        return found

    def _close(self) -> list[str]:
        """The runs that are shown closely: the first of each setting that completed, or diverged, or has records; spread over the problems."""
        rows = self.readable[self.readable["records"] > 0]
        order = rows["status"].map({"completed": 0, "diverged": 1}).fillna(2)
        first = (
            rows.assign(_order=order)
            .sort_values("_order", kind="stable")
            .drop_duplicates(["problem", "setting"])
            .sort_index()
        )
        turn = first.groupby("problem", dropna=False).cumcount()
        return first.assign(_turn=turn).sort_values("_turn", kind="stable").head(MOST_CLOSE)["run"].tolist()

    def _runs_closely(self, index: int, chosen: pd.DataFrame, close: list[str]) -> str:
        rows = chosen[chosen["run"].isin(close)]
        settings = chosen["setting"].nunique()
        if rows.empty:
            return f'<p class="note">None of the {settings} settings of this problem is shown closely: the page shows {MOST_CLOSE} runs so.</p>'
        options, panels = [], []
        before = self.missing
        for position, row in enumerate(rows.to_dict("records")):
            self.missing = {}
            shown = f"{_short(row['setting'])}, run {_short(row['run'])}" + (
                "" if row["status"] == "completed" else f" ({row['status']})"
            )
            options.append(f'<option value="panel-{index}-{position}">{_e(shown)}</option>')
            hidden = " hidden" if position else ""
            panels.append(
                f'<div class="panel" id="panel-{index}-{position}"{hidden}>{self._one_run(row)}{self._gone()}</div>'
            )
        self.missing = before
        said = (
            f"One run a setting, {len(rows)} of {settings} settings." if len(rows) < settings else "One run a setting."
        )
        return (
            f'<h3 id="close-{index}">One run closely</h3><p><label for="choose-{index}">Setting and run: </label>'
            f'<select id="choose-{index}" data-panels="{index}">{"".join(options)}</select> <span class="note">{said}</span></p>{"".join(panels)}'
        )

    def _one_run(self, row: Mapping[Any, Any]) -> str:
        run = row["run"]
        spectra = self.spectra[self.spectra["run"] == run]
        metrics = self.metrics[self.metrics["run"] == run]
        densities, blocks, block_densities = (
            part[part["run"] == run] for part in (self.densities, self.blocks, self.block_densities)
        )
        only = Runs(
            self.found.runs[self.found.runs["run"] == run],
            self.found.metrics[self.found.metrics["run"] == run],
            self.found.spectra[self.found.spectra["run"] == run],
        )
        body = ""
        for plane in (plane for plane in self.planes if plane["run"] == run):
            if plane["name"] == "parameters":
                body += self._figure(
                    charts.contour(plane),
                    "Way of the run over the loss",
                    "contours, and the Hessian's eigenvectors at the end",
                    level=4,
                )
                body += self._figure(charts.surface(plane), "The surface itself", "drag to turn it", level=4)
            else:
                which = "the two leading eigenvectors" if plane["name"] == "eigenvectors" else "two random directions"
                body += self._figure(
                    charts.landscape(plane), f"Loss around the final point along {which}", "contours", level=4
                )
        figures = (
            (charts.eigenvalues(spectra), "All tracked eigenvalues", "against step"),
            (
                charts.spectrum(spectra, densities),
                "Spectrum at the start, middle and end",
                "a rug of eigenvalues, and the density where it was measured",
            ),
            (charts.density(densities), "Spectral density against step", "a heatmap"),
            (
                charts.blocks(blocks, block_densities),
                "Top eigenvalue by block",
                "one line a block, and the densities where they were measured",
            ),
            (charts.gradient_overlap(spectra), "Gradient along the leading eigenvectors", "share of its energy"),
            (
                charts.eigencomponents(charts.components(only)),
                "Decay of the components along the eigenvectors",
                "measured, and theory dashed",
            ),
            (charts.taylor(metrics), "Predicted against actual change of the loss", "one point a reading"),
        )
        return body + "".join(self._figure(figure, heading, about, level=4) for figure, heading, about in figures)

    def _across(self) -> str:
        self.missing = {}
        body = self._figure(
            charts.condition_steps(self.readable, looks=self.looks),
            "Condition number against steps to the target",
            "one point a run, both axes logarithmic",
        )
        body += self._figure(
            charts.rate(self.readable, looks=self.looks), "Convergence rate, measured against theory", "one point a run"
        )
        planes = [plane for plane in self.planes if plane["name"] == "parameters"]
        if len({plane["problem"] for plane in planes}) > 1:
            body += self._figure(
                charts.forms(planes),
                "The forms of curvature side by side",
                "contours of the loss with the way of a run",
            )
        return body + self._gone()

    def _studies(self) -> list[tuple[str, str, str]]:
        found, refused = findings.studies(self.folder)
        sections = []
        for index, study in enumerate(found):
            self.missing = {}
            rows = study["claims"]
            body = [_claim(place, row) for place, row in enumerate(rows.to_dict("records"), 1)]
            figure = self._figure(
                charts.verdicts(rows), "Theory and measurement in one picture", "measured over predicted"
            )
            head = ["claim", "verdict", "theory", "measured", "95 % interval", "allowed", "compared"]
            table = _table(
                f"claims-{index}", "One row a claim; of many values the one furthest from theory.", head, body, texts=2
            )
            listed = "".join(f"<li>{_e(_cut(text))}</li>" for text in dict.fromkeys(rows["tolerance"]))
            reasons = f"<details><summary>Why so much is allowed</summary><ul>{listed}</ul></details>"
            sections.append(
                (
                    f"study-{index}",
                    _cut(f"Study {study['study']}: {study['verdict']}", 80),
                    f"<p>{_e(_cut(study['statement'], 2000))} <small>({_e(_cut(study['source']))})</small></p>{table}{reasons}{figure}{self._gone()}",
                )
            )
        if refused:
            listed = "".join(f"<li>{_e(name)}: {_e(_cut(reason))}</li>" for name, reason in refused)
            sections.append(("studies-refused", "Studies that cannot be read", f"<ul>{listed}</ul>"))
        return sections

    def _runs(self) -> str:
        shown = [q.name for q in QUANTITIES if q.overview]
        columns = [c for c in ("run", *SETTING, "seed", "status", "steps", *shown) if c in self.runs]
        rows = self.runs.head(MOST_ROWS)
        body = [[_cell(value) for value in row] for row in rows[columns].itertuples(index=False, name=None)]
        caption = "One row a run." + (
            f" The first {MOST_ROWS} of {len(self.runs)}." if len(self.runs) > MOST_ROWS else ""
        )
        return _table("all-runs", caption, columns, body, texts=4)

    def _exceptions(self) -> str:
        parts = []
        for status, text in KINDS.items():
            rows = self.runs[self.runs["status"] == status]
            if rows.empty:
                continue
            items = []
            for row in rows.head(MOST_LISTED).to_dict("records"):
                about = " ".join(_short(row[name]) for name in SETTING if isinstance(row[name], str))
                seed = f" seed {row['seed']:.0f}" if pd.notna(row["seed"]) else ""
                reason = row["reason"] if isinstance(row["reason"], str) else "no reason was recorded"
                items.append(
                    f"<li><strong>{_e(_short(row['run']))}</strong> {_e(about + seed)}: {_e(_cut(' '.join(reason.split())))}</li>"
                )
            more = f"<p>and {len(rows) - MOST_LISTED} more</p>" if len(rows) > MOST_LISTED else ""
            parts.append(f"<h3>{_e(text)} ({len(rows)})</h3><ul>{''.join(items)}</ul>{more}")
        return "".join(parts) or "<p>Every run completed, and every folder could be read.</p>"

    # ---- figures ----------------------------------------------------------------------------------------------------------------

    def _figure(self, drawn: go.Figure, heading: str, about: str, *, level: int = 3) -> str:
        """A figure with its heading, caption and alternative text; one without marks is told in a sentence instead, see `_gone`."""
        meta = drawn.layout.meta or {}
        if meta.get("empty"):
            self.missing[f"{heading}: {meta['empty']}"] = None
            return ""
        number_ = len(self.figures)
        drawn.layout.title.text = None
        drawn.layout.margin.t = max(16, 30 if drawn.layout.annotations else 16)
        drawn.layout.template = None  # 7 kB a figure, and a white background
        self.figures.append(_packed(drawn))
        height = drawn.layout.height or 420
        traces = [trace.name for trace in drawn.data if trace.showlegend is not False and trace.name]
        alt = f"{heading}: {about}." + (
            f" Shows {', '.join(dict.fromkeys(html.unescape(str(t)) for t in traces[:8]))}." if traces else ""
        )
        notes = " ".join(html.escape(html.unescape(text), quote=True) for text in meta.get("notes", []) if text)
        return (
            f'<figure><h{level}>{_e(heading)}</h{level}><div class="chart" data-figure="{number_}" role="img" aria-label="{_e(alt)}" style="min-height:{height}px"></div>'
            f'<figcaption>{notes} <button type="button" data-svg="{number_}" aria-label="Save as SVG: {_e(heading)}">SVG</button></figcaption></figure>'
        )

    def _gone(self) -> str:
        """What has no figure here, and why."""
        if not self.missing:
            return ""
        listed = "".join(f"<li>{_e(text)}</li>" for text in self.missing)
        return f'<div class="note"><p>Without a figure here:</p><ul>{listed}</ul></div>'


# ---- pieces ---------------------------------------------------------------------------------------------------------------------


def _table(
    key: str, caption: str, head: Iterable[str], body: Iterable[Sequence[tuple[str, Any]]], *, texts: int
) -> str:
    """A table with a row header; a number carries what it sorts by."""
    columns = "".join(f'<th scope="col">{_e(str(name))}</th>' for name in head)
    rows = []
    for cells in body:
        row = []
        for index, (text, order) in enumerate(cells):
            tag, kind = ("th", ' scope="row"') if index == 0 else ("td", ' class="number"' if index >= texts else "")
            sort = "" if order is None else f' data-order="{_order(order)}"'
            row.append(f"<{tag}{kind}{sort}>{_e(text)}</{tag}>")
        rows.append(f"<tr>{''.join(row)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_e(caption)}"><table id="{key}" class="sortable display compact"><caption>{_e(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _order(value: Any) -> str:
    if not isinstance(value, int | float) or np.isnan(value):
        return "-1e308"
    return "1e307" if value == np.inf else "-1e307" if value == -np.inf else repr(float(value))


def _cell(value: Any) -> tuple[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return ("–", None) if value is None or value is pd.NA else (_short(value), None)
    plain = float(value)
    return (f"{plain:.0f}" if plain.is_integer() and abs(plain) < 1e6 else number(plain, 4)), plain


def _claim(place: int, row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The cells of a study's claim."""
    relation = "" if row["relation"] == "=" else f"{_short(row['relation'])} "
    theory, measured, allowed = (
        "–" if np.isnan(row[key]) else number(row[key], 5) for key in ("prediction", "measurement", "allowed")
    )
    between = "" if np.isnan(row["low"]) else f"[{number(row['low'], 4)}, {number(row['high'], 4)}]"
    return [
        (f"{place}. {_cut(row['statement'])}", None),
        (_short(row["verdict"]), None),
        (relation + theory, row["prediction"]),
        (measured, row["measurement"]),
        (between, row["low"]),
        ("" if allowed == "–" else f"± {allowed}", row["allowed"]),
        _cell(row["values"]),
    ]


def _packed(drawn: go.Figure) -> str:
    """A figure as JSON that cannot end a script element."""
    return (
        str(drawn.to_json())
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _e(text: object) -> str:
    """Escaped for HTML; control characters shown as such."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))
    return html.escape(shown, quote=True)


def _short(value: object) -> str:
    if isinstance(value, float):
        return "?" if np.isnan(value) else f"{value:.6g}"
    return _cut("?" if value is None else value, 60)


def _cut(text: object, longest: int = LONGEST) -> str:
    shown = str(text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _asset(name: str) -> str:
    return importlib.resources.files("curvexp.report").joinpath("assets", name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _datatables(kind: str) -> str:
    """DataTables from the bundle in the package itables; its default export put on window."""
    text = importlib.resources.files("itables").joinpath("html", f"dt_bundle.{kind}").read_text(encoding="utf-8")
    if kind == "css":
        return text.replace("</style", "<\\/style")
    exported = re.search(r"export\s*\{[^}]*?([\w$]+) as default[^}]*\};?", text)
    if exported is None:
        raise RuntimeError("itables: dt_bundle.js has no default export; expected one, as in itables 2.9")
    text = text[: exported.start()] + f"window.DataTable={exported.group(1)};" + text[exported.end() :]
    return text.replace("</script", "<\\/script")
