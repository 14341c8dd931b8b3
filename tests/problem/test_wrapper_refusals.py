"""What is no problem from a person's model is refused in words, before it is run."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from own_models import Linen, Nnx, build, by_hand, start, tiny

from curvexp import preprocess, problem
from curvexp.errors import ConfigError
from curvexp.preprocess import ignored, watched


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))


class Noisy(nnx.Module):
    def __init__(self, layer, *, rngs):
        self.first, self.layer = nnx.Linear(4, 3, rngs=rngs), layer(rngs)

    def __call__(self, x):
        return self.layer(self.first(x))


NORMED = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)])
CASES = [
    (problem.from_flax, NORMED, r"variables batch_stats beside.*LayerNorm or GroupNorm.*preprocess=batchnorm"),
    (problem.from_flax, Dropping(), r'Dropping: Dropout_0 needs PRNG for "dropout"; .*deterministic=True'),
    (
        problem.from_flax,
        nn.Sequential([nn.Dense(3), nn.Dropout(0.5)]),
        r'Parameter "deterministic" must .*; expected a model without',
    ),
    (
        problem.from_nnx,
        functools.partial(Noisy, lambda rngs: nnx.Dropout(0.5)),
        r"`deterministic` is False, .*expected a model without",
    ),
    (problem.from_flax, Nnx, r"expected a flax\.linen\.Module.*class"),
    (problem.from_nnx, functools.partial(Noisy, lambda rngs: nnx.BatchNorm(3, rngs=rngs)), r"BatchStat.*LayerNorm"),
    (
        problem.from_nnx,
        functools.partial(Noisy, lambda rngs: nnx.Dropout(0.5, rngs=rngs)),
        r"RngKey.*deterministic=True",
    ),
    (problem.from_nnx, lambda rngs: 1, r"it returned int; expected an nnx\.Module"),
    (problem.from_flax, nn.Dense(4), r"outputs have the shape \(24, 4\); expected \(24, 3\)"),
    (problem.from_flax, nn.Sequential([nn.Dense(3), jnp.sum]), r"shape \(\); expected 24 rows"),
    (problem.from_flax, nn.Sequential([lambda x: x[:, :3]]), r"parameters are none"),
    (problem.from_flax, nn.Dense(3, dtype=jnp.bfloat16), r"outputs are bfloat16; expected float32"),
]


@pytest.mark.parametrize(("wrapper", "model", "words"), CASES)
def test_models_that_do_not_fit_are_refused_by_words(wrapper, model, words):
    with pytest.raises(ConfigError, match=words):
        wrapper(model, data=tiny())


def test_a_module_of_nnx_in_place_of_its_builder_is_refused():
    made = nnx.eval_shape(lambda: Nnx(3, rngs=nnx.Rngs(0)))
    with pytest.raises(ConfigError, match=r"problem\.module=Nnx: expected a function of rngs"):
        problem.from_nnx(made, data=tiny())
    with pytest.raises(ConfigError, match=r"Call problem\.from_nnx"):
        problem.from_flax(made, data=tiny())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "hinge"}, r"problem\.criterion=hinge: expected one of auto"),
        ({"criterion": "cross_entropy", "data": tiny(None)}, r"problem\.criterion=cross_entropy.*no classes"),
        ({"criterion": lambda z, y: z[:, 0]}, r"problem\.criterion: it returns float32 of shape \(24,\)"),
        ({"shape": [2, 3]}, r"problem\.shape=\[2, 3\]: 6 numbers; expected 4"),
        ({"shape": 4}, r"problem\.shape=4: expected a list"),
        ({"preprocess": preprocess.batchnorm()}, r"preprocess=batchnorm: the hidden layers are the model's own"),
        ({"dtype": jnp.float16}, r"precision=float16"),
        ({"frozen": "first/.*"}, r"problem\.frozen=first/\.\*: expected a list"),
        (
            {"frozen": ["first"]},
            r"problem\.frozen\[0\]=first: it matches no parameter.*first/bias, first/kernel, last/bias",
        ),
        ({"frozen": ["("]}, r"problem\.frozen\[0\]=\(: .*expected regular expressions"),
        ({"frozen": [".*"]}, r"no parameter remains"),
    ],
)
def test_bad_options_name_their_key(options, words):
    with pytest.raises(ConfigError, match=words):
        problem.from_flax(Linen(3), **{"data": tiny()} | options)


def test_functions_that_do_not_fit_are_refused_and_nothing_is_run():
    seen = []

    def apply(params, inputs):
        seen.append(inputs)
        return inputs @ params

    made = problem.from_apply(lambda key, x: jnp.zeros((4, 3)), apply, data=tiny())
    assert seen
    assert all(isinstance(inputs, jax.core.Tracer) for inputs in seen)
    assert made.model is apply
    with pytest.raises(ConfigError, match=r"parameters are of type int32; expected real arrays"):
        problem.from_apply(lambda key, x: jnp.zeros((4, 3), int), apply, data=tiny())
    with pytest.raises(ConfigError, match=r"problem\.init=3: expected a function"):
        problem.from_apply(3, apply, data=tiny())
    with pytest.raises(ConfigError, match=r"problem\.apply: .*can be hashed"):
        problem.from_apply(start, type("Model", (), {"__call__": by_hand, "__hash__": None})(), data=tiny())


def test_a_preprocessing_is_made_use_of_and_told_where_it_is_not():
    for prepare in (preprocess.normalized(), preprocess.raw()):
        given = watched(prepare)
        build("from_flax", preprocess=given, dtype=jnp.float32)
        assert ignored(given) is None
