"""Verdicts: what passes, what fails, what is neither."""

import numpy as np
import pytest

from curvexp.study import FAIL, NOT_APPLICABLE, PASS, at_least, at_most, equal, not_applicable
from curvexp.study.claim import mean_interval, verdict


def test_equal_shows_the_value_furthest_from_what_is_allowed():
    claim = equal("s", [1.0, 10.0], [1.05, 10.2], relative=0.1, because="b")
    assert (claim.verdict, claim.prediction, claim.measurement, claim.allowed) == (PASS, 1.0, 1.05, 0.1)
    assert equal("s", [1.0, 10.0], [1.05, 11.2], relative=0.1, because="b").verdict == FAIL


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_what_is_not_finite_fails(lost):
    assert equal("s", 1.0, [1.0, lost], relative=0.5, because="b").verdict == FAIL
    assert at_most("s", 1.0, [0.0, lost], because="b").verdict == FAIL
    assert at_least("s", 1.0, [2.0, -lost], because="b").verdict == FAIL


def test_one_sided_claims_ask_for_the_whole_interval():
    assert at_most("s", 1.0, 0.9, because="b", interval=(0.8, 1.0)).verdict == PASS
    assert at_most("s", 1.0, 0.9, because="b", interval=(0.8, 1.1)).verdict == FAIL
    assert at_least("s", 1.0, 1.1, because="b", interval=(0.9, 1.3)).verdict == FAIL


def test_a_failure_decides_and_what_does_not_apply_does_not():
    passed, missed = equal("s", 1, 1, because="b"), equal("s", 1, 2, because="b")
    neither = not_applicable("s", because="b")
    assert verdict([passed, neither]) == PASS
    assert verdict([passed, neither, missed]) == FAIL
    assert verdict([neither]) == NOT_APPLICABLE


def test_nothing_compared_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        equal("s", [], [], because="b")


def test_the_t_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = [low <= 2.0 <= high for low, high in (mean_interval(row) for row in random.normal(2, 3, (2000, 5)))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)  # three binomial standard errors are 0.015
