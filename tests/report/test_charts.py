"""What the marks of a chart stand for: medians and bands, thresholds, fitted slopes, theory's lines, and what has no place on an axis."""

import numpy as np
import pandas as pd
import pytest

from curvexp.report import charts
from curvexp.store import load_runs

from .conftest import write_run


def traces(drawn):
    return {trace.name: trace for trace in drawn.data if trace.name}


def notes(drawn):
    return str((drawn.layout.meta or {}).get("notes", drawn.layout.meta))


@pytest.fixture
def metrics():
    """Three runs of one setting at three steps: losses 1, 2, 9 falling by ten; one more setting that diverges, with a zero in it."""
    rows = [
        {
            "run": f"r{i}",
            "setting": "a",
            "status": "completed",
            "step": 10 * k,
            "loss": value * 10.0**-k,
            "sharpness": value,
            "threshold": 20.0,
        }
        for i, value in enumerate((1.0, 2.0, 9.0))
        for k in range(3)
    ]
    values = (1.0, 0.0, 50.0)
    rows += [
        {
            "run": "d",
            "setting": "b",
            "status": "diverged",
            "step": 10 * k,
            "loss": v,
            "sharpness": 30.0,
            "threshold": 20.0,
        }
        for k, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_line_is_the_median_the_band_from_smallest_to_largest_and_a_cross_ends_what_diverged(metrics):
    drawn = charts.loss(metrics)
    line = traces(drawn)["a"]
    np.testing.assert_allclose(line.y, [2.0, 0.2, 0.02])
    (band,) = [trace for trace in drawn.data if trace.fill == "toself" and trace.legendgroup == "a"]
    np.testing.assert_allclose(band.y, [9.0, 0.9, 0.09, 0.01, 0.1, 1.0])
    cross = traces(drawn)["diverged here"]
    assert (list(cross.x), list(cross.y)) == ([20], [50.0])
    assert drawn.layout.yaxis.type == "log"
    assert 0.0 not in list(traces(drawn)["b"].y)
    assert "1 of 12 values of loss are zero or negative" in notes(drawn)


def test_the_threshold_stands_beside_the_sharpness(metrics):
    drawn = charts.sharpness(metrics)
    np.testing.assert_allclose(traces(drawn)["a"].y, [2.0, 2.0, 2.0])
    assert set(traces(drawn)["threshold of the same colour"].y) == {20.0}


def test_steps_that_grow_like_the_condition_number_have_slope_one():
    kappa = np.array([10.0, 100.0, 1000.0, 1e4])
    runs = pd.DataFrame(
        {
            "run": [str(i) for i in range(5)], "setting": "s", "optim": "sgd", "status": "completed", "steps": 10**6,
            "condition_number": [*kappa, np.nan], "condition_number_positive": np.nan, "condition_number_bound": [*[np.nan] * 4, 50.0],
            "steps_to_target": [*(3 * kappa), 100.0], "target_loss": 1e-3,
        }
    )  # fmt: skip
    drawn = charts.condition_steps(runs)
    fitted = traces(drawn)["sgd: steps ∝ κ^1.00"]
    np.testing.assert_allclose(fitted.y, 3 * np.asarray(fitted.x), rtol=1e-9)
    theory = traces(drawn)["theory, best gradient descent"]
    k = np.asarray(theory.x)[-1]
    # (κ−1)/(κ+1) is a contraction of the distance; the loss has its square, and has to fall to 1e-3
    assert ((k - 1) / (k + 1)) ** (2 * theory.y[-1]) == pytest.approx(1e-3, rel=1e-9)
    assert "circle-open" in [symbol for trace in drawn.data for symbol in np.atleast_1d(trace.marker.symbol) if symbol]


def test_rates_stand_where_measurement_and_theory_put_them():
    runs = pd.DataFrame(
        {
            "run": ["a", "b", "c"],
            "setting": "s",
            "status": "completed",
            "rate": [0.9, 0.99, 1.1],
            "rate_theory": [0.8, 0.99, 0.5],
        }
    )
    drawn = charts.rate(runs)
    points = traces(drawn)["s"]
    np.testing.assert_allclose(points.x, [0.2, 0.01])
    np.testing.assert_allclose(points.y, [0.1, 0.01])
    line = traces(drawn)["measured = theory"]
    assert list(line.x) == list(line.y)


def test_a_component_beside_theorys_contraction():
    lr, values = 0.1, (1.0, 5.0)
    rows = [
        {"run": "a", "step": step, "index": i, "eigenvalue": value, "complete": True, "optim": "sgd", "lr": lr,
         "gradient_component": 3 * (1 - lr * value) ** step}
        for step in (0, 10, 20)
        for i, value in enumerate(values)
    ]  # fmt: skip
    drawn = charts.eigencomponents(pd.DataFrame(rows))
    for value in values:
        measured, theory = (
            next(t for t in drawn.data if t.name == f"{head}λ = {value:g}") for head in ("", "theory, ")
        )
        np.testing.assert_allclose(measured.y, (1 - lr * value) ** np.array([0, 10, 20]), rtol=1e-12)
        np.testing.assert_allclose(theory.y, measured.y, rtol=1e-12)
    partial = charts.eigencomponents(pd.DataFrame(rows).assign(complete=False))
    assert not [trace for trace in partial.data if trace.y is not None and len(trace.y)]


def test_predicted_changes_against_actual_ones_both_signs():
    metrics = pd.DataFrame(
        {"run": "a", "step": [0, 1, 2], "change_predicted": [-1.0, 0.0, 2.0], "change_actual": [-1.5, 0.1, np.nan]}
    )
    points = charts.taylor(metrics).data[0]
    np.testing.assert_allclose(np.asarray(points.customdata)[:, :2], [[-1.0, -1.5], [0.0, 0.1]])
    assert points.x[0] < points.x[1] == 0  # an order-preserving scale with zero at zero
    assert points.y[0] < 0 < points.y[1]


def test_eigenvalues_and_gradient_overlap_of_a_run(tmp_path):
    write_run(tmp_path / "one")
    found = load_runs(tmp_path)
    drawn = traces(charts.eigenvalues(found))
    np.testing.assert_allclose(np.asarray(drawn["largest"].customdata)[:, 0], [4, 5, 6, 7, 8])
    np.testing.assert_allclose(np.asarray(drawn["smallest"].customdata)[:, 0], -0.5)
    shares = traces(charts.gradient_overlap(found))
    np.testing.assert_allclose(shares["along the largest λ"].y, 0.5)
    (everything,) = [trace for name, trace in shares.items() if name.startswith("along all")]
    np.testing.assert_allclose(everything.y, 0.8)


def test_a_chart_says_whose_eigenvalues_it_shows_and_theirs_alone_have_theory(tmp_path):
    write_run(tmp_path / "one", operator="ggn")
    found = load_runs(tmp_path)
    assert "not of the Hessian" not in notes(charts.eigenvalues(found))
    found.spectra["operator"] = "ggn"
    drawn = charts.eigenvalues(found)
    assert drawn.layout.title.text == "Tracked eigenvalues of the generalized Gauss-Newton matrix"
    assert "Eigenvalues of the generalized Gauss-Newton matrix, not of the Hessian." in notes(drawn)
    assert "not of the Hessian" in notes(charts.spectrum(found))
    assert "not of the Hessian" in charts.eigencomponents(found).layout.meta["empty"]
    runs = found.runs.assign(condition_number=10.0, steps_to_target=5, target_loss=1e-3)
    assert charts.condition_steps(runs).layout.meta.get("empty")
    assert not charts.condition_steps(runs.assign(operator="hessian")).layout.meta.get("empty")


@pytest.mark.parametrize(
    "name", ["loss", "sharpness", "rate", "condition_steps", "eigenvalues", "gradient_overlap", "taylor"]
)
def test_what_was_not_measured_is_said_in_the_chart(tmp_path, name):
    write_run(tmp_path / "empty", records=0)
    drawn = getattr(charts, name)(load_runs(tmp_path))
    assert (drawn.layout.meta or {}).get("empty")
    assert drawn.layout.annotations[0].text
