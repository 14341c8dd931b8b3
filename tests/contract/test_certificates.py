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
from curvexp.training import over_all_data

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


def multiplied(matrix, v):
    return matrix @ v


@pytest.mark.filterwarnings(
    "ignore:the operator is not symmetric"
)  # to XLA: of what vanishes, each product loses another part
@pytest.mark.parametrize("traced", [False, True])
def test_no_certificate_where_numbers_vanish_under_the_smallest_normal_one(traced):
    random = np.random.default_rng(0).standard_normal((60, 60))
    matrix = (random + random.T) / 2  # its norm is 10
    exact = np.linalg.eigvalsh(matrix)[[0, 1, -2, -1]]

    def solved(matrix):
        return eigsh(jax.tree_util.Partial(multiplied, matrix), jnp.zeros(60), k=4, which="BE")

    solve = jax.jit(lambda matrix: solved(matrix)) if traced else solved
    for scale in (1e-30, 1e-34, 1e-35, 1e-36, 1e-37, 1e-38):
        found = solve(jnp.asarray(scale * matrix, jnp.float32))
        assert bool(found.converged) == (
            scale >= 1e-34
        )  # 60·1.2e-38, what vanishes, is 7e-4 of the norm there, and tol is 1e-3
        if found.converged:
            assert (np.abs(np.asarray(found.eigenvalues, float) - scale * exact) <= np.asarray(found.residuals)).all()
    assert "power of two" in found._replace(status=int(found.status)).message
    assert solve(jnp.zeros((60, 60))).converged
    vanishing = jax.tree_util.Partial(multiplied, jnp.asarray(1e-38 * matrix, jnp.float32))
    counts = curvexp.inertia(vanishing, jnp.zeros(60))
    assert (counts.positive, counts.negative, counts.zero) == (0, 0, 60)  # none is told from zero
    assert spectral_density(vanishing, jnp.zeros(60), probes=2, steps=5).negative == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_of_a_density_that_is_not_finite_is_one(bad):
    found = spectral_density(curvexp.hessian(lambda p, s: s * jnp.sum(p**2), jnp.ones(50), bad), probes=3, steps=5)
    for name in ("mean", "mean_stderr", "square", "square_stderr", "negative", "negative_stderr"):
        assert np.isnan(getattr(found, name)), name
    assert np.isnan(found.density).all()
    with pytest.raises(ValueError, match="not finite"):
        curvexp.inertia(curvexp.hessian(lambda p, s: s * jnp.sum(p**2), jnp.ones(50), bad), dense_below=0)


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
        lambda: jax.grad(lambda params: eigsh(curvexp.hessian(loss, params, x, y), k=2).eigenvalues.sum())(params),
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


def times(matrix, v):
    return matrix @ v


def rotated(values, seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    matrix = (q * values) @ q.T
    return (matrix + matrix.T) / 2


def random_matrix(kind, n, seed):
    g = np.random.default_rng(seed).standard_normal((n, n))
    return {
        "wigner": lambda: (g + g.T) / np.sqrt(2 * n),
        "outliers": lambda: rotated(np.r_[0.01 * g[0, 5:], 1, 2, 3, 5, 10], seed),
        "graded": lambda: rotated(np.logspace(-8, 0, n), seed),
        "indefinite": lambda: rotated(np.linspace(-1, 1, n), seed),
    }[kind]()


def within_their_residuals(matrix, found):
    """‖Av − λv‖ and the distance to the nearest eigenvalue are at most what is stated, to LAPACK's own rounding in float64."""
    vectors, values = (np.asarray(part, np.float64) for part in (found.eigenvectors, found.eigenvalues))
    residuals = np.asarray(found.residuals, np.float64)
    true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    nearest = np.abs(np.linalg.eigvalsh(matrix)[:, None] - values).min(axis=0)
    slack = 10 * np.finfo(np.float64).eps * np.abs(matrix).sum(axis=1).max()
    assert (true <= residuals + slack).all(), (true / residuals).max()
    assert (nearest <= residuals + slack).all(), (nearest / residuals).max()  # Parlett 1998, thm 4.5.1


@pytest.mark.parametrize("dtype, tol", [(np.float32, 1e-5), pytest.param(np.float64, 1e-13, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["wigner", "outliers", "graded", "indefinite"])
def test_every_eigenvalue_lies_within_its_residual(kind, dtype, tol, x64):
    for seed in range(6):
        n = (40, 150)[seed % 2]
        matrix = random_matrix(kind, n, seed).astype(dtype)
        matrix = (matrix + matrix.T) / 2
        op, key = jax.tree_util.Partial(times, jnp.asarray(matrix)), jax.random.key(seed)
        found = eigsh(op, jnp.zeros(n, dtype), k=4, which="BE", tol=tol, key=key, max_matvecs=1000)
        within_their_residuals(matrix.astype(np.float64), found)
        norm, eps = np.abs(np.linalg.eigvalsh(matrix)).max(), np.finfo(dtype).eps
        # not inflated: measured, rounding adds 8 to 30 eps‖A‖ here; and a check that forgets its first rows is no asymmetry
        assert found.floor <= 50 * eps * norm
        assert found.asymmetry <= 50 * eps * norm


@pytest.mark.slow
def test_every_eigenvalue_of_larger_matrices_lies_within_its_residual():
    for seed in range(40):
        matrix = random_matrix("wigner", 400, seed).astype(np.float32)
        matrix = (matrix + matrix.T) / 2
        op = jax.tree_util.Partial(times, jnp.asarray(matrix))
        found = eigsh(op, jnp.zeros(400), k=4, which="BE", tol=1e-5, key=jax.random.key(seed))
        within_their_residuals(matrix.astype(np.float64), found)


def rounded(matrix, v):
    """A product that fixes a lower precision by itself."""
    return (matrix @ v.astype(jnp.bfloat16).astype(v.dtype)).astype(jnp.bfloat16).astype(v.dtype)


def test_a_product_that_fixes_a_lower_precision_is_told_by_its_residuals():
    matrix = random_matrix("wigner", 150, 0).astype(np.float32)
    op = jax.tree_util.Partial(rounded, jnp.asarray(matrix))
    for seed in range(3):
        found = eigsh(op, jnp.zeros(150), k=4, which="BE", tol=1e-4, key=jax.random.key(seed))
        within_their_residuals(matrix.astype(np.float64), found)
        assert not found.converged
        assert "noisy products" in found.message
        # bfloat16 rounds by 2^-9 relative, twice; three times that is stated
        assert 2**-10 < found.floor / np.abs(np.linalg.eigvalsh(matrix)).max() < 2**-5
    # a tolerance above the noise is met
    assert eigsh(op, jnp.zeros(150), k=4, which="BE", tol=0.05).converged


def test_a_product_that_differs_from_call_to_call_does_not_converge():
    random = np.random.default_rng(0)
    values = jnp.linspace(-10, 10, 100)

    def product(v):
        noise = jax.pure_callback(
            lambda: random.standard_normal(100).astype(np.float32), jax.ShapeDtypeStruct((100,), np.float32)
        )
        return values * v + 0.3 * noise

    if (
        jax.default_backend() != "cpu"
    ):  # there what does not depend on v is computed once: the noise is a constant, which is no part of A
        found = eigsh(product, jnp.zeros(100), k=3, tol=1e-3)
        np.testing.assert_allclose(found.eigenvalues, values[-3:], atol=1e-2)
        return
    with pytest.warns(RuntimeWarning, match="not symmetric"):
        found = eigsh(product, jnp.zeros(100), k=3, tol=1e-3, max_matvecs=200)
    assert not found.converged
    assert (found.residuals > 0.3 * np.sqrt(100) / 2).all()  # the noise of a product has the length 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    values = jnp.linspace(1, 2, 1000, dtype=np.float32)
    op = jax.tree_util.Partial(times, jnp.ones((300, 300)) / 300)
    estimate = trace(op, jnp.zeros(300, dtype), samples=300)
    assert estimate.mean.dtype == np.float32
    assert 0 < estimate.stderr < 0.2  # √(2/300) = 0.08; 300·299 is no float16
    assert abs(estimate.mean - 1) < 4 * estimate.stderr
    # what the domain's dtype takes off the vectors stands in the residual: its eps is 2^-8 or 2^-11
    found = eigsh(lambda v: values * v, jnp.zeros(1000, dtype), k=2, tol=0.05)
    nearest = np.abs(np.asarray(found.eigenvalues)[:, None] - np.asarray(values)).min(axis=1)
    assert (nearest <= found.residuals).all()
    assert (found.eigenvalues > 2 * (1 - 2 * 0.05)).all()  # the two at the top, to the tolerance

    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["a"]) ** 2) * p["b"]

    params, x = {"a": jnp.arange(3, dtype=dtype) / 4, "b": jnp.ones((), np.float32)}, jnp.arange(6.0).reshape(2, 3) / 8
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    exact, found = curvexp.hessian(loss, wide, x), curvexp.hessian(loss, params, x)
    np.testing.assert_array_equal(found.dense(), exact.dense())
    np.testing.assert_array_equal(found(params)["a"], exact(wide)["a"])  # a vector in the parameters' own dtype


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_in_half_precision_measures_its_curvature_in_float32_and_says_so(mixed):
    x = jax.random.normal(jax.random.key(0), (20, 3))

    def init(key):
        return {
            "a": jax.random.normal(key, (3, 2), jnp.bfloat16),
            "b": jnp.ones(2, np.float32 if mixed else jnp.bfloat16),
        }

    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - 1) ** 2)

    own = problems.Problem(name="own", init=init, loss=loss, data=x, examples=20)
    last = list(curvexp.run(own, optim.sgd(lr=0.01), probe.exact(), steps=2, key=jax.random.key(1)))[-1]
    assert last.state.params["a"].dtype == jnp.bfloat16
    assert last.reading.extra["upcast"] == "bfloat16 measured in float32"
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), last.state.params)
    exact = np.linalg.eigvalsh(np.asarray(curvexp.hessian(loss, wide, x).dense(), np.float64))
    np.testing.assert_allclose(
        last.reading.eigenvalues, exact, rtol=1e-5, atol=1e-6
    )  # float32 rounding of two programs


def mirrored(mirror, values, v):
    """A = QDQ with Q = I − 2uu'."""
    v = values * (v - 2 * mirror * jnp.vdot(mirror, v))
    return v - 2 * mirror * jnp.vdot(mirror, v)


def with_values(values):
    mirror = np.random.default_rng(0).standard_normal(len(values))
    return jax.tree_util.Partial(
        mirrored, jnp.asarray(mirror / np.linalg.norm(mirror), jnp.float32), jnp.asarray(values, jnp.float32)
    )


@pytest.mark.parametrize("n, dense_below", [pytest.param(3000, 2000, marks=pytest.mark.slow), (60, 2000), (60, 0)])
def test_inertia_of_few_values(n, dense_below):
    for value, counts in ((6.0, (n, 0, 0)), (-6.0, (0, n, 0)), (0.0, (0, 0, n))):
        found = curvexp.inertia(with_values(np.full(n, value)), jnp.zeros(n), dense_below=dense_below, probes=20)
        assert (found.positive, found.negative, found.zero) == counts
        assert found.exact
    values = np.repeat([-1.0, 0.0, 5.0], n // 3)
    found = curvexp.inertia(with_values(values), jnp.zeros(n), dense_below=dense_below, probes=20, floor=1e-4)
    assert found.blur == 0  # three nodes are all there is
    counts = np.array([found.positive, found.negative, found.zero])
    assert (np.abs(counts - n // 3) <= 4 * found.stderr).all()  # four standard errors; 0 where dense


@pytest.mark.parametrize("value", [0.0, 2.0, -1e-20, 1e15])
def test_a_density_of_one_value_is_a_spike_there(value):
    found = spectral_density(with_values(np.full(300, value)), jnp.zeros(300), probes=3, steps=20)
    x, density = np.asarray(found.x, np.float64), np.asarray(found.density, np.float64)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)  # tails beyond four widths
    assert x[density.argmax()] == pytest.approx(value, abs=float(found.width))
    assert np.asarray(found.ended).all()
    assert all(np.isfinite(part).all() for part in (found.stderr, found.mean_stderr, found.square_stderr))
    assert found.mean == pytest.approx(value, rel=1e-5)
    assert np.max(found.stderr) <= 1e-3 * np.max(density)


def test_a_trace_to_a_relative_error_is_off_by_twice_of_it_as_seldom_as_it_states():
    """Two samples to begin with, of which two alike are no small error."""
    values = np.r_[np.full(59, 0.25), 5.0]
    op = jax.tree_util.Partial(times, jnp.asarray(rotated(values, 0), jnp.float32))
    made = jax.jit(jax.vmap(lambda key: trace(op, jnp.zeros(60), samples=2, rtol=0.05, max_samples=2000, key=key)))
    found = made(jax.random.split(jax.random.key(0), 300))
    assert found.matvecs.min() >= 20
    # 6 % of 300 keys, and three deviations of that count
    assert np.mean(np.abs(found.mean - values.sum()) > 0.1 * values.sum()) <= 0.10
