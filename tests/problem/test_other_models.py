"""Problems from models of Equinox and Haiku, by stand-ins of the same interface."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_models import build, by_hand, inside, start, tiny

import curvexp
from curvexp import optim, problem
from curvexp.errors import ConfigError


@functools.partial(jax.tree_util.register_dataclass, data_fields=["first", "last", "bend"], meta_fields=["name"])
@dataclasses.dataclass
class Module:
    """As an eqx.Module: a pytree, with a function among its leaves; called with one example."""

    first: Any
    last: Any
    bend: Any = jnp.tanh
    name: str = "module"

    def __call__(self, x):
        hidden = self.bend(x @ self.first["kernel"] + self.first["bias"])
        return hidden @ self.last["kernel"] + self.last["bias"]


def module(key, outputs=3, name="module"):
    return Module(**start(key, np.zeros((1, 4)), outputs=outputs), name=name)


class Transformed(NamedTuple):
    """As haiku.transform returns."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


TRANSFORMED = Transformed(lambda key, x: start(key, x, outputs=3), lambda params, key, x: by_hand(params, x))


def test_equinox_takes_one_example_and_its_real_arrays_are_parameters():
    made = problem.from_equinox(functools.partial(module, outputs=3), data=tiny(), frozen=["first/bias"])
    params = inside(made)
    assert (params.bend, params.first["bias"], params.name) == (None, None, "module")
    whole = {"first": params.first | {"bias": np.zeros(3, np.float32)}, "last": params.last}  # as it begins
    assert np.allclose(made.model(params, made.data.inputs), by_hand(whole, made.data.inputs), atol=1e-6)  # float32
    again = problem.from_equinox(functools.partial(module, outputs=3), data=tiny(), frozen=["first/bias"])
    assert again.loss is made.loss
    *_, last = curvexp.run(made, optim.sgd(lr=0.1), steps=2, key=0)
    assert last.outcome.status == "completed"
    assert last.state.params.first["bias"] is None


def test_haiku_is_called_without_a_key():
    made, plain = problem.from_haiku(TRANSFORMED, data=tiny()), build("from_apply", dtype=jnp.float32)
    params = inside(made)
    assert jax.tree.structure(params) == jax.tree.structure(inside(plain))
    assert np.allclose(made.model(params, made.data.inputs), by_hand(params, made.data.inputs), atol=1e-6)  # float32
    assert problem.from_haiku(TRANSFORMED, data=tiny()).loss is made.loss


@pytest.mark.parametrize(
    ("wrapper", "model", "words"),
    [
        (problem.from_equinox, lambda key: (module(key), "state"), r"problem\.module: tuple; expected a model"),
        (problem.from_equinox, lambda key: Module(key, jnp.ones(3)), r"arrays of key<fry>; .*keys of dropout"),
        (problem.from_haiku, Transformed(lambda key, x: ({}, {}), by_hand), r"parameters and state.*LayerNorm"),
        (problem.from_haiku, by_hand, r"problem\.transformed=function: expected what haiku\.transform returns"),
    ],
)
def test_what_is_no_model_of_equinox_or_haiku_is_refused(wrapper, model, words):
    with pytest.raises(ConfigError, match=words):
        wrapper(model, data=tiny())
