"""No text of a folder becomes markup: a hostile page has the elements of a harmless one, and shows the hostile text as letters."""

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest

from curvexp import report
from curvexp.app.studies.show import write as write_finding
from curvexp.record import Reading, Record
from curvexp.report.page import page
from curvexp.store import RunFolder, load_runs
from curvexp.study import Finding, equal

MARKUP = "<img src=x onerror=alert(1)>&\"'"
RUN = ("problem", "preprocess", "optim", "run", "reason", "operator", "quantity", "meaning", "key", "block")
GROUPED = ("failed", "column", "value")  # the name of a run that failed; a key by which the page groups, and its value
STUDY = ("study", "statement", "source", "verdict", "claim", "relation", "claim_verdict", "tolerance", "refused")


def hostile(field):
    return f"{field} {MARKUP}"


def harmless(field):
    return f"{field} of a page"


def write_folder(root, said):
    """A sweep of two completed runs and a failed one, a study, and a file that is no study's, in which each text is `said` of its field."""
    folder = root / said("folder")
    for name, status, key in ((said("run"), "completed", 1), ("second", "completed", 2), (said("failed"), "failed", 1)):
        run = RunFolder(folder / name)
        setting = {field: said(field) for field in ("problem", "preprocess", "optim")}
        run.start({said("column"): said("value"), said("key"): key}, {**setting, "seed": 0})
        for step in range(3):
            x = np.linspace(-1.0, 5.0, 30)
            block = {"eigenvalues": [4.0], "residuals": [1e-3], "size": 2}
            density = {"x": x, "density": np.exp(-(x**2)), "stderr": 0.1 * np.exp(-(x**2))}
            extra = {"operator": said("operator"), "density": density, "blocks": {said("block"): block}}
            reading = Reading(np.array([1.0, 4.0]), np.full(2, 1e-3), np.array([0.1, 0.2]), False, {}, extra)
            run.append(
                Record(step, {"loss": 2.0**-step, "sharpness": 4.0, "threshold": 20.0}, reading, None, seconds=0.1)
            )
        end = {"loss": 0.1, "steps": 3, "lambda_max": 4.0, "operator": said("operator")}
        run.finish(status=status, reason=said("reason"), quantities={said("quantity"): said("meaning")}, **end)
    claim = equal(said("claim"), 1.0, 1.01, absolute=0.1, because=said("tolerance"))._asdict()
    claim |= {"relation": said("relation"), "verdict": said("claim_verdict")}
    told = {field: said(field) for field in ("study", "statement", "source", "verdict")}
    write_finding(Finding(number=1, claims=[claim], seconds=0.1, options={}, **told), {}, folder / "good")
    (folder / said("refused")).mkdir()
    (folder / said("refused") / "finding.json").write_text(json.dumps({"claims": 1}))
    return folder


class Parsed(html.parser.HTMLParser):
    """The elements of a page with the names of their attributes, and its texts: those between tags, and those of attributes."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self.attributes = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, [name for name, _ in attrs]))
        self.attributes += [value for _, value in attrs]

    def handle_data(self, data):
        if self.elements[-1:] and self.elements[-1][0] not in ("script", "style"):
            self.texts.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of the harmless folder and of the hostile one."""
    sources = []
    for said in (harmless, hostile):
        folder = write_folder(tmp_path_factory.mktemp("markup"), said)
        sources.append(page(load_runs(folder), folder, by=["problem", "preprocess", "optim", said("column")]))
    return sources


@pytest.fixture(scope="module")
def parsed(pages):
    return [Parsed(source) for source in pages]


def test_a_hostile_page_has_the_elements_of_a_harmless_one(parsed):
    plain, found = parsed
    assert found.elements == plain.elements
    assert not [tag for tag, _ in found.elements if tag == "img"]
    assert not [name for _, names in found.elements for name in names if name.startswith("on")]


@pytest.mark.parametrize("field", sorted({"folder", *RUN, *GROUPED, *STUDY} - {"block"}))
def test_a_hostile_text_is_shown_as_its_letters(parsed, field):
    for said, found in zip((harmless, hostile), parsed, strict=True):
        assert any(said(field) in text for text in found.texts), field


@pytest.mark.parametrize("field", ["block", "claim_verdict"])
def test_a_figure_names_its_lines_in_its_alternative_text(parsed, field):
    found = parsed[1]
    shown = [text for text in found.attributes if text and "Shows" in text]
    assert any(hostile(field) in text for text in shown)


def test_a_figure_says_in_its_note_whose_eigenvalues_it_shows(parsed):
    assert any(f"Eigenvalues of the {hostile('operator')}, not of the Hessian." in text for text in parsed[1].texts)


def test_figures_travel_as_json_without_a_bracket(pages):
    for source in pages:
        (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', source)
        assert json.loads(figures)
        assert not {"<", ">"} & set(figures)


def test_only_assets_and_figures_stand_in_a_template_as_they_are():
    templates = Path(report.__file__).parent / "page" / "templates"
    sources = {path.name: path.read_text(encoding="utf-8") for path in templates.rglob("*.html.j2")}
    safe = {
        (name, found) for name, source in sources.items() for found in re.findall(r"\{\{([^}]*)\|\s*safe\b", source)
    }
    assets = ("datatables_css", "datatables_js", "page_css", "page_js", "plotly")
    assert safe == {("page.html.j2", f" {name}") for name in (*assets, "figures")}
    assert not [name for name, source in sources.items() if re.search(r"autoescape|Markup", source)]
