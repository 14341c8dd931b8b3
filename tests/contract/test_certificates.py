"""What a number claims of itself holds: all bits of its dtype on every device, an eigenvalue within its residual, a standard error."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params, primitives

import curvexp
from curvexp import optim, preprocess, probe
from curvexp import problem as problems
from curvexp.landscape import around
from curvexp.linalg import diagonal, eigsh, frobenius_norm, spectral_density, trace
from curvexp.runner import over_all_data

HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
DEFAULTS = [None, "bfloat16", "tensorfloat32", "highest"]  # what a person may have set


class Network(nn.Module):
    """A convolution, a dense layer and products by hand."""

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Conv(2, (3,))(x))
        x = jnp.einsum("plc,cd->pld", x, self.param("mixing", nn.initializers.lecun_normal(), (2, 3)))
        x = nn.Dense(2)(x.reshape(len(x), -1))
        return jnp.dot(x, jnp.ones((2, 2)))


@pytest.fixture(scope="module")
def network():
    """params, loss(params, x, y) that is itself jitted, model, x, y."""
    module = Network()
    x, y = jax.random.normal(jax.random.key(0), (4, 5, 1)), jnp.ones((4, 2))
    params = module.init(jax.random.key(1), x)

    @jax.jit
    def loss(params, x, y):
        return jnp.mean(optax.l2_loss(module.apply(params, x), y))

    return params, loss, module.apply, x, y


@pytest.fixture(params=DEFAULTS, ids=str)
def a_default(request) -> Iterator[str | None]:
    """A person's own jax_default_matmul_precision."""
    with jax.default_matmul_precision(request.param):
        yield request.param


def precisions(jaxpr):
    """Of every matrix product and convolution of a program, those of its inner programs included."""
    for equation in jaxpr.eqns:
        if "dot" in equation.primitive.name or ("conv" in equation.primitive.name and "precision" in equation.params):
            yield equation.params["precision"]
        for inner in jaxprs_in_params(equation.params):
            yield from precisions(inner)


def traced(function, *args):
    return set(precisions(jax.make_jaxpr(function)(*args).jaxpr))


def test_every_product_of_a_curvature_program_has_all_bits(network, a_default):
    params, loss, model, x, y = network

    def criterion(f, y):
        return jnp.mean(optax.l2_loss(f, y))

    op = curvexp.hessian(loss, params, x, y)
    operators = [
        op,
        curvexp.hessian(loss, params, x, y, chunk=3),
        curvexp.ggn(model, criterion, params, x, y),
        curvexp.fisher(model, "softmax", params, x),
        curvexp.gradient_covariance(model, criterion, params, x, y),
    ]
    programs = [lambda op=op: op(params) for op in operators]
    programs += [
        lambda: op.many(jax.tree.map(lambda leaf: leaf[None], params)),
        lambda: op.dense(),
        lambda: eigsh(op, k=2, which="BE"),
        lambda: eigsh(lambda v: op.product(op.operands, v), params, k=1),
        lambda: spectral_density(op, probes=2, steps=3),
        lambda: trace(op, rank=2),
        lambda: diagonal(op),
        lambda: frobenius_norm(op),
        lambda: curvexp.sampling_error(
            loss, params, x, y, vectors=jax.tree.map(lambda leaf: leaf[None], params), groups=2
        ),
    ]
    for program in programs:
        assert traced(program) == {HIGHEST}


@pytest.fixture
def bound(monkeypatch) -> list:
    """Precisions of all products that are traced or made while the test runs."""
    seen = []
    for primitive in (primitives.dot_general_p, primitives.conv_general_dilated_p):

        def bind(*args, bind=primitive.bind, **params):
            seen.append(params["precision"])
            return bind(*args, **params)

        monkeypatch.setattr(primitive, "bind", bind)
    return seen


def small(seed):
    """A problem that no program was compiled for."""
    return problems.mlp(
        preprocess=preprocess.raw(),
        data=problems.data.gaussian(samples=40, features=3, classes=2, seed=seed),
        hidden=[3],
    )


@pytest.mark.parametrize("rule", ["exact", "top", "density"])
def test_a_run_is_traced_with_all_bits_whatever_the_default(rule, bound):
    """Training, probe and ledger; of minibatches, with a preconditioner."""
    made = {
        "exact": lambda: probe.exact(every=2),
        "top": lambda: probe.top(k=1, every=2, dense_below=0, samples=40),
        "density": lambda: probe.density(k=1, every=2, vectors=2, depth=3),
    }[rule]()
    with jax.default_matmul_precision("bfloat16"):
        run = curvexp.run(small(1), optim.adam(lr=0.01), made, steps=2, key=jax.random.key(0), batch_size=10)
        assert [record.step for record in run] == [0, 2]
    assert bound
    assert set(bound) == {HIGHEST}


def test_tuning_and_landscape_are_traced_with_all_bits(bound):
    found = small(2)
    with jax.default_matmul_precision("bfloat16"):
        last = list(curvexp.run(found, optim.sgd(lr="auto"), steps=1, key=jax.random.key(0)))[-1]
        around(over_all_data(found), last.state.params, step=1, key=jax.random.key(0))
    assert set(bound) == {HIGHEST}


def test_fewer_bits_in_training_are_a_choice_by_name_and_the_curvature_keeps_all(bound):
    key = jax.random.key(0)
    runs = [
        list(curvexp.run(small(3), optim.sgd(lr=0.1), probe.exact(), steps=3, key=key, matmul_precision=name))
        for name in ("tensorfloat32", "highest")
    ]
    assert set(bound) == {HIGHEST, (jax.lax.Precision.HIGH, jax.lax.Precision.HIGH)}  # HIGH: JAX's name of TF32
    if jax.default_backend() == "cpu":  # which has no TF32
        for one, other in zip(*runs, strict=True):
            np.testing.assert_array_equal(one.state.loss, other.state.loss)
            np.testing.assert_array_equal(one.reading.eigenvalues, other.reading.eigenvalues)
    with pytest.raises(curvexp.ConfigError, match="matmul_precision=half: expected highest, tensorfloat32, bfloat16"):
        next(curvexp.run(small(3), optim.sgd(lr=0.1), steps=1, key=key, matmul_precision="half"))
