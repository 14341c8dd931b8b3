"""Every study in a reduced form: it passes, and with theory broken on purpose the verdict that belongs to it fails."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from curvexp import theory
from curvexp.app.studies import compose, names, perform
from curvexp.study import FAIL, PASS

REDUCED = {
    "quadratic_calculus": ["dimension=10", "seeds=1"],
    "eigen_directions": ["dimension=8", "directions=20"],
    "level_sets": ["condition_numbers=[4,25]", "angles=2000"],
    "four_forms": ["starts=100"],
    "decay_rates": [],
    "best_step": ["lrs_3=null", "lrs_200=null"],
    "taylor_step": ["seeds=1", "points=5"],
    "condition_number": ["condition_numbers=[100.0,1000.0,10000.0]", "seeds=1"],
    "input_mean": ["features=20", "samples=200", "means=[0,0.5,1]", "seeds=4"],
    "normalization": ["datasets=[gaussian]", "problems=[least_squares]", "seeds=4", "steps=300"],
    "momentum": ["condition_numbers=[10.0]"],
    "negative_curvature": ["seeds=2"],
    "edge_of_stability": ["lrs=[0.4]", "hidden=[32]", "steps=1500", "every=150"],
    "edge_momentum": ["nesterov_lrs=null", "steps=2400", "every=200"],
    "adaptive_edge": ["lrs=[0.002]", "hidden=[32]", "steps=3000", "every=600"],
    "catapult": [
        *("width=200", "steps=500", "seeds=1", "lrs=[0.1,0.8]", "hidden=[16]"),
        *("network_steps=500", "warmup_steps=200"),
    ],
    "scale_invariance": ["seeds=1", "hidden=[8]", "factors=[3.0]"],
    "sgd_stability": ["chains=20000", "batch_sizes=[1,16]"],
    "outliers": ["classes=[5]", "hidden=[16]", "seeds=1"],
    "batchnorm_spectrum": ["losses=[0.3]", "seeds=3"],
}


def test_every_study_is_here():
    assert set(REDUCED) == set(names())


def times(name: str, factor: float) -> Callable[..., Any]:
    """The closed form with a wrong factor."""
    right = getattr(theory, name)
    return lambda *args, **options: factor * right(*args, **options)


def optimum(name: str, lr: float, momentum: float = 1.0) -> Callable[..., Any]:
    right = getattr(theory, name)

    def wrong(*args: Any) -> theory.Optimum:
        best = right(*args)
        return best._replace(lr=lr * best.lr, momentum=momentum * best.momentum)

    return wrong


def plus(eigenvalues: Any, *, lr: Any, **_: Any) -> Any:
    return np.abs(1 + np.asarray(lr) * np.asarray(eigenvalues))


def heavy_ball_without_momentum(*, lr: Any, momentum: Any) -> Any:
    return 2 / np.asarray(lr)


BROKEN = [
    ("quadratic_calculus", "quadratic_gradient", lambda matrix, vector, x: x @ matrix + vector),
    ("quadratic_calculus", "quadratic_hessian", times("quadratic_hessian", 2.0)),
    ("eigen_directions", "directional_curvature", lambda values, d: (values * np.abs(d)).sum(-1) / np.abs(d).sum(-1)),
    ("level_sets", "level_set_axes", times("level_set_axes", 2**0.5)),
    ("four_forms", "second_derivative_test", lambda values, **_: "minimum" if np.sum(values) > 0 else "maximum"),
    ("decay_rates", "gradient_descent_contraction", plus),
    ("decay_rates", "heavy_ball_trajectory", times("heavy_ball_trajectory", 2.0)),
    (
        "decay_rates",
        "nesterov_trajectory",
        lambda h, *, steps, **hyper: theory.heavy_ball_trajectory(h, steps=steps, **hyper),
    ),
    ("best_step", "gradient_descent_threshold", times("gradient_descent_threshold", 0.5)),
    ("best_step", "gradient_descent_optimum", optimum("gradient_descent_optimum", 0.5)),
    ("taylor_step", "taylor_change", lambda slope, curvature: slope - curvature / 2),
    ("taylor_step", "best_step_along_gradient", times("best_step_along_gradient", 2.0)),
    ("condition_number", "heavy_ball_optimum", optimum("heavy_ball_optimum", 0.5)),
    ("condition_number", "nesterov_trajectory", times("nesterov_trajectory", 2.0)),
    ("input_mean", "spiked_top_eigenvalue", times("spiked_top_eigenvalue", 2.0)),
    ("input_mean", "marchenko_pastur_edges", lambda ratio, variance=1.0: (0.0, variance * (1 - np.sqrt(ratio)) ** 2)),
    ("normalization", "top_of_second_moment", times("top_of_second_moment", 2.0)),
    ("momentum", "heavy_ball_optimum", optimum("heavy_ball_optimum", 0.5)),
    ("momentum", "heavy_ball_angle", times("heavy_ball_angle", 0.5)),
    ("negative_curvature", "gradient_descent_contraction", lambda values, *, lr: 1 + 2 * lr * np.abs(values)),
    ("edge_of_stability", "gradient_descent_threshold", times("gradient_descent_threshold", 0.5)),
    ("edge_momentum", "heavy_ball_threshold", heavy_ball_without_momentum),
    ("adaptive_edge", "adam_threshold", times("adam_threshold", 0.5)),
    ("catapult", "catapult_range", lambda h: (1 / h, 4 / h)),
    ("outliers", "classifier_outliers", lambda classes: np.asarray(classes)),
    ("sgd_stability", "sgd_second_moment_factor", times("sgd_second_moment_factor", 2.0)),
    ("sgd_stability", "sgd_largest_lr", times("sgd_largest_lr", 2.0)),
]


LONG = {"batchnorm_spectrum", "catapult", "outliers", "taylor_step"}  # together half of the time of all


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in REDUCED])
def test_the_reduced_study_passes_and_fails_where_theory_is_broken(name, tmp_path, monkeypatch):
    """Under each theory in turn: what is trained does not depend on it, and is trained once."""
    study = compose(name, [f"study.{option}" for option in REDUCED[name]])._replace(folder=tmp_path)
    finding, _ = perform(study)
    assert not [claim for claim in finding.claims if claim["verdict"] == FAIL]
    assert finding.verdict == PASS
    for form, wrong in [(form, wrong) for of, form, wrong in BROKEN if of == name]:
        with monkeypatch.context() as broken:
            broken.setattr(theory, form, wrong)
            assert perform(study)[0].verdict == FAIL, f"{form} was broken"
