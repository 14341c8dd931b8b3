"""What a person sees of many runs, and the files that go on from there."""

import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from curvexp import report
from curvexp.report.__main__ import main
from curvexp.report.terminal import number, rate
from curvexp.store import RunFolder, load_runs

ROOT = Path(report.__file__).parents[2]
FIGURES = {
    **{
        "loss": 0.00123,
        "loss_start": 2.3,
        "steps": 1000,
        "target_loss": 0.1,
        "lambda_max_start": 123.4,
        "lambda_max": 17.1,
    },
    **{
        "sharpness": 17.1,
        "threshold": 20.0,
        "condition_number_start": math.inf,
        "condition_number_positive_start": 4.1e4,
    },
    **{"condition_number": 2100.0, "condition_number_positive": 2100.0, "rate": 0.99876, "rate_theory": 0.99801},
}


def write(path, *, status="completed", problem="mlp", preprocess="raw", optim="sgd", seed=0, finish=True, **fields):
    folder = RunFolder(path)
    folder.start(
        {"optim": {"lr": "auto" if seed else 0.1}},
        {"problem": problem, "preprocess": preprocess, "optim": optim, "seed": seed},
    )
    if finish:
        folder.finish(status=status, **fields)


@pytest.fixture
def sweep(tmp_path):
    """Two settings with three seeds each, and one run of every other kind."""
    folder = tmp_path / "sweep"
    for seed in range(3):
        write(folder / f"{seed}", seed=seed, steps_to_target=100 + 37 * seed, **FIGURES)
        write(
            folder / f"{seed + 3}",
            seed=seed,
            optim="momentum",
            **FIGURES | {"condition_number": None},
            condition_number_bound=1234.5,
        )
    write(folder / "6", status="diverged", reason="the loss is nan at step 12", problem="logistic", steps=12)
    write(folder / "7", status="failed", reason="RuntimeError: no")
    write(folder / "8", status="skipped", reason="no meaning", preprocess="batchnorm")
    write(folder / "9", finish=False)
    (folder / "10").mkdir()
    (folder / "10" / "summary.json").write_text("{")
    return folder


def printed(folder, *, terminal=False, width=100):
    stream = io.StringIO()
    report.summarize(folder, Console(file=stream, force_terminal=terminal, width=width, highlight=False))
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()) if terminal else stream.getvalue()


def test_a_diverged_run_says_how_far_it_was_over_the_threshold(tmp_path):
    write(tmp_path / "0", status="diverged", reason="the loss is nan at step 12", steps=12, stability_margin=1.27)
    write(tmp_path / "1", status="diverged", reason="the loss is nan at step 9", steps=9, stability_margin=0.4)
    write(tmp_path / "2", status="diverged", reason="the loss is nan at step 8", steps=8)
    lines = printed(tmp_path).splitlines()
    found = lines[lines.index("diverged") + 1 :]
    assert [line.partition(" seed 0: ")[2] for line in found] == [
        "the loss is nan at step 12; sharpness 1.27× the threshold",
        "the loss is nan at step 9",
        "the loss is nan at step 8",
    ]


def test_every_setting_and_every_run_that_did_not_complete_is_shown(sweep):
    text = printed(sweep)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    sgd, momentum = (next(line for line in lines if line.startswith(f"raw {optim}")) for optim in ("sgd", "momentum"))
    assert sgd == (
        "raw sgd 5, 1 failed, 1 unfinished ∞ (4.1e4⁺) → 2.1e3 123 → 17.1 0.855 137 [100, 174] 0.00123 0.99876 / 0.99801"
    )
    assert momentum == "raw momentum 3 ∞ (4.1e4⁺) → ≥ 1.23e3 123 → 17.1 0.855 > 1000 (0/3) 0.00123 0.99876 / 0.99801"
    assert "11 runs: 6 completed, 1 failed, 1 diverged, 1 skipped, 1 not finished, 1 unreadable" in lines
    assert lines[lines.index("diverged") + 1] == "6 logistic raw sgd seed 0: the loss is nan at step 12"
    assert lines[lines.index("failed") + 1] == "7 mlp raw sgd seed 0: RuntimeError: no"
    assert lines[lines.index("skipped") + 1] == "8 mlp batchnorm sgd seed 0: no meaning"
    assert lines[lines.index("not finished") + 1] == "9 mlp raw sgd seed 0: running or killed: no end was recorded"
    assert lines[lines.index("unreadable") + 1].startswith("10: summary.json: not JSON")
    assert "\x1b" not in text


def test_a_terminal_of_100_columns_shows_every_figure_whole(sweep):
    text = printed(sweep, terminal=True)
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    for figure in (
        "∞ (4.1e4⁺)",
        "2.1e3",
        "≥ 1.23e3",
        "0.855",
        "137",
        "[100, 174]",
        "> 1000 (0/3)",
        "0.00123",
        "0.99876",
        "0.99801",
    ):
        assert figure in text


def test_many_runs_of_a_kind_are_counted_beyond_ten(tmp_path):
    for run in range(13):
        write(tmp_path / str(run), status="failed", reason=f"reason {run} " + "x" * 500)
    text = printed(tmp_path)
    assert text.count("reason ") == 10
    assert "… and 3 more" in text
    assert max(len(line) for line in text.splitlines()) < 300


def test_text_from_a_config_is_shown_and_does_nothing(tmp_path):
    write(
        tmp_path / "[red]a",
        status="failed",
        problem="[bold]p",
        optim="\x1b[31mo",
        reason="[link=x]\x1b]0;title\x07 \u202e",
    )
    for terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=200, highlight=False, color_system=None)
        report.summarize(tmp_path, console)
        text = stream.getvalue()
        for shown in ("[bold]p", "\\x1b[31mo", "[red]a", "[link=x]\\x1b]0;title\\x07 \\u202e"):
            assert shown in text
        assert not {"\x07", "\u202e"} & set(text)
        assert "\x1b[31m" not in text


def test_summarize_writes_the_aggregate_and_returns_the_runs(sweep):
    runs = report.summarize(sweep, Console(file=io.StringIO()))
    assert runs["status"].value_counts()["failed"] == 1
    back = pd.read_csv(sweep / "report.csv")
    expected = report.aggregate(load_runs(sweep).runs)
    pd.testing.assert_frame_equal(back, expected, check_dtype=False)


def test_a_report_that_cannot_be_written_is_told_and_the_table_stands(sweep):
    (sweep / "report.csv").mkdir()
    (sweep / "report.csv" / "report.csv").mkdir()
    text = printed(sweep)
    assert "report.csv was not written" in text
    assert "raw" in text


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert printed(tmp_path).startswith("No runs in")
    assert report.summarize(tmp_path, Console(file=io.StringIO()))["status"].tolist() == []
    assert main([str(tmp_path)]) == 2
    assert "no runs in it" in capsys.readouterr().err
    assert main([str(tmp_path / "missing")]) == 2
    assert "missing: no such folder" in capsys.readouterr().err


def test_a_mistyped_option_ends_with_2(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), "--cvs", "x"])
    assert ended.value.code == 2


@pytest.mark.parametrize("form, read", [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_the_tables_as_files(sweep, tmp_path, form, read):
    whole = load_runs(sweep)
    file, folder = tmp_path / f"one.{form}", tmp_path / "all"
    assert main([str(sweep), f"--{form}", str(file)]) == 0
    assert main([str(sweep), f"--{form}", str(folder)]) == 0
    assert sorted(os.listdir(folder)) == [f"{name}.{form}" for name in ("metrics", "report", "runs", "spectra")]
    pd.testing.assert_frame_equal(read(file), report.aggregate(whole.runs), check_dtype=False)
    runs = read(folder / f"runs.{form}")
    assert runs["run"].astype(str).tolist() == whole.runs["run"].tolist()
    assert set(runs["config.optim.lr"].dropna()) == {"0.1", "auto"}  # a number here, a word there: text


def test_a_file_that_cannot_be_written_ends_with_2(sweep, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(sweep), "--csv", str(tmp_path / "file" / "x.csv")]) == 2
    assert "file: cannot be written (File exists)" in capsys.readouterr().err


def test_the_command_runs_as_documented(sweep):
    done = subprocess.run(
        [sys.executable, "-m", "curvexp.report", str(sweep)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "11 runs: 6 completed" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "value, text",
    [
        (1234.5, "1.23e3"),
        (0.5, "0.5"),
        (1e-7, "1e-7"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "–"),
        (-12.0, "-12"),
        (0.0, "0"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0.5, "0.500"),
        (0.98019802, "0.9802"),
        (1 - 2.73e-5, "0.9999727"),
        (1.25, "1.25"),
        (math.nan, "–"),
        (0.0, "0"),
    ],
)
def test_a_rate_shows_its_distance_from_one(value, text):
    assert rate(value) == text


CHARTS = """
import plotly.graph_objects as go

def loss_by_run(runs):
    figure = go.Figure()
    for name, part in runs.metrics.groupby("run"):
        figure.add_scatter(x=part["step"], y=part["loss"], name=name)
    return figure

def titled(runs):
    return loss_by_run(runs).update_layout(title="Losses <of> mine")

def fails(runs):
    raise KeyError("no_such_column")

def text(runs):
    return "a figure"
"""


def test_charts_of_ones_own_stand_on_the_page(sweep, tmp_path, monkeypatch):
    (tmp_path / "ownlab.py").write_text(CHARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    target = tmp_path / "page.html"
    typed = [str(sweep), "--html", str(target), "--chart", "ownlab.loss_by_run", "--chart", "ownlab.titled"]
    assert main(typed) == 0
    text = target.read_text(encoding="utf-8")
    assert 'id="own"' in text
    assert text.index(">loss by run<") < text.index(">Losses &lt;of&gt; mine<")


@pytest.mark.parametrize(
    "name, word",
    [
        ("ownlab.fails", "raised KeyError: 'no_such_column'"),
        ("ownlab.text", "returned str; expected a plotly"),
        ("ownlab.none", "cannot be imported (AttributeError"),
        ("no_such_lab.f", "cannot be imported (ModuleNotFoundError"),
        ("ownlab", "raised TypeError"),
        ("", "cannot be imported (ValueError"),
    ],
)
def test_a_chart_that_cannot_be_made_is_named_before_anything_is_written(
    sweep, tmp_path, monkeypatch, capsys, name, word
):
    (tmp_path / "ownlab.py").write_text(CHARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    target = tmp_path / "page.html"
    assert main([str(sweep), "--html", str(target), "--chart", name]) == 2
    assert word in capsys.readouterr().err
    assert not target.exists()
