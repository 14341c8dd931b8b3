"""The contract of a study: the project's own pass, and each broken promise is named."""

import jax
import numpy as np
import pytest

from curvexp import load_runs, study, testing
from curvexp.app.studies import compose
from curvexp.app.studies.runs import trained
from curvexp.study import Claim, Result, equal


def half(*, times=2):
    return Result(
        [equal("half of two is one", 1.0, 0.5 * times, absolute=1e-12, because="rounding")], {"times": [times]}
    )


def test_a_study_that_keeps_its_promises_passes_whatever_its_verdict():
    assert testing.check_study(half).claims[0].verdict == study.PASS
    assert testing.check_study(half, times=3).claims[0].verdict == study.FAIL


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", ["quadratic_calculus", "eigen_directions", "level_sets", "scale_invariance", "sgd_stability", "taylor_step"]
)
def test_the_studies_that_train_nothing_pass(name):
    small = {
        "dimension": 6,
        "seeds": 1,
        "directions": 5,
        "angles": 500,
        "hidden": [4],
        "factors": [3.0],
        "chains": 2000,
        "points": 3,
    }
    given = compose(name)
    function = function_of(given.target)
    testing.check_study(function, **{**given.options, **{key: small[key] for key in small if key in given.options}})


@pytest.mark.usefixtures("x64")  # which its runs switch on
def test_a_study_with_runs_passes_on_their_folders(tmp_path):
    given = compose("decay_rates", ["study.steps=20"])
    trained(given.runs, tmp_path, study="decay_rates")
    testing.check_study(function_of(given.target), runs=load_runs(tmp_path))


def function_of(path):
    module, name = path.rsplit(".", 1)
    return getattr(__import__(module, fromlist=[name]), name)


def claim(**changes):
    return half().claims[0]._replace(**changes)


def switches(*, times=2):
    jax.config.update("jax_enable_x64", not jax.config.values["jax_enable_x64"])
    return half(times=times)


CALLS = []


@pytest.mark.parametrize(
    "broken, words",
    [
        (lambda *, times=2: [], "returned list"),
        (lambda *, times=2: Result([], {}), "at least one claim"),
        (lambda times, /: half(), "goes by its name"),
        (lambda *, times: half(), "has a default"),
        (lambda *, times=2: Result([claim(statement=" ")], {}), "has a statement"),
        (lambda *, times=2: Result([claim(tolerance="")], {}), "why so much"),
        (lambda *, times=2: Result([claim(verdict="maybe")], {}), "three verdicts"),
        (lambda *, times=2: Result([claim(measurement=2.0)], {}), "passes by its numbers"),
        (lambda *, times=2: Result([tuple(claim())], {}), "and one is tuple"),
        (lambda *, times=2: Result(half().claims, {"f": object()}), "JSON"),
        (lambda *, times=2: CALLS.append(1) or Result([claim(statement=f"call {len(CALLS)}")], {}), "the same claims"),
        (switches, "jax_enable_x64 changed"),
    ],
)
def test_a_broken_promise_is_named(broken, words):
    before = jax.config.values["jax_enable_x64"]
    try:
        with pytest.raises(testing.ContractError, match=words):
            testing.check_study(broken, **({"times": 2} if "has a default" in words else {}))
    finally:
        jax.config.update("jax_enable_x64", before)


def test_an_infinite_prediction_that_is_measured_stands():
    found = Claim("no best length", np.inf, np.inf, 0.0, "=", "exact", study.PASS)
    assert testing.check_study(lambda *, times=2: Result([found], {})).claims == [found]
