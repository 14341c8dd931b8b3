"""Runs in step against the same runs alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvexp import lockstep, programs
from curvexp.host import SMALL
from curvexp.lockstep import hosted, program

traced = []


@program
def scaled(x, factor):
    traced.append(jnp.shape(x))
    return {"product": x * factor, "sum": x.sum()}


@functools.partial(program, static=("power",))
def powered(x, *, power):
    return x**power


@program
def drawn(key):
    return jax.random.fold_in(key, 7), jax.random.normal(key, (3,))


@program
def untold(x):
    return jax.pure_callback(lambda v: np.asarray(v) * 2, jax.ShapeDtypeStruct((), np.float32), x)


@functools.partial(hosted, whole=lambda matrix, scale: len(matrix) > SMALL)
def decomposed(matrix, scale):
    if not np.isfinite(matrix).all():
        raise ValueError("not finite")
    return np.linalg.eigh(scale * matrix)


def alone(tasks):
    return [task() for task in tasks]


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_each_run_gets_its_own_row_and_the_program_is_traced_once():
    def task(number):
        x = np.full(5, number, np.float32)
        for _ in range(3):
            x = scaled(x, np.float32(0.5))["product"]
        return x, scaled(x, np.float32(number))

    tasks = [functools.partial(task, number) for number in range(4)]
    wanted = alone(tasks)
    traced.clear()
    found, report = lockstep.go(tasks)
    same(found, wanted)
    assert len(traced) <= 2  # the factor is one object for all, or one a run
    assert report.programs == [("scaled", 4, 4)]
    assert report.alone == {}


def test_runs_of_other_shapes_and_static_arguments_form_programs_of_their_own():
    def task(size, power):
        return powered(np.arange(size, dtype=np.float32), power=power)

    cases = [(3, 1), (3, 2), (4, 1), (3, 1), (4, 1), (3, 2), (3, 2), (5, 1)]
    tasks = [functools.partial(task, *case) for case in cases]
    found, report = lockstep.go(tasks)
    same(found, alone(tasks))
    assert sorted(report.programs) == [("powered", 2, 1), ("powered", 2, 1), ("powered", 3, 1)]


def test_a_run_that_ends_early_leaves_the_others_program_as_it_is():
    def task(number):
        x = np.float32(number)
        for _ in range(number + 1):
            x = scaled(x, np.float32(2.0))["product"]
        return x

    tasks = [functools.partial(task, number) for number in range(4)]
    found, report = lockstep.go(tasks)
    assert [float(x) for x in found] == [number * 2.0 ** (number + 1) for number in range(4)]
    assert report.programs == [("scaled", 4, 4)]


def test_keys_are_stacked_and_handed_out_as_keys():
    def task(number):
        key, first = drawn(jax.random.key(number))
        return first, drawn(key)[1]

    tasks = [functools.partial(task, number) for number in range(3)]
    found, _ = lockstep.go(tasks)
    same(found, alone(tasks))


def test_what_a_program_gives_back_as_it_got_it_is_the_runs_own_object():
    held = program(lambda key, x, shared: (key, x + shared, shared))
    held.__name__ = "held"
    shared, keys = np.float32(2.0), [jax.random.key(number) for number in range(3)]

    def task(number):
        key, x, again = held(keys[number], np.float32(number), shared)
        assert key is keys[number]
        return float(x), float(again)

    found, report = lockstep.go([functools.partial(task, number) for number in range(3)])
    assert found == [(2.0, 2.0), (3.0, 2.0), (4.0, 2.0)]
    assert report.programs == [("held", 3, 1)]


@pytest.mark.parametrize("rows", [3, SMALL + 1])
def test_hosted_functions_are_shared_by_the_cores_and_give_what_they_give_alone(rows):
    matrices = np.random.default_rng(0).standard_normal((5, rows, rows))
    matrices[3] = np.nan

    def task(number):
        values, vectors = decomposed(matrices[number] + matrices[number].T, 2.0)
        return scaled(np.float32(values[0]), np.float32(1.0))["product"], values, vectors

    found, report = lockstep.go([functools.partial(task, number) for number in range(5)])
    assert isinstance(found[3], ValueError)
    for number in (0, 1, 2, 4):
        same(found[number], task(number))
    assert report.programs == [("scaled", 4, 1)]


def test_what_does_not_fit_the_memory_is_made_in_parts():
    def task(number):
        return scaled(np.full(1000, number, np.float32), np.float32(number))

    tasks = [functools.partial(task, number) for number in range(5)]
    found, report = lockstep.go(tasks, memory=25_000)  # two rows, in and out
    same(found, alone(tasks))
    assert report.programs == [("scaled", 5, 1)]


@pytest.mark.parametrize(("runs", "cores"), [(8, 2), (13, 3), (13, 64)])
@pytest.mark.parametrize("memory", [np.inf, 25_000])
def test_the_cores_share_a_programs_rows(monkeypatch, runs, cores, memory):
    """Uneven parts too, and parts of what does not fit the memory: 13 rows on 3 cores are 3 x 5, two of which nobody reads."""
    sizes, compiled = set(), lockstep._compile
    monkeypatch.setattr(lockstep, "_cores", lambda: cores)
    programs.release()
    monkeypatch.setattr(lockstep, "_compile", lambda *args: sizes.add(args[4]) or compiled(*args))

    def task(number):
        key, first = drawn(jax.random.key(number))
        x = np.full(500, number, np.float32)
        for _ in range(number % 3 + 1):  # some end early
            x = scaled(x, np.float32(0.5))["product"]
        return first, drawn(key)[1], x

    tasks = [functools.partial(task, number) for number in range(runs)]
    found, report = lockstep.go(tasks, memory=memory)
    same(found, alone(tasks))
    assert ("scaled", runs, 3) in report.programs
    if jax.default_backend() == "cpu":
        assert max(sizes) == -(-runs // min(cores, runs // lockstep.LEAST_ROWS))
    assert report.alone == {}


def test_what_cannot_be_vmapped_is_called_run_by_run_and_said_so():
    tasks = [functools.partial(untold, np.float32(number)) for number in range(3)]
    found, report = lockstep.go(tasks)
    assert [float(x) for x in found] == [0.0, 2.0, 4.0]
    assert list(report.alone) == ["untold"]


def test_an_exception_is_its_own_runs_alone():
    def task(number):
        x = scaled(np.float32(number), np.float32(3.0))["product"]
        if number == 1:
            raise ValueError("one")
        return float(scaled(x, np.float32(1.0))["product"])

    found, _ = lockstep.go([functools.partial(task, number) for number in range(3)])
    assert (found[0], found[2]) == (0.0, 6.0)
    assert isinstance(found[1], ValueError)


def test_under_a_trace_and_outside_of_a_lockstep_a_program_is_a_jitted_function():
    x = jnp.arange(3.0)
    same(jax.jit(lambda x: scaled(x, 2.0)["product"])(x), 2 * x)
    same(scaled(x, 2.0)["product"], 2 * x)


@pytest.mark.parametrize("number", [1, 2])
def test_shared_arrays_are_not_stacked(number):
    shared = jnp.ones((4, 4))
    tasks = [functools.partial(product, shared, np.full(4, run, np.float32)) for run in range(number + 1)]
    shapes.clear()
    found, _ = lockstep.go(tasks)
    same(found, alone(tasks))
    assert shapes[0] == ((4, 4), (4,))


shapes = []


@program
def product(matrix, vector):
    shapes.append((matrix.shape, vector.shape))
    return matrix @ vector
