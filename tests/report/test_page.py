"""The page in a browser that has no network: everything is drawn, nothing is loaded, no name becomes markup, tables sort and filter."""

import html
import itertools
import json
import shutil
import time

import numpy as np
import pytest

from curvexp.report import charts, findings
from curvexp.report.__main__ import main
from curvexp.report.page import page, write_page
from curvexp.store import load_runs

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--hide-scrollbars",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver on PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made(mixed, tmp_path_factory):
    return write_page(load_runs(mixed), mixed, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def shown(browser, made):
    """The browser with the page open at 1280 pixels and all its visible figures drawn."""
    return opened(browser, made, 1280)


def opened(browser, made, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(made.as_uri())
    settle(browser)
    return browser


def settle(browser):
    deadline = time.monotonic() + 60
    while browser.execute_script("return document.body.dataset.ready") != "yes":
        assert time.monotonic() < deadline, "the figures were not drawn within 60 s"
        time.sleep(0.05)


def marks(browser):
    """Of every visible chart: its heading and the number of its marks, counted in the drawing itself."""
    script = """return [...document.querySelectorAll('.chart')].filter(c => !c.closest('[hidden]')).map(c => [
        c.parentElement.querySelector('h3,h4').textContent,
        c.querySelectorAll('.trace path, .trace.scatter path, .points path, .contourlayer path, .heatmaplayer image, canvas').length])"""
    return browser.execute_script(script)


def test_it_loads_nothing_says_no_error_and_fits(shown, made):
    browser = shown
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in asked)  # the log does see requests
    assert [url for url in asked if not url.startswith((made.as_uri(), "data:", "blob:"))] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1280


def test_every_figure_is_drawn_for_every_setting(shown):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    seen = {}
    for heading, count in marks(shown):
        seen[heading] = min(count, seen.get(heading, count))
    for chooser in shown.find_elements(By.CSS_SELECTOR, "select[data-panels]"):
        for index in range(1, len(Select(chooser).options)):
            Select(chooser).select_by_index(index)
            settle(shown)
            for heading, count in marks(shown):
                seen[heading] = min(count, seen.get(heading, count))
    assert min(seen.values()) > 0, seen
    expected = {"Loss against step", "Sharpness against its threshold", "All tracked eigenvalues", "The surface itself"}
    expected |= {
        "Spectral density against step",
        "Decay of the components along the eigenvectors",
        "The forms of curvature side by side",
    }
    expected |= {"Condition number against steps to the target", "Theory and measurement in one picture"}
    assert expected <= set(seen)
    undrawn = shown.execute_script("return document.querySelectorAll('.chart:not([data-drawn])').length")
    assert undrawn == 0


def rows(browser, table):
    return browser.execute_script(
        f"return [...document.querySelectorAll('#{table} tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )


def test_tables_sort_by_value_and_filter(shown):
    from selenium.webdriver.common.by import By

    table = shown.find_element(By.ID, "all-runs")
    heads = [head.text for head in table.find_elements(By.CSS_SELECTOR, "thead th")]
    column = heads.index("loss")
    found = []
    for _ in range(2):
        head = table.find_elements(By.CSS_SELECTOR, "thead th")[column]
        shown.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", head)
        orders = shown.execute_script(
            f"return [...document.querySelectorAll('#all-runs tbody tr')].map(r => Number(r.cells[{column}].dataset.order))"
        )
        found.append(orders)
        assert head.get_attribute("aria-sort") in ("ascending", "descending")
    assert found[0] == sorted(found[0]) != found[1]
    assert found[1] == sorted(found[1], reverse=True)

    before = len(rows(shown, "aggregate"))
    box = shown.find_elements(By.CSS_SELECTOR, "input[type=search]")[0]
    box.send_keys("saddle")
    left = rows(shown, "aggregate")
    assert 0 < len(left) < before
    assert all("saddle" in " ".join(row) for row in left)


def test_numbers_stand_right_and_the_table_fits_at_1280(shown):
    found = shown.execute_script(
        """const table = document.getElementById('aggregate');
        return [getComputedStyle(table.querySelector('td.number')).textAlign, table.scrollWidth - table.parentElement.clientWidth]"""
    )
    assert found[0] == "right"
    assert found[1] <= 0


def test_names_are_shown_and_never_run(shown, made):
    assert shown.title == "curvexp: sweep"  # the hostile names would have changed it
    text = shown.execute_script("return document.body.textContent")
    assert "<script>document.title='owned'</script>" in text
    assert "<script>alert(1)<" in text
    assert shown.execute_script("return document.querySelectorAll('main script, main img, main b').length") == 0
    legends = shown.execute_script("return [...document.querySelectorAll('.legendtext')].map(t => t.textContent)")
    assert any("<b>bold</b>" in name for name in legends)  # its letters, not bold letters
    source = made.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in source
    assert "<script>document.title" not in source


def test_dark_and_light_have_text_that_reads(shown):
    """Contrast of text against its background, WCAG 2.1: at least 4.5, in the page and in the figures."""

    def luminance(colour):
        channels = np.array([int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    backs = []
    for scheme in ("light", "dark"):
        shown.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        time.sleep(1)  # the page is told, and paints its figures anew
        back, *texts = shown.execute_script(
            """const of = (e, key) => getComputedStyle(e)[key];
            return [of(document.body, 'backgroundColor'), of(document.body, 'color'), of(document.querySelector('.note'), 'color'),
                    of(document.querySelector('.xtick text'), 'fill'), of(document.querySelector('td'), 'color')]"""
        )
        backs.append(back)
        for text in texts:
            light, dark = sorted((luminance(text), luminance(back)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, text, back)
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert backs[0] != backs[1]


def test_a_screen_reader_finds_headings_labels_and_table_headers(shown):
    levels = shown.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    missing = """return [
        [...document.querySelectorAll('.chart')].filter(c => !c.getAttribute('aria-label')).length,
        [...document.querySelectorAll('table')].filter(t => !t.querySelector('caption') || !t.querySelector('th[scope=col]')).length,
        [...document.querySelectorAll('select, input')].filter(i => !i.labels.length && !i.getAttribute('aria-label')).length,
        [...document.querySelectorAll('button')].filter(b => !b.textContent.trim() && !b.getAttribute('aria-label')).length]"""
    assert shown.execute_script(missing) == [0, 0, 0, 0]


def test_each_run_that_did_not_complete_is_listed_with_its_reason(mixed, made):
    source = made.read_text(encoding="utf-8")
    listed = source[source.index('<section id="exceptions"') :]
    for text in (
        "failed</strong> bowl raw sgd seed 0: RuntimeError: no",
        "unfinished</strong>",
        "damaged</strong>",
        "foreign</strong>",
    ):
        assert text in listed
    assert "broken/finding.json: not a study&#39;s finding" in source
    for _, run in load_runs(mixed).runs.iterrows():
        assert html.escape(run["run"]) in source


def test_at_400_pixels_nothing_is_cut_off(browser, made):
    opened(browser, made, 400)
    wide = browser.execute_script(
        """return [document.documentElement.scrollWidth, ...[...document.querySelectorAll('.chart')].filter(c => c.dataset.drawn).map(
            c => Math.max(...[...c.querySelectorAll('.legendtext, .xtitle')].map(t => t.getBoundingClientRect().right), 0))]"""
    )
    assert max(wide) <= 400
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_figure_that_is_missing_is_told(mixed):
    source = page(load_runs(mixed), mixed)
    assert "Only a part of the spectrum was measured" in source
    assert "No spectral density was recorded" in source


def test_the_command_writes_the_page_and_the_sweep_had_written_one(mixed, real_sweep, tmp_path, capsys):
    assert (real_sweep / "report.html").stat().st_size > 1e6
    target = tmp_path / "page.html"
    assert main([str(mixed), "--html", str(target)]) == 0
    assert target.read_text(encoding="utf-8").count("plotly.js v") <= 2  # inlined once
    assert "wrote" in capsys.readouterr().out
    assert main([str(mixed), "--html", str(tmp_path / "none" / "page.html")]) == 2


def test_sentences_say_ratios_of_pairs(tmp_path):
    from .conftest import write_run

    for seed, factor in enumerate((2.0, 4.0, 8.0)):
        steps = {"target_loss": 0.1}
        write_run(tmp_path / f"a{seed}", seed=seed, lambda_max_start=40.0 * factor, steps_to_target=100, **steps)
        write_run(
            tmp_path / f"b{seed}",
            seed=seed,
            preprocess="normalized",
            lambda_max_start=10.0,
            steps_to_target=25,
            **steps,
        )
    (row, *_), found = (
        findings.comparisons(load_runs(tmp_path).runs).to_dict("records"),
        findings.sentences(load_runs(tmp_path).runs),
    )
    assert (row["measure"], row["ratio"], row["low"], row["high"]) == ("lambda_max_start", 1 / 16, 1 / 32, 1 / 8)
    assert found == [
        "mlp, normalized against raw: λmax at the start 16x lower [8, 32], target reached in 0.25x the steps (3 pairs of runs)."
    ]


def test_claims_are_drawn_as_ratios_within_what_is_allowed(mixed):
    """Of the five claims of the study: ratios 1.02, 1.5 with its interval, 0.5 of a bound; zero and infinity have no place in it."""
    (study,), _ = findings.studies(mixed)
    drawn = charts.verdicts(study["claims"])
    x = {text.split(". ", 1)[0]: value for trace in drawn.data for text, value in zip(trace.y, trace.x, strict=True)}
    assert x == pytest.approx({"1": 1.02, "2": 1.5, "3": 0.5})
    (failed,) = [trace for trace in drawn.data if trace.name == "fail"]
    assert (list(failed.error_x.arrayminus), list(failed.error_x.array)) == ([pytest.approx(0.1)], [pytest.approx(0.1)])
    assert [(shape.x0, shape.x1) for shape in drawn.layout.shapes[:3]] == [(0.9, 1.1), (0.9, 1.1), (-1, 1)]


def test_a_folder_of_studies_alone_has_its_page(mixed, tmp_path, capsys):
    shutil.copytree(mixed / "good", tmp_path / "rates")
    assert main([str(tmp_path)]) == 0
    assert "study rates: fail (3 pass, 2 fail)" in capsys.readouterr().out
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Study rates: fail" in source
    assert "argued" in source
