"""Any JAX loss has its Hessian, or is refused in a sentence where the Hessian is asked for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint

from curvexp import fisher, ggn, gradient_covariance, hessian, inertia, sampling_error, trace
from curvexp.linalg import diagonal

pytestmark = pytest.mark.usefixtures("x64")
X = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]])


@jax.custom_vjp
def cubes(x):
    """Σ x³, with its gradient stated and no rule for forward mode."""
    return jnp.sum(x**3, axis=-1)


cubes.defvjp(lambda x: (cubes(x), x), lambda x, g: (3 * g[..., None] * x**2,))


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class Jitted:
    """A jitted function that is a pytree with the function as a leaf, as Equinox's filter_jit returns one."""

    function: object

    def __call__(self, *args):
        return jax.jit(self.function)(*args)

    def tree_flatten(self):
        return (self.function,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight", "activation"), meta_fields=())
@dataclasses.dataclass
class Layer:
    """A module with a function among its leaves, as Equinox has them."""

    weight: object
    activation: object


def quartic(params):
    return jnp.sum(params**4)


def test_losses_with_auxiliary_values():
    found = hessian(lambda p: (quartic(p), {"accuracy": p[0] > 0, "name": "quartic"}), jnp.ones(2), has_aux=True)
    np.testing.assert_allclose(found.dense(), 12 * np.eye(2), rtol=1e-15)
    with pytest.raises(TypeError, match="has_aux=True"):
        hessian(lambda p: (quartic(p), quartic(p)), jnp.ones(2))
    with pytest.raises(TypeError, match="expected a pair"):
        hessian(quartic, jnp.ones(2), has_aux=True)


def test_static_arguments_stay_static_and_share_a_program():
    traces = []

    def loss(params, x, training, reduction, activation=None, *, power=2):
        traces.append(1)
        outputs = x @ params
        outputs = activation(outputs) if activation else outputs
        return getattr(jnp, reduction)((2 if training else 1) * outputs**power)

    def matrix(scale, *static, **keywords):
        return np.asarray(hessian(loss, jnp.ones(2), scale * X, *static, **keywords).dense())

    np.testing.assert_allclose(matrix(1, True, "mean"), 4 * X.T @ X / 3, rtol=1e-14)
    first = len(traces)
    np.testing.assert_allclose(matrix(3, True, "mean"), 36 * X.T @ X / 3, rtol=1e-14)
    assert len(traces) == first
    np.testing.assert_allclose(matrix(1, False, "sum", jnp.negative, chunk=None), 2 * X.T @ X, rtol=1e-14)
    np.testing.assert_allclose(matrix(1, reduction="mean", training=None, chunk=2), 2 * X.T @ X / 3, rtol=1e-14)


def test_callables_that_are_pytrees_with_functions_in_them():
    np.testing.assert_allclose(hessian(Jitted(quartic), jnp.ones(2)).dense(), 12 * np.eye(2), rtol=1e-15)
    module = Layer(jnp.ones(2), jnp.square)
    arrays, static = Layer(module.weight, None), Layer(None, module.activation)

    def loss(arrays, static, x):
        return jnp.mean(Layer(arrays.weight, static.activation).activation(x @ arrays.weight))

    np.testing.assert_allclose(hessian(loss, arrays, static, X).dense(), 2 * X.T @ X / 3, rtol=1e-14)
    with pytest.raises(TypeError, match=r"activation.*floating point"):
        hessian(lambda module: quartic(module.weight), module)


@pytest.mark.parametrize(
    "loss, words",
    [
        (lambda p: p[:1] ** 2, r"float64\[1\], expected one real number"),
        (lambda p: jnp.sum(p > 0), r"int64\[\], expected one real number"),
        (lambda p: jnp.all(p > 0), r"bool\[\], expected"),
        (lambda p: jnp.sum(p * 1j), r"complex128\[\], expected"),
        (lambda p: None, "None, expected"),
        (lambda p: {"loss": quartic(p)}, "'loss'.*expected one real number"),
        (lambda p: float(jnp.sum(p)), "cannot trace"),
        (lambda p: quartic(p) if p[0] > 0 else 0.0, "cannot trace"),
        (lambda p: jax.lax.while_loop(lambda x: x < 9, lambda x: x * x, jnp.sum(p)), "scan"),
        (lambda p: jax.pure_callback(np.sum, jax.ShapeDtypeStruct((), p.dtype), p), "cannot differentiate"),
        (3.0, "cannot be called"),
    ],
)
def test_what_has_no_hessian_is_refused_at_once(loss, words):
    with pytest.raises(TypeError, match=words):
        hessian(loss, jnp.ones(2))


@jax.jit
def product(matrix, v):
    return matrix @ v


def of_operator(function):
    return lambda matrix: function(jax.tree_util.Partial(product, matrix), jnp.ones(2))


REFUSED = {
    "static_argnums": (lambda: hessian(jax.jit(power, static_argnums=1), jnp.ones(2), 3), "hessian: a static argument"),
    "static_argnames": (lambda: hessian(jax.jit(power, static_argnames="k"), jnp.ones(2), k=3), "hessian: a static"),
    "key": (
        lambda: hessian(lambda p: quartic(p["w"]), {"w": jnp.ones(2), "k": jax.random.key(0)}),
        r"\['k'\] has dtype key",
    ),
    "grad of trace": (lambda: jax.grad(of_operator(lambda *a: trace(*a).mean))(jnp.eye(2)), "jax.grad does not go"),
    "grad of an error": (
        lambda: jax.grad(of_operator(lambda *a: trace(*a).stderr))(jnp.eye(2)),
        "jax.grad does not go",
    ),
    "grad of diagonal": (
        lambda: jax.grad(of_operator(lambda *a: diagonal(*a).mean[0]))(jnp.eye(2)),
        "jax.grad does not go",
    ),
    "jit of inertia": (lambda: jax.jit(of_operator(lambda *a: inertia(*a).zero))(jnp.eye(2)), "inertia counts"),
    "jit of estimated inertia": (
        lambda: jax.jit(of_operator(lambda *a: inertia(*a, dense_below=0).zero))(jnp.eye(2)),
        "inertia counts",
    ),
}


def power(p, k):
    return jnp.sum(p**k)


@pytest.mark.parametrize("name", REFUSED)
def test_what_jax_cannot_do_is_refused_in_a_sentence(name):
    call, words = REFUSED[name]
    with pytest.raises(TypeError, match=f"^{words}"):
        call()


def test_the_derivative_of_a_trace_along_a_direction_is_the_directions_trace():
    of = of_operator(lambda *a: trace(*a, samples=2).mean)
    assert jax.jvp(of, (jnp.eye(2),), (jnp.diag(jnp.array([1.0, 3.0])),))[1] == 4  # exact for a diagonal matrix
    np.testing.assert_array_equal(hessian(functools.partial(power, k=3), jnp.ones(2)).dense(), 6 * np.eye(2))


@pytest.mark.parametrize("argument", [np.array(["a"]), {1, 2}, bytearray(2)])
def test_arguments_that_are_neither_arrays_nor_static_are_refused_by_place(argument):
    with pytest.raises(TypeError, match=r"args\[1\]"):
        hessian(lambda p, x, other: quartic(p), jnp.ones(2), X, argument)


def test_a_stated_gradient_is_differentiated_in_reverse():
    params = jnp.array([0.5, -2.0])
    op = hessian(lambda p, x: jnp.mean(cubes(x * p) ** 2), params, X)
    plain = hessian(lambda p, x: jnp.mean(jnp.sum((x * p) ** 3, axis=-1) ** 2), params, X)
    assert (op.mode, plain.mode) == ("reverse over reverse", "forward over reverse")
    np.testing.assert_allclose(op.dense(), plain.dense(), rtol=1e-13)
    chunked = hessian(lambda p, x: jnp.mean(cubes(x * p) ** 2), params, X, chunk=2)
    np.testing.assert_allclose(chunked.dense(), plain.dense(), rtol=1e-13)


def test_a_stated_gradient_that_forward_mode_passes_through_stays_in_forward_mode():
    @jax.custom_vjp
    def cube(x):
        return jnp.sum(x**3)

    cube.defvjp(lambda x: (jnp.sum(x**3), x), lambda x, g: (3 * g * x**2,))
    op = hessian(lambda p: cube(p) ** 2, jnp.array([0.5, -2.0]))
    expected = jax.hessian(lambda p: jnp.sum(p**3) ** 2)(jnp.array([0.5, -2.0]))
    np.testing.assert_allclose(op.dense(), expected, rtol=1e-13)


@jax.custom_vjp
def fourths(x):
    """Σ x⁴: no rule for forward mode, but its stated gradient has one, so that products are forward over reverse."""
    return jnp.sum(x**4)


fourths.defvjp(lambda x: (jnp.sum(x**4), x), lambda x, g: (4 * g * x**3,))


def test_a_loss_without_a_forward_rule_whose_gradient_has_one_is_taken_in_chunks_too():
    params, inputs = jnp.array([0.5, -2.0]), jnp.concatenate([X, -2 * X, X + 1])
    zeros = jnp.zeros(len(inputs))
    stated, plain = (lambda f: lambda p, x: f(x @ p) / len(x))(fourths), lambda p, x: jnp.mean((x @ p) ** 4)
    exact = np.asarray(
        jax.hessian(plain)(params, inputs)
    )  # = 12 Σ (x'p)² xx' / 9, and the Gauss-Newton matrix, as x'p is linear
    op = hessian(stated, params, inputs, chunk=2)
    assert op.mode == "forward over reverse"
    linear, of_outputs = lambda p, x: x @ p, lambda outputs, targets: fourths(outputs - targets) / len(targets)
    for found in (op, ggn(linear, of_outputs, params, inputs, zeros, chunk=2)):
        np.testing.assert_allclose(found.dense(), exact, rtol=1e-13)  # tens of roundings of sums over 9 examples
    vectors = jnp.eye(2)
    found, expected = (sampling_error(loss, params, inputs, vectors=vectors, groups=3) for loss in (stated, plain))
    np.testing.assert_allclose(found.mean, np.diag(exact), rtol=1e-13)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-13)
    gradients = np.asarray(4 * (inputs @ params)[:, None] ** 3 * inputs)
    covariance = gradient_covariance(linear, of_outputs, params, inputs, zeros)
    np.testing.assert_allclose(covariance.dense(), np.cov(gradients.T, bias=True), rtol=1e-12)


def test_what_is_known_of_a_function_holds_for_its_static_arguments_alone():
    def loss(params, reduction):
        return getattr(jnp, reduction)(params**2)

    np.testing.assert_allclose(hessian(loss, jnp.ones(2), "sum").dense(), 2 * np.eye(2), rtol=1e-15)
    with pytest.raises(TypeError, match=r"float64\[2\]"):
        hessian(loss, jnp.ones(2), "exp")


def test_models_with_a_stated_gradient():
    params = jnp.array([0.5, -2.0])
    stated, plain = (lambda f: lambda p, x: f(x * p)[:, None])(cubes), lambda p, x: jnp.sum((x * p) ** 3, -1)[:, None]
    squared = lambda outputs, targets: 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, -1))  # noqa: E731
    zeros = jnp.zeros((3, 1))
    expected = np.asarray(ggn(plain, squared, params, X, zeros).dense())
    np.testing.assert_allclose(ggn(stated, squared, params, X, zeros).dense(), expected, rtol=1e-13)
    for chunk in (None, 2):
        np.testing.assert_allclose(fisher(stated, "gaussian", params, X, chunk=chunk).dense(), expected, rtol=1e-13)


def test_the_hessian_through_an_ode_solver_is_that_of_the_solution_to_the_solvers_tolerance():
    def loss(decay):
        path = odeint(lambda y, time, decay: -decay * y, jnp.array(2.0), jnp.array([0.0, 1.5]), decay)
        return 0.5 * (path[-1] - 0.3) ** 2

    op = hessian(loss, jnp.array(1.0))
    end, time = 2 * np.exp(-1.5), 1.5  # y(t) = 2 exp(-decay t): ∂²/∂decay² ½(y − 0.3)² = t² y (2y − 0.3)
    assert op.mode == "reverse over reverse"
    # odeint's tolerance is 1.4e-8 a step, of the solution and of its adjoint
    assert float(op(jnp.array(1.0))) == pytest.approx(time**2 * end * (2 * end - 0.3), rel=1e-6)
