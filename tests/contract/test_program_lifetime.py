"""A program lives as long as what it was compiled for, and no longer than there is room: arrays go, maps are bounded, sweeps end."""

import dataclasses
import functools
import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvexp
from curvexp import optim, preprocess, problem, programs

N = 6
LIKE = jnp.zeros(N)
DIAGONAL = jnp.arange(1.0, N + 1)
TRACE = N * (N + 1) / 2  # Hutchinson's estimator is exact for a diagonal matrix


@pytest.fixture(autouse=True)
def own_programs() -> Iterator[None]:
    """No programs at the start; the bounds that held before, at the end."""
    programs.release()
    before = programs.bounds()
    yield
    programs.bounds(**before._asdict())
    programs.release()


def trace(op: Any, like: Any = LIKE) -> float:
    return float(curvexp.trace(op, like, samples=2).mean)


class Scaled:
    """A function that is equal to itself alone, with a method that is one too."""

    def __init__(self, diagonal: Any) -> None:
        self.diagonal = diagonal

    def __call__(self, v: Any) -> Any:
        return self.diagonal * v

    def product(self, v: Any) -> Any:
        return self.diagonal * v


def closure(diagonal: Any) -> Any:
    return lambda v: diagonal * v


def jitted(diagonal: Any) -> Any:
    return jax.jit(lambda v: diagonal * v)


def bound(diagonal: Any) -> Any:
    return functools.partial(lambda d, v: d * v, diagonal)


def hessian(diagonal: Any) -> Any:
    return curvexp.hessian(lambda p: jnp.sum(diagonal * p**2) / 2, LIKE)


def fisher(diagonal: Any) -> Any:
    return curvexp.fisher(lambda p, x: jnp.sqrt(diagonal) * p * x, "gaussian", LIKE, jnp.ones((1, N)))


@pytest.mark.parametrize("make", [closure, jitted, bound, Scaled, lambda d: Scaled(d).product, hessian, fisher])
def test_arrays_that_a_function_captured_go_with_it(make):
    """After each of two calls its array is dead, and no program is kept."""
    kept = programs.count()
    for number in range(2):
        captured = number + DIAGONAL
        gone, op = weakref.ref(captured), make(captured)
        del captured
        assert trace(op) == pytest.approx(TRACE + N * number, rel=1e-6)  # float32, 6 terms
        assert programs.count() > kept
        assert gone() is not None
        del op
        gc.collect()
        assert gone() is None
        assert programs.count() == kept


def test_a_function_that_is_called_again_is_not_compiled_again():
    op = closure(DIAGONAL)
    trace(op)
    made = programs.count()
    assert [trace(op), trace(op)] == pytest.approx([TRACE] * 2, rel=1e-6)
    assert programs.count() == made


def test_functions_that_are_equal_by_value_share_a_program():
    @dataclasses.dataclass(frozen=True)
    class Multiple:
        factor: float

        def __call__(self, v: Any) -> Any:
            return self.factor * v

    assert [trace(Multiple(2.0)) for _ in range(2)] == pytest.approx([2.0 * N] * 2)
    made = programs.count()
    assert trace(Multiple(2.0)) == pytest.approx(2.0 * N)
    assert programs.count() == made


class Loss:
    """Its state is that of its attributes."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def of(self, p: Any) -> Any:
        return jnp.sum(self.scale * p**2) / 2

    def __call__(self, p: Any) -> Any:
        return self.of(p)


def held_by_a_closure(box: Loss) -> Any:
    """A closure whose cell is set anew by `change`."""
    scale = box.scale

    def change(value: Any) -> None:
        nonlocal scale
        scale = value

    box.change = change
    return lambda p: jnp.sum(scale * p**2) / 2


def held_by_an_attribute_of_a_function(box: Loss) -> Any:
    def loss(p: Any) -> Any:
        return jnp.sum(loss.scale * p**2) / 2

    loss.scale = box.scale
    box.change = lambda value: setattr(loss, "scale", value)
    return loss


STATEFUL = {
    "bound method": lambda box: box.of,
    "callable": lambda box: box,
    "closure": held_by_a_closure,
    "attribute of a function": held_by_an_attribute_of_a_function,
    "functools.partial": lambda box: functools.partial(lambda extra, p: box.of(p), None),
    "another function's": lambda box: lambda p: 1.0 * box.of(p),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_loss_whose_arrays_or_numbers_are_others_now_is_compiled_anew(name):
    box = Loss(DIAGONAL)
    loss = STATEFUL[name](box)
    change = getattr(box, "change", functools.partial(setattr, box, "scale"))
    op = curvexp.hessian(loss, LIKE)
    for scale in (DIAGONAL, 5 * DIAGONAL, 2.0, np.full(N, 3.0), 4.0):
        change(scale)
        made = programs.count()
        np.testing.assert_array_equal(op(jnp.ones(N)), np.ones(N) * scale)  # whole numbers: exact
        np.testing.assert_array_equal(curvexp.hessian(loss, LIKE)(jnp.ones(N)), np.ones(N) * scale)
    assert programs.count() == made  # in the place of the old one
    assert trace(op) == pytest.approx(4.0 * N)


def test_a_loss_that_counts_its_calls_is_not_compiled_anew():
    class Counting(Loss):
        calls = 0

        def __call__(self, p: Any) -> Any:
            self.calls += 1
            return self.of(p)

    loss = Counting(2.0)
    loss.calls = 0
    op = curvexp.hessian(loss, LIKE)
    op(LIKE)
    calls = loss.calls
    op(LIKE)
    assert loss.calls == calls
    loss.scale = 3.0
    np.testing.assert_array_equal(op(jnp.ones(N)), np.full(N, 3.0))


def test_operators_with_other_arrays_share_a_program():
    def loss(p: Any, d: Any) -> Any:
        return jnp.sum(d * p**2) / 2

    trace(curvexp.hessian(loss, LIKE, DIAGONAL))
    made = programs.count()
    assert trace(curvexp.hessian(loss, LIKE, 3 * DIAGONAL)) == pytest.approx(3 * TRACE)
    assert programs.count() == made


def maps() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


@functools.partial(programs.compiled, tells=True)
def applied(op: Any, v: Any) -> Any:
    return op(v)


def value(op: Any) -> float:
    return float(applied(jax.tree_util.Partial(op), LIKE + 1).sum())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are told by Linux alone")
@pytest.mark.parametrize("bound", [pytest.param({"programs": 4}, marks=pytest.mark.slow), {"maps": 1}])
def test_programs_and_their_maps_are_bounded(bound):
    """Of 40 programs whose functions live on few stay, and few maps: each has about 3, its code, its constants and its data."""
    programs.bounds(**bound)
    most = bound.get("programs", 17)  # those that stay whatever the maps are
    functions, before = [], maps()
    for number in range(40):
        functions.append(closure(number + DIAGONAL))
        assert value(functions[-1]) == TRACE + N * number
        assert programs.count() <= most
    gc.collect()
    grown = maps() - before
    programs.bounds(programs=1000, maps=np.inf)
    each = maps()
    for function in functions[:10]:
        value(function)
    each = (maps() - each) / 10
    assert each >= 2  # the kernel makes one of neighbours of equal rights
    assert grown < 32 * each  # 40 without a bound; at most `most` and what the allocator gives back late


def test_the_program_used_last_is_the_last_to_go():
    programs.bounds(programs=8)
    first = closure(DIAGONAL)
    value(first)
    others = [closure(number + DIAGONAL) for number in range(20)]
    for other in others:
        value(other)
        made = programs.count()
        value(first)
        assert programs.count() == made  # it was still there


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match=r"programs=0: expected a number of at least 1"):
        programs.bounds(programs=0)


def test_programs_of_several_runs_are_bounded_too():
    programs.bounds(programs=3)
    for size in range(2, 6):
        one = problem.quadratic(preprocess=preprocess.raw(), dtype=jnp.float32, dimension=size)
        runs = [curvexp.Run(one, optim.sgd(lr=lr), 0) for lr in (1e-3, 2e-3)]
        for records in curvexp.run_many(runs, steps=5):
            assert len(records) == 2
        assert programs.count() <= 3


def test_several_threads_call_and_release():
    """Each of 4 threads calls 12 functions, all the same ones in another order, with room for 3 programs."""
    programs.bounds(programs=3)
    functions = [closure(number + DIAGONAL) for number in range(12)]

    def called(thread: int) -> list[float]:
        return [value(functions[(thread * 5 + i) % 12]) - N * ((thread * 5 + i) % 12) for i in range(12)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(called, range(4)))
    assert np.array_equal(found, np.full((4, 12), TRACE))


def test_new_functions_of_one_definition_are_told_once():
    """At the third; not for functions that are called again, and not for Operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = closure(DIAGONAL)
        for number in range(4):
            value(again)
            applied(hessian(number + DIAGONAL), LIKE)
            applied(jax.tree_util.Partial(_multiplied, number + DIAGONAL), LIKE)
        value(closure(2 * DIAGONAL))
    with pytest.warns(RuntimeWarning, match="compiled anew.*pass arrays as arguments"):
        value(closure(3 * DIAGONAL))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(4):
            value(closure(number * DIAGONAL))


def _multiplied(d: Any, v: Any) -> Any:
    return d * v


# ---- under transformations ---------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
A, B = (m + m.T for m in RNG.normal(size=(2, N, N)))


def pairs(s: Any, k: int = 2) -> curvexp.Eigenpairs:
    return curvexp.eigsh(lambda v: A @ v + s * (B @ v), jnp.zeros(N), k=k, tol=1e-10)


def test_a_batch_of_solutions_says_of_each_whether_it_converged(x64):
    found = jax.vmap(pairs)(jnp.arange(2.0))
    assert np.array_equal(found.converged, [True, True])
    with pytest.raises(TypeError, match=r"expected one solution, got \(2,\) of them"):
        _ = found.message
    one = jax.tree.map(lambda a: a[0], found)
    assert one.converged is True
    assert "converged" in one.message
    assert jax.eval_shape(lambda s: pairs(s).converged, 0.0).dtype == bool
    with pytest.raises(TypeError, match="expected a solution's numbers, got tracers"):
        jax.eval_shape(lambda s: pairs(s).message, 0.0)


@pytest.mark.slow
def test_eigenvalues_have_derivatives_in_both_modes(x64):
    """λ' = v'Bv, as of the dense matrix; eigenvectors have one in one mode alone, and say so.

    Tolerance: the residual 1e-10 over gaps of order 1, times a factor of the entries' size, which is up to 3.
    """

    def dense(s: Any) -> Any:
        return jnp.linalg.eigvalsh(A + s * B)[-2:]

    exact = jax.jvp(dense, (0.3,), (1.0,))
    assert np.allclose(jax.jvp(lambda s: pairs(s).eigenvalues, (0.3,), (1.0,)), exact, atol=1e-8)
    found, back = jax.vjp(lambda s: (pairs(s).eigenvalues, pairs(s).eigenvectors), 0.3)
    with pytest.raises(TypeError, match=r"jax\.grad goes through the eigenvalues alone.*Use jax\.jvp"):
        back(found)


def test_the_gradient_of_an_eigenvalue_is_that_of_the_dense_matrix(x64):
    """∂λ/∂A = vv' for a matrix that is an argument; tolerance: the residual 1e-10 over gaps of order 1, times 100."""

    def top(matrix: Any) -> Any:
        op = jax.tree_util.Partial(lambda m, v: (m @ v + m.T @ v) / 2, matrix)
        return curvexp.eigsh(op, jnp.zeros(N), k=1, tol=1e-10).eigenvalues[0]

    _, vectors = np.linalg.eigh(A)
    assert np.allclose(jax.grad(top)(jnp.asarray(A)), np.outer(vectors[:, -1], vectors[:, -1]), atol=1e-8)


# ---- sweeps ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are told by Linux alone")
@pytest.mark.parametrize("launcher", ["basic", "vmap"])
def test_a_sweep_over_shapes_ends(tmp_path, launcher):
    """With room for the maps of two or three shapes, of eight shapes all jobs are recorded, and the table comes."""
    script = f"""
import sys
from pathlib import Path
from curvexp import programs
from curvexp.__main__ import main
programs.bounds(maps=6000)
sys.argv = ["curvexp", "-m", "problem=mlp", "optim=adam", "steps=3", "problem.hidden=[3],[4],[5],[6],[7],[8],[9],[10]", "seed=0,1",
            "hydra/launcher={launcher}", "hydra.sweep.dir={tmp_path}"]
try:
    main()
finally:
    print("maps", len(Path("/proc/self/maps").read_text().splitlines()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("*/summary.json"))) == 16
    assert (tmp_path / "report.html").exists()
    assert int(done.stdout.rsplit("maps", 1)[1]) < 8000  # 13 000 without a bound
