"""The aggregate against numbers worked out by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvexp.report import aggregate
from curvexp.report.tables import interval

SETTING = {"problem": "mlp", "preprocess": "raw", "optim": "sgd"}


def table(*rows):
    return aggregate(pd.DataFrame([{**SETTING, "status": "completed", **row} for row in rows]))


def test_medians_and_counts_by_hand():
    runs = [
        {"loss": 1.0, "lambda_max_start": 10.0, "lambda_max": 5.0, "sharpness": 4.0, "threshold": 8.0, "rate": 0.5},
        {"loss": 4.0, "lambda_max_start": 20.0, "lambda_max": 7.0, "sharpness": 9.0, "threshold": 3.0, "rate": 0.75},
        {"loss": 2.0, "lambda_max_start": 90.0, "lambda_max": np.nan, "sharpness": 1.0, "threshold": 0.0, "rate": None},
    ]
    others = [
        {"status": "diverged", "loss": np.nan, "lambda_max_start": 40.0, "lambda_max": 1e9},
        *({"status": status, "loss": 1e9} for status in ("failed", "skipped", "interrupted", "running", "unreadable")),
    ]
    (row,) = table(*runs, *others).to_dict("records")
    assert [row[key] for key in ("runs", "completed", "diverged", "skipped", "failed", "unfinished")] == [
        8,
        3,
        1,
        1,
        1,
        2,
    ]
    assert row["loss"] == 2.0  # of 1, 4, 2
    assert row["lambda_max_start"] == 30.0  # of 10, 20, 90, and the diverged run's 40
    assert row["lambda_max"] == 6.0  # of 5, 7
    assert row["sharpness_ratio"] == 1.75  # of 1/2, 3; a threshold of 0 gives none
    assert row["rate"] == 0.625
    assert np.isnan(row["rate_theory"])


def test_curvatures_of_different_operators_have_no_median():
    values = {"lambda_max": 5.0, "lambda_max_start": 6.0, "condition_number": 7.0, "sharpness": 4.0, "loss": 1.0}
    old = {**values, "operator": None}  # of a version that recorded none: the Hessian's
    (same,) = table({**values, "operator": "ggn"}, {**values, "operator": "ggn"}).to_dict("records")
    assert (same["operator"], same["lambda_max"], same["condition_number"]) == ("ggn", 5.0, 7.0)
    (mixed,) = table({**values, "operator": "ggn"}, old).to_dict("records")
    assert (mixed["operator"], mixed["loss"], mixed["sharpness"]) == ("several", 1.0, 4.0)
    assert all(np.isnan(mixed[name]) for name in ("lambda_max", "lambda_max_start", "condition_number"))
    (row,) = table(old, {"loss": 1.0, "operator": None}).to_dict("records")
    assert row["operator"] == "hessian"


def test_settings_stand_in_the_order_of_their_runs():
    names = [("b", "raw", "sgd"), ("a", "raw", "sgd"), ("b", "raw", "adam"), ("b", "raw", "sgd")]
    found = table(*({**dict(zip(SETTING, name, strict=True)), "loss": 1.0} for name in names))
    assert list(found[list(SETTING)].itertuples(index=False, name=None)) == names[:3]
    assert found["runs"].tolist() == [2, 1, 1]


def test_where_no_run_completed_the_end_is_that_of_the_diverged():
    (row,) = table({"status": "diverged", "loss": np.inf, "steps": 12}, {"status": "failed", "loss": 1.0}).to_dict(
        "records"
    )
    assert row["loss"] == np.inf
    assert np.isnan(row["steps"])


def test_steps_to_target_counts_the_runs_that_never_reached_it():
    reached = [{"steps_to_target": steps, "target_loss": 0.1, "steps": 500} for steps in (100, 200, 300)]
    never = {"steps_to_target": None, "target_loss": 0.1, "steps": 900}
    diverged = {"status": "diverged", "steps_to_target": None, "target_loss": 0.1, "steps": 3}
    without = {"steps_to_target": None, "target_loss": None, "steps": 50}

    (row,) = table(*reached, never, diverged, without).to_dict("records")
    assert row["steps_to_target"] == 300  # of 100, 200, 300, inf, inf
    assert row["steps_to_target_high"] == np.inf
    assert (row["reached"], row["steps"]) == (3, 900)

    (row,) = table(*reached[:1], never, diverged).to_dict("records")
    assert row["steps_to_target"] == np.inf
    (row,) = table(without).to_dict("records")
    assert np.isnan(row["steps_to_target"])


def test_an_unknown_condition_number_counts_with_its_lower_bound_and_says_so():
    exact = {"condition_number": 100.0, "condition_number_bound": None, "condition_number_positive": 100.0}
    bound = {"condition_number": None, "condition_number_bound": 300.0}
    (row,) = table(exact, bound).to_dict("records")
    assert (row["condition_number"], row["condition_number_is_bound"]) == (200.0, True)
    (row,) = table(exact, exact).to_dict("records")
    assert (row["condition_number"], row["condition_number_is_bound"]) == (100.0, False)
    singular = {"condition_number": np.inf, "condition_number_positive": 41.0, "condition_number_bound": None}
    (row,) = table(singular).to_dict("records")
    assert (row["condition_number"], row["condition_number_positive"]) == (np.inf, 41.0)
    assert not row["condition_number_is_bound"]
    assert not row["condition_number_start_is_bound"]  # nothing was measured at the start: no bound either


def test_no_readable_run_gives_no_row_but_all_columns():
    found = table({"status": "unreadable"})
    assert found.empty
    assert {"runs", "loss", "steps_to_target"} <= set(found.columns)


def exact_interval(values):
    """The bootstrap's percentiles over all equally likely resamples."""
    medians = np.sort([np.median(chosen) for chosen in itertools.product(values, repeat=len(values))])
    return [medians[int(np.ceil(share * len(medians))) - 1] for share in (0.025, 0.975)]


@pytest.mark.parametrize("values", [[3.0, 7.0], [1.0, 2.0, 40.0], [5.0, 1.0, 3.0, np.inf, 9.0], [2.0, 2.0, 2.0]])
def test_the_interval_is_that_of_the_bootstrap_over_all_resamples(values):
    # chosen so that no percentile lies within the sampling error of 5000 resamples (0.2 % at 2.5 %) of a jump
    assert list(interval(np.array(values))) == exact_interval(values)


def test_one_value_has_no_interval():
    assert np.isnan(interval(np.array([1.0]))).all()
    assert np.isnan(interval(np.array([]))).all()


@given(st.lists(st.one_of(st.floats(0, 1e6), st.just(np.inf)), min_size=2, max_size=12))
def test_the_interval_is_ordered_within_the_values_and_without_nan(values):
    low, high = interval(np.array(values))
    assert min(values) <= low <= high <= max(values)
