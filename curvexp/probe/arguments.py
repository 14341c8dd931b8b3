"""Checks of a probe's arguments, against the problem and the memory too."""

import jax
from jaxtyping import PyTree

from curvexp import memory
from curvexp.curvature.chunks import checked as check_chunks
from curvexp.errors import ConfigError
from curvexp.linalg.eigenpairs import basis_size
from curvexp.linalg.lapack import x64
from curvexp.linalg.layout import LARGE, devices_of
from curvexp.linalg.precision import full_precision
from curvexp.numeric import is_number
from curvexp.problem import Problem

PAIRS = 5  # from each end, where nothing is said


MOST_PAIRS = 64  # from each end, where `above` asks for ever more: a basis of four times as many vectors


GROUPS = 20  # of a sample's examples, from whose spread the sampling error is told


def checked_pairs(k: int | None) -> int:
    if k is not None:
        check_count("k", k)
    return PAIRS if k is None else k


def check_tolerance(tol: object) -> None:
    if not is_number(tol) or not 0 < tol < 1:
        raise ConfigError(f"probe.tol={tol}: expected a number in (0, 1), the relative residual. Change probe.tol.")


def check_pairs(k: int | None, size: int) -> None:
    if k is not None and k > size:
        raise ConfigError(
            f"probe.k={k}: expected 1 <= k <= {size}, the number of parameters. Lower probe.k, or choose probe=exact."
        )


def check_basis(pairs: int, size: int, problem: Problem) -> None:
    """Refuses a Krylov basis, held twice at a restart, that the memory has no place for; devices that are no part of the CPU have each
    its own."""
    rows = min(size, basis_size(pairs, size))
    what = f"a Krylov basis of {rows} vectors of {size} parameters, twice at a restart,"
    memory.check("probe.k", pairs, what, basis_bytes(pairs, size, problem.data), "Lower probe.k, or choose probe=off.")


def basis_bytes(pairs: int, size: int, placed: PyTree) -> float:
    """Of a Krylov basis, twice: on each of the devices that the arrays of `placed` lie on."""
    rows, itemsize = min(size, basis_size(pairs, size)), 8 if x64() else 4
    devices = 1 if jax.default_backend() == "cpu" or size <= LARGE else devices_of(placed)
    return 2 * rows * size * itemsize / devices


def check_data(problem: Problem, samples: int | None, chunk: int | None) -> None:
    """Refuses a part of the examples where there are none, or where batch statistics couple them."""
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value is None:
            continue
        if problem.examples is None:
            raise ConfigError(f"probe.{name}={value}: problem={problem.name} has no examples. Set probe.{name}=null.")
        if name == "samples" and value > problem.examples:
            raise ConfigError(
                f"probe.samples={value}: expected at most {problem.examples}, the training examples. Lower probe.samples."
            )
        groups = problem.batchnorm.ghost if problem.batchnorm else None
        if problem.batchnorm and (groups is None or value % groups):
            raise ConfigError(
                f"probe.{name}={value}: batch normalization ({problem.batchnorm}) couples the examples of a batch, so that a part of "
                f"them has another loss. Set probe.{name}=null, or choose preprocess.mode=ghost with preprocess.ghost a divisor of "
                f"probe.{name}."
            )
        try:  # a person's loss may couple examples too
            params = full_precision(problem.init)(jax.random.key(0))
            check_chunks(jax.tree_util.Partial(problem.loss), params, (problem.data,), value, name=f"probe.{name}")
        except ValueError as error:
            raise ConfigError(str(error)) from None


def check_optional_count(key: str, value: object, *, least: int = 1) -> None:
    if value is not None:
        check_count(key, value, least=least)


def check_count(key: str, value: object, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
        raise ConfigError(f"probe.{key}={value}: expected an integer from {least} to 10^9. Change probe.{key}.")
