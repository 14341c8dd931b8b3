"""How a run is judged, on losses with a known answer."""

import math

import numpy as np
import pytest

from curvexp.training.ending import bounds, crossings, measured_rate, stop_of, verdict

EPS = float(np.finfo(np.float64).eps)


@pytest.mark.parametrize("rate", [0.3, 0.99, 0.9998, 1.02])
@pytest.mark.parametrize("minimum", [0.0, -7.5])
def test_rate_of_a_geometric_sequence(rate, minimum):
    losses = minimum + 3.0 * rate ** (2 * np.arange(2000))
    losses = losses[np.isfinite(losses)]
    # the losses carry eps·|f*| of rounding over a gap of at least 1000 times that: 1e-3 over a window of tens of steps
    found = measured_rate(losses, minimum=minimum, eps=EPS, double_root=False)
    assert found == pytest.approx(rate, rel=1e-3 if minimum else 1e-9)


def test_double_root_is_fitted_with_its_polynomial_factor():
    steps, rate = np.arange(1001), 0.98
    losses = ((1 + 3 * steps) * rate**steps) ** 2
    with_log = measured_rate(losses, minimum=0.0, eps=EPS, double_root=True)
    without = measured_rate(losses, minimum=0.0, eps=EPS, double_root=False)
    assert -math.log(with_log) == pytest.approx(-math.log(rate), rel=1e-3)  # log(1 + 3k) is log k but for 1/(3k)
    assert abs(-math.log(without) / -math.log(rate) - 1) > 0.05


@pytest.mark.parametrize("minimum", [None, -math.inf])
def test_no_rate_without_a_minimum(minimum):
    assert measured_rate(np.ones(100), minimum=minimum, eps=EPS, double_root=False) is None


def test_no_rate_from_too_few_steps():
    assert measured_rate(0.5 ** np.arange(9.0), minimum=0.0, eps=EPS, double_root=False) is None


def test_target_is_a_fraction_of_the_distance_where_the_minimum_is_known_and_a_loss_else():
    known = bounds(10.0, minimum=2.0, lower_bound=None, target=0.25, diverge_at=100)
    assert (known.target, known.ceiling, known.floor) == (4.0, 802.0, -math.inf)
    network = bounds(10.0, minimum=None, lower_bound=0.0, target=0.25, diverge_at=100)
    assert (network.target, network.ceiling) == (0.25, 1000.0)
    assert bounds(10.0, minimum=2.0, lower_bound=None, target=None, diverge_at=100).target == -math.inf


def test_unbounded_loss_is_bounded_on_both_sides_and_says_so():
    limits = bounds(-0.5, minimum=-math.inf, lower_bound=None, target="auto", diverge_at=1e6)
    assert (limits.ceiling, limits.floor, limits.target) == (1e6 - 0.5, -1e6 - 0.5, -math.inf)
    status, reason = verdict(-2e6, limits, stop_of(limits, at_target=False), step=7)
    assert status == "diverged"
    assert "unbounded below" in reason


def test_verdicts():
    limits = bounds(1.0, minimum=0.0, lower_bound=None, target=0.1, diverge_at=10)
    on, off = (stop_of(limits, at_target=wish) for wish in (True, False))
    assert verdict(0.5, limits, on, step=1) is None
    assert verdict(0.1, limits, off, step=1) is None
    assert verdict(0.1, limits, on, step=1)[0] == "completed"
    for loss in (10.5, math.nan, math.inf):
        assert verdict(loss, limits, on, step=3)[0] == "diverged"


def test_losses_of_a_block_and_that_of_a_record_stop_a_run_alike():
    """Also where a bound has no float32 of its own: both are compared with its rounding."""
    limits = bounds(1.0, minimum=0.0, lower_bound=None, target=0.1, diverge_at=10 + 1e-8)
    stop = stop_of(limits, at_target=True, dtype=np.float32)
    near = np.float32(stop.ceiling)
    losses = np.array([0.5, 0.1, near, np.nextafter(near, np.float32(np.inf)), math.nan, -math.inf], np.float32)
    judged = np.logical_or.reduce(crossings(losses, stop))
    assert judged.tolist() == [verdict(float(loss), limits, stop, step=1) is not None for loss in losses]
    assert judged.any()
    assert not judged.all()


def test_a_start_at_the_minimum_does_not_diverge():
    assert bounds(2.0, minimum=2.0, lower_bound=None, target="auto", diverge_at=10).ceiling == math.inf
