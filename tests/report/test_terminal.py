"""What the command's options do: other groups, chosen runs, two sweeps beside each other, a sweep that is followed; sparklines."""

import functools
import threading
import time

import numpy as np
import pytest

from curvexp.report import __main__ as command
from curvexp.report import findings, frames
from curvexp.report.terminal import BARS, SPARK, sparklines
from curvexp.store import load_runs

from .conftest import write_run


@pytest.fixture
def two(tmp_path):
    """Two sweeps of three seeds: the second takes 10, 20 and 30 steps more, and has another λmax."""
    for seed in range(3):
        config = {"optim": {"lr": 0.1 * (1 + seed)}}
        write_run(tmp_path / "a" / str(seed), seed=seed, steps_to_target=100 + seed, lambda_max=8.0, config=config)
        later = 100 + seed + 10 * (1 + seed)
        write_run(tmp_path / "b" / str(seed), seed=seed, steps_to_target=later, lambda_max=6.0, config=config)
    return tmp_path


def output(capsys, *arguments):
    code = command.main([*map(str, arguments), "--no-page"])
    return code, *capsys.readouterr()


def test_another_operator_than_the_hessian_is_named_and_compared_with_itself_alone(two, capsys):
    for seed in range(3):
        for problem, optim in (("mlp", "sgd"), ("mlp", "adam")):
            folder = two / "c" / f"{optim}{seed}"
            write_run(folder, problem=problem, optim=optim, seed=seed, lambda_max=4.0, operator="ggn")
    _, text, _ = output(capsys, two / "c")
    assert "4*" in text
    assert "* of another operator than the Hessian: ggn" in text
    assert "*" not in output(capsys, two / "a")[1]
    (sentence,) = findings.sentences(load_runs(two / "c").runs)
    assert "λmax at the end of the ggn the same" in sentence
    assert not (findings.compare(load_runs(two / "a"), load_runs(two / "c"))["measure"] == "lambda_max").any()


def test_by_groups_runs_by_what_they_were_set_to(two, capsys):
    code, text, _ = output(capsys, two / "a", "--by", "problem,lr")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines() if line.startswith("0.")] == ["0.1", "0.2", "0.3"]


@pytest.mark.parametrize(
    "by, word", [("problem,learning", "learning"), ("problem,lambda_max", "lambda_max"), ("problem,l", "--by")]
)
def test_a_column_that_is_none_or_is_measured_is_refused(two, capsys, by, word):
    code, _, error = output(capsys, two / "a", "--by", by)
    assert code == 2
    assert word in error


def test_where_chooses_runs(two, capsys):
    code, text, _ = output(capsys, two / "a", "--where", "optim == 'sgd' and lr > 0.15")
    assert code == 0
    assert "2 runs: 2 completed" in text
    found = frames.where(load_runs(two / "a"), "lr > 0.15 and seed == 2")
    assert list(found.runs["seed"]) == [2]
    assert set(found.metrics["run"]) == set(found.spectra["run"]) == set(found.runs["run"])


@pytest.mark.parametrize(
    "condition", ["lr >", "learning > 1", "lr > 5", "@__import__('os').getpid() > 0", "__import__('os').getcwd()"]
)
def test_a_condition_that_cannot_be_is_refused_and_runs_nothing(two, capsys, condition):
    code, _, error = output(capsys, two / "a", "--where", condition)
    assert code == 2
    assert "--where" in error
    assert "Traceback" not in error


def test_compare_takes_differences_of_pairs(two, capsys):
    a, b = (load_runs(two / name) for name in "ab")
    table = findings.compare(a, b).set_index("measure")
    row = table.loc["steps to target" if "steps to target" in table.index else "steps_to_target"]
    assert (row["pairs"], row["difference"]) == (
        3,
        20,
    )  # the median of 10, 20, 30; that of the medians would be 20 as well
    assert row["low"] >= 10
    assert row["high"] <= 30
    code, text, _ = output(capsys, "--compare", two / "a", two / "b")
    assert code == 0
    assert "-2" in text.replace("−", "-")  # λmax: 6 for 8


def test_compare_refuses_sweeps_without_a_pair(two, tmp_path, capsys):
    write_run(tmp_path / "c" / "0", problem="another")
    code, _, error = output(capsys, "--compare", two / "a", tmp_path / "c")
    assert code == 2
    assert "--compare" in error


def test_a_sparkline_falls_where_the_loss_falls(two):
    found = load_runs(two / "a")
    lines = sparklines(found, list(frames.SETTING))
    (drawn,) = lines.values()
    assert len(drawn["loss"]) <= SPARK
    heights = [BARS.index(bar) for bar in drawn["loss"]]
    assert heights[0] == len(BARS) - 1
    assert heights[-1] == 0
    assert np.all(np.diff(heights) <= 0)
    assert drawn["sharpness"][0] < drawn["sharpness"][-1]


def test_watch_follows_until_the_last_run_ends(two, capsys, monkeypatch):
    monkeypatch.setattr(command, "WATCH_SECONDS", 0.05)
    write_run(two / "a" / "9", seed=9, finish=False)

    def finish():
        time.sleep(0.5)
        (two / "a" / "9" / "summary.json").write_text((two / "a" / "0" / "summary.json").read_text())

    ending = threading.Thread(target=finish)
    begun = time.monotonic()
    ending.start()
    code, text, _ = output(capsys, two / "a", "--watch")
    ending.join()
    assert code == 0
    assert time.monotonic() - begun >= 0.5
    assert "4 runs: 4 completed" in text


def test_watch_does_not_wait_for_a_run_that_was_killed(two, capsys, monkeypatch):
    """Its files have not changed for a while: here for any while at all."""
    write_run(two / "a" / "9", seed=9, finish=False)
    monkeypatch.setattr(command, "_going", functools.partial(command._going, quiet=0.0))
    code, text, _ = output(capsys, two / "a", "--watch")
    assert code == 0
    assert "not finished" in text
