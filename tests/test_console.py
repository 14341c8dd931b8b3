"""What a person reads of a run: figures in, sentences out."""

import io
import math
import os

import pytest
from rich.console import Console

from curvexp import console


def shown(**figures):
    """The rows of the table at a run's end, {name: text}."""
    summary = {"status": "completed", "parameters": 20, **figures}
    screen = Console(file=io.StringIO(), width=200)
    screen.print(console.result("run", summary, "folder"))
    rows = [line.rstrip().split("  ", 1) for line in screen.file.getvalue().splitlines()[1:]]
    return {name: text.strip() for name, text in rows}


def test_a_reader_that_has_gone_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="ascii") as file:
        screen = console.Stream(file=file, width=80)
        for number in range(3):
            screen.print(f"line {number} →")
        file.write("what follows goes nowhere")


def test_streams_take_any_character_and_are_as_before(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", stream)
    with console.any_stream():
        print("λ → 日")
    assert stream.errors == "strict"
    assert stream.buffer.getvalue() == b"lambda -> \\u65e5\n"


SLOW = {
    "bottleneck_eigenvalue": 0.0123,
    "bottleneck_contraction": 0.99988,
    "bottleneck_contraction_theory": 0.9998771,
    "bottleneck_loss_share": 0.831,
}


def test_what_is_slow_and_for_how_long():
    text = shown(**SLOW)["slow along"]
    assert text == "λ=0.0123: ×0.999880 a step (theory ×0.999877), 8.33e+03 steps to 1/e, 83.1 % of the loss left"
    assert "by its local model" in shown(**{**SLOW, "bottleneck_loss_share": 7.0})["slow along"]


def test_whose_eigenvalues_they_are_is_said_where_they_are_not_the_hessians():
    assert shown(lambda_max=2.0, operator="ggn")["operator"].startswith("ggn, whose eigenvalues follow")
    assert "operator" not in shown(lambda_max=2.0, operator="hessian")
    assert console.figures({"loss": 1.0, "condition_number": 3.0, "operator": "ggn"}).endswith("κ of ggn 3")


def test_where_the_tracked_directions_hold_little_the_rest_is_what_is_slow():
    rest = {"rest_gradient_share": 0.9698, "rest_curvature": 0.34, "rest_contraction": 0.99664}
    text = shown(**SLOW, **rest, rest_contraction_theory=0.9966)["slow along"]
    assert text == "the rest, 96.98 % of the gradient, mean λ 0.34: ×0.99664 a step (theory ×0.99660)"
    assert shown(**SLOW, **{**rest, "rest_gradient_share": 0.3})["slow along"].startswith("λ=0.0123")


def test_growth_beyond_every_number_is_shown_as_such():
    over = {"sharpness": 49.4, "stability_margin": 1e9, "top_contraction": math.inf, "top_contraction_theory": 3e9}
    assert shown(**over)["grows along"] == "λ=49.4: ×∞ a step (theory ×3000000000.00)"


@pytest.mark.parametrize("rate", [1.0, 1.2, 0.0, math.inf, None])
def test_what_does_not_shrink_is_not_called_slow(rate):
    assert "slow along" not in shown(**{**SLOW, "bottleneck_contraction": rate})


def test_how_far_over_the_threshold_and_how_fast_it_grows():
    over = {"sharpness": 49.4, "threshold": 38.0, "stability_margin": 1.3, "top_contraction_theory": 1.6}
    rows = shown(**over, top_contraction=1.59)
    assert rows["sharpness"] == "49.4  (1.3× over the threshold, 38)"
    assert rows["grows along"] == "λ=49.4: ×1.590 a step (theory ×1.600)"
    assert console.ratio(over) == "49.4/38 (1.3× over the threshold)"
    under = {"sharpness": 19.0, "threshold": 38.0, "stability_margin": 0.5, "top_contraction_theory": 0.1}
    assert shown(**under)["sharpness"] == "19  (0.5 of the threshold, 38)"
    assert "grows along" not in shown(**under)
    assert console.ratio(under) == "19/38"


def test_the_next_step_and_the_best_one():
    rows = shown(change_actual=-1.1e-3, change_predicted=-1.2e-3, best_step=2.4)
    assert rows["next step"] == "loss -0.0011  (predicted -0.0012), best 2.4× as long"


def test_index_is_exact_or_a_bound():
    assert shown(index=2, rank=18)["negative λ"] == "2 of 20, rank 18"
    assert shown(index_low=3, index_high=17, rank_low=6)["negative λ"] == "≥ 3 of 20"
    assert shown(index_low=3, index_high=3, rank_low=6)["negative λ"] == "3 of 20"


def test_minibatches_and_an_adaptive_methods_own_condition_number():
    figures = {"batch_sharpness": 8.73, "batch_sharpness_stderr": 0.98, "trace_noise": 2.38, "trace_noise_stderr": 0.26}
    assert shown(**figures)["batch sharpness"] == "8.73 ± 0.98, tr(HΣ) 2.38 ± 0.26"
    adaptive = {"sharpness_residual": 1e-3, "effective_condition_number_bound": 151.8}
    assert shown(**adaptive)["preconditioned"] == "condition number ≥ 151.8"


def test_without_a_ledger_nothing_is_said_of_it():
    assert set(shown(loss=1.0, loss_start=2.0, steps=3)) == {"status", "loss", "folder"}
