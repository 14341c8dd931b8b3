"""Every scalar is described once, and what shows scalars follows from the descriptions."""

from pathlib import Path

import jax
import numpy as np
import pytest

import curvexp
from curvexp import optim, preprocess, probe, problem, quantities, training
from curvexp.problem import data
from curvexp.track import wandb_run

DOCS = Path(__file__).parents[1] / "docs" / "ledger.md"
GROUPS = ("LOSS", "OUTCOME", "STABILITY", "SPECTRUM", "STEP", "DIRECTIONS", "NOISE", "COST", "DIRECTION")


def recorded(chosen, measure, **options):
    """Names of all scalars that a run of a small network records."""
    records = training.run(
        chosen, optim.adam(lr=1e-2), measure, steps=4, key=jax.random.key(0), record_every=2, **options
    )
    return {name for record in records for name in record.scalars}


@pytest.mark.parametrize("kind", ["exact", "top", "density", "blocks"])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_every_scalar_of_a_run_is_described(kind, batch_size):
    chosen = problem.mlp(data=data.wine(), preprocess=preprocess.normalized(), hidden=[3])
    measure = getattr(probe, kind)(every=2, **({} if kind == "exact" else {"k": 2}))
    described = {quantity.name for quantity in quantities.QUANTITIES}
    assert recorded(chosen, measure, batch_size=batch_size, clock=iter(range(99)).__next__) <= described


def test_each_name_is_described_once_in_a_section_that_exists():
    names = [quantity.name for quantity in quantities.QUANTITIES]
    assert len(names) == len(set(names))
    assert {quantity.section for quantity in quantities.QUANTITIES} <= set(quantities.SECTIONS)
    assert all(quantity.meaning for quantity in quantities.QUANTITIES)


@pytest.mark.parametrize("group", GROUPS)
def test_the_documents_tables_are_those_of_the_descriptions(group):
    assert quantities.table(getattr(quantities, group)) in DOCS.read_text(encoding="utf-8")


def test_a_scalar_of_ones_own_probe_stands_in_its_section_and_an_undescribed_one_in_other():
    def measure(loss, params, state, key):
        scalars = {"entropy": 0.5, "undescribed": 1.0}
        return curvexp.Reading(np.empty(0), np.empty(0), None, complete=False, scalars=scalars, extra={}), state

    own = (curvexp.Quantity("entropy", "curvature", "entropy of the spectral density"),)
    mine = probe.Probe("mine", measure, every=1, quantities=own)
    chosen = problem.rosenbrock(preprocess=preprocess.raw())
    *_, last = training.run(chosen, optim.sgd(lr=1e-4), mine, steps=1, key=jax.random.key(0))
    logged = wandb_run.logged(last, own)
    assert logged["curvature/entropy"] == 0.5
    assert logged["other/undescribed"] == 1.0
    assert not any(key.startswith("loss/") for key in logged if key not in ("loss/loss", "loss/grad_norm"))


@pytest.mark.parametrize(
    "own, message",
    [
        ("entropy", "expected curvexp.Quantity"),
        (curvexp.Quantity("entropy", "nowhere", "…"), "the section 'nowhere'; expected one of loss, curvature"),
        (curvexp.Quantity("lambda_max", "curvature", "…"), "lambda_max is a scalar of curvexp itself"),
    ],
)
def test_a_wrong_description_is_refused_before_any_compute(own, message):
    mine = probe.off()._replace(quantities=(own,))
    with pytest.raises(curvexp.ConfigError, match=message):
        next(
            training.run(
                problem.rosenbrock(preprocess=preprocess.raw()),
                optim.sgd(lr=1e-4),
                mine,
                steps=1,
                key=jax.random.key(0),
            )
        )
