"""What studies ask of the training loop, against closed forms and plain loops; the runs that they read."""

import re
from pathlib import Path

import numpy as np
import pytest

from curvexp import load_runs, optim, study, theory, training
from curvexp.problem import quadratics
from curvexp.record import Reading, Record
from curvexp.store import RunFolder
from curvexp.study.recorded import recorded
from curvexp.study.training import iterates, steps_to_target
from curvexp.training import Run

EIGENVALUES = [0.5, 1.0, 4.0]


def quadratic(**options):
    return quadratics.quadratic(dtype="float64", eigenvalues=EIGENVALUES, basis_seed=None, **options)


@pytest.mark.usefixtures("x64")
def test_iterates_are_those_of_the_closed_form_for_every_row():
    starts = [[1.0, 1.0, 1.0], [2.0, -1.0, 0.5]]
    runs = [Run(quadratic(start=start), optim.momentum(lr=0.3, momentum=0.4), 0) for start in starts]
    k = np.arange(21)[:, None]
    exact = theory.heavy_ball_trajectory(EIGENVALUES, lr=0.3, momentum=0.4, steps=k)
    found = iterates(runs, steps=20)
    # 20 steps of a contraction: rounding does not grow
    assert found == pytest.approx(np.array(starts)[:, None] * exact, abs=1e-14)


@pytest.mark.usefixtures("x64")
def test_iterates_go_on_where_a_run_would_count_as_diverged_and_say_where_it_cannot():
    run = Run(quadratic(start=[1.0, 0.0, 0.0]), optim.sgd(lr=20.0), 0)  # 1 - 20/2 = -9 a step
    assert iterates([run], steps=10)[0, :, 0] == pytest.approx((-9.0) ** np.arange(11), rel=1e-12)
    with pytest.raises(RuntimeError, match="not finite"):
        iterates([run], steps=400)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("block", [7, 1000])
def test_steps_to_a_target_are_those_of_a_plain_loop_whatever_the_block(block):
    problem = quadratic()
    lrs, targets = [0.1, 0.2, 0.4, 0.1], [1e-3, 1e-3, 1e-3, 1e-30]
    runs = [
        Run(problem, optim.sgd(lr=lr), seed, target=goal)
        for seed, (lr, goal) in enumerate(zip(lrs, targets, strict=True))
    ]
    expected = []
    for seed, (lr, goal) in enumerate(zip(lrs, targets, strict=True)):
        x = np.asarray(training.start(problem, seed))[:, None] * (1 - lr * np.array(EIGENVALUES)[:, None]) ** range(301)
        losses = 0.5 * (np.array(EIGENVALUES)[:, None] * x**2).sum(axis=0)
        below = losses <= goal * losses[0]
        expected.append(int(below.argmax()) if below.any() else 300)
    assert expected[-1] == 300
    assert steps_to_target(runs, steps=300, block=block).tolist() == expected


def test_a_run_begins_with_the_parameters_that_start_tells():
    problem = quadratics.quadratic(dimension=5)
    first = next(training.run(problem, optim.sgd(lr=0.01), steps=1, key=3))
    assert np.array_equal(first.state.params, training.start(problem, 3))


def test_no_study_has_a_training_loop_of_its_own():
    for file in Path(study.__file__).parent.glob("*.py"):
        text = file.read_text()
        assert not re.search(r"import optax|apply_updates|while_loop", text), f"{file.name}: train by curvexp.run_many"


def test_recorded_runs_are_found_by_name_in_the_order_of_their_sweep(tmp_path):
    for name, lr in (("steep/0", 0.1), ("steep/10", 0.3), ("steep/2", 0.2), ("steeper/0", 9.0)):
        folder = RunFolder(tmp_path / name)
        folder.start({"optim": {"lr": lr}}, {})
        for step in (0, 10):
            sharpness = {} if step == 0 else {"sharpness": 2.0}
            folder.append(Record(step, {"loss": 1.0 / lr, **sharpness}, None, None, seconds=0.0))
        folder.finish(status="diverged" if lr == 0.3 else "completed")
    found = recorded(load_runs(tmp_path), "steep")
    assert [(run.name, run.config["optim.lr"], run.diverged) for run in found] == [
        ("steep/0", 0.1, False),
        ("steep/2", 0.2, False),
        ("steep/10", 0.3, True),
    ]
    assert found[0].steps.tolist() == [0, 10]
    assert found[0].scalars["loss"].tolist() == [10.0, 10.0]
    assert np.isnan(found[0].scalars["sharpness"][0])
    assert found[0].scalars["sharpness"][1] == 2.0
    assert recorded(load_runs(tmp_path), "flat") == []


def test_recorded_readings_have_the_gradient_along_each_eigenvector_and_nan_where_it_was_not_measured(tmp_path):
    folder = RunFolder(tmp_path / "steep" / "0")
    folder.start({}, {})
    for step, values, shares in (
        (0, [1.0, 4.0], [0.25, 0.75]),
        (5, None, None),
        (10, [2.0], [1.0]),
        (15, [1.0, 4.0], None),
    ):
        arrays = [None if part is None else np.array(part) for part in (values, shares)]
        reading = None if values is None else Reading(arrays[0], np.zeros(len(values)), arrays[1], True, {}, {})
        folder.append(Record(step, {"loss": 1.0, "grad_norm": 2.0 + step}, reading, None, seconds=0.0))
    folder.finish(status="completed", steps_to_target=7)
    (run,) = recorded(load_runs(tmp_path), "steep")
    assert run.summary["steps_to_target"] == 7
    assert run.readings.tolist() == [0, 10, 15]
    np.testing.assert_array_equal(run.eigenvalues, [[1.0, 4.0], [2.0, np.nan], [1.0, 4.0]])
    np.testing.assert_array_equal(run.gradient_along, [[1.0, np.sqrt(3.0)], [12.0, np.nan], [np.nan, np.nan]])


def test_a_run_without_readings_has_none(tmp_path):
    folder = RunFolder(tmp_path / "steep" / "0")
    folder.start({}, {})
    folder.append(Record(0, {"loss": 1.0}, None, None, seconds=0.0))
    folder.finish(status="completed")
    (run,) = recorded(load_runs(tmp_path), "steep")
    assert run.readings.shape == (0,)
    assert len(run.eigenvalues) == len(run.gradient_along) == 0
