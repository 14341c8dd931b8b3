"""Probes: which curvature is measured at a step, and how exactly.

A probe of your own is one function that returns a `Probe` whose `measure(loss, params, state, key)` gives a `Reading` and the state
that the next call gets (the last eigenvectors, for a warm start).
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from curvexp import memory, theory
from curvexp.curvature import Objective, Operator, hessian, preconditioned, sampling_error
from curvexp.curvature.chunks import checked as check_chunks
from curvexp.errors import ConfigError
from curvexp.linalg import Eigenpairs, Estimate, dense_eigh, eigsh, spectral_density
from curvexp.linalg.eigenpairs import Start, basis_size
from curvexp.linalg.lapack import SMALL, fetch, one_thread, threads, x64
from curvexp.linalg.layout import LARGE, devices_of
from curvexp.linalg.precision import full_precision
from curvexp.numeric import is_number
from curvexp.programs import compiled
from curvexp.quantities import Quantity
from curvexp.record import SURE, Reading

Loss = Any  # an Objective: a function of the parameters over all the training data
PAIRS = 5  # from each end, where nothing is said
MOST_PAIRS = 64  # from each end, where `above` asks for ever more: a basis of four times as many vectors
CHECK_EVERY = 10  # readings
GROUPS = 20  # of a sample's examples, from whose spread the sampling error is told


class Probe(NamedTuple):
    """What is measured of the loss's curvature, and when.

    Attributes:
        name: the option's name.
        measure: (loss, params, state, key) -> (Reading, state). `loss` is a `curvexp.curvature.Objective`, a function of the parameters
            over all the training data: pass it through `jax.jit` as an argument, and one program serves every run. None measures
            nothing.
        every: steps between two readings; the first and the last step are always read.
        state: what `measure` gets at its first call.
        check: (parameters, problem) -> None, raises ConfigError where the probe cannot serve a problem of so many parameters.
        tol: relative residual asked of the sharpness of a preconditioned Hessian.
        check_every: readings between two of which that sharpness is checked for larger eigenvalues that were missed.
        measure_last: measures the last reading of a run in place of `measure`; None: `measure` does.
        quantities: descriptions of the scalars that `measure` adds to those of curvexp, see `curvexp.Quantity`.
        fills: parameters -> whether a reading takes all cores, or much memory, for itself; else rows of `run_many` are read side by side.
    """

    name: str
    measure: Callable[[Loss, Any, Any, Any], tuple[Reading, Any]] | None
    every: int = 100
    state: Any = None
    check: Callable[[int, Any], None] = lambda size, problem: None
    tol: float = 1e-3
    check_every: int = CHECK_EVERY
    measure_last: Callable[[Loss, Any, Any, Any], tuple[Reading, Any]] | None = None
    quantities: tuple[Quantity, ...] = ()
    fills: Callable[[int], bool] = lambda size: size > LARGE


def off() -> Probe:
    """No curvature at all: loss and gradient norm only."""
    return Probe("off", None)


def exact(*, every: int = 100, limit: int = 4000, chunk: int | None = None) -> Probe:
    """All eigenvalues of the dense Hessian, by LAPACK in float64.

    The Hessian itself is computed in the run's precision and is exact to its rounding; its asymmetry, which is rounding alone, enters
    the residuals.

    Args:
        every: steps between readings.
        limit: most parameters it accepts; n parameters take 8n² bytes three times over and n³ operations.
        chunk: examples taken at once; None: all.
    """
    _count("every", every)
    _count("limit", limit)
    _optional("chunk", chunk)

    def check(size: int, problem: Any) -> None:
        if size > limit:
            raise ConfigError(
                f"probe.limit={limit}: probe=exact would need the dense Hessian of {size} parameters, "
                f"{3 * 8 * size**2 / 2**30:.1f} GiB. Choose probe=top, or raise probe.limit."
            )
        memory.check(
            "probe.limit", limit, f"the dense Hessian of {size} parameters", 3 * 8 * size**2, "Choose probe=top."
        )
        _check_data(problem, None, chunk)

    def measure(loss: Loss, params: Any, state: Any, key: Any) -> tuple[Reading, Any]:
        return _dense_reading(loss, params, _hessian(loss, params, chunk)), state

    return Probe("exact", measure, every, None, check, fills=lambda size: size > SMALL)


def top(
    *,
    k: int | None = None,
    which: str = "BE",
    every: int = 100,
    check_every: int = CHECK_EVERY,
    tol: float = 1e-3,
    above: float | None = None,
    samples: int | None = None,
    chunk: int | None = None,
    dense_below: int = 200,
) -> Probe:
    """The k largest and the k smallest eigenvalues, by block Krylov-Schur with residual bounds, warm-started from the last reading.

    Args:
        k: eigenpairs from each end; None: five, or all where there are fewer.
        which: BE, both ends; LA, the largest alone, in fewer products.
        every: steps between readings.
        check_every: readings between two that are checked in full for what the warm start missed; the first and the last always are. The
            others are marked as unchecked.
        tol: residual ‖Hv − λv‖ asked for, relative to ‖H‖.
        above: k is doubled, and stays so, while the smallest of the k largest stands above this, up to MOST_PAIRS, half of the
            spectrum, and what the memory holds a basis for; None: k it is.
        samples: examples, drawn anew at each reading, whose Hessian is measured, its sampling error beside it; None: all of them.
        chunk: examples taken at once; None: all. The same numbers in less memory.
        dense_below: up to this many parameters (or where 2k cover them all) the whole spectrum is computed densely: it costs less.
    """
    pairs = _pairs(k)
    if which not in ("BE", "LA"):
        raise ConfigError(f"probe.which={which}: expected BE (both ends) or LA (the largest). Change probe.which.")
    ends = 2 if which == "BE" else 1
    _count("every", every)
    _count("check_every", check_every)
    _tolerance(tol)
    _optional("samples", samples, least=2 * GROUPS)
    _optional("chunk", chunk)
    _count("dense_below", dense_below, least=0)
    if above is not None and not (is_number(above) and math.isfinite(above) and above > 0):
        raise ConfigError(
            f"probe.above={above}: expected a positive number, an eigenvalue, or null. Change probe.above."
        )

    def check(size: int, problem: Any) -> None:
        _check_pairs(k, size)
        _check_data(problem, samples, chunk)
        if size > max(dense_below, ends * pairs):
            _check_basis(ends * pairs, size, problem)

    def measure(loss: Loss, params: Any, state: Any, key: Any, *, last: bool = False) -> tuple[Reading, Any]:
        size = _size(params)
        part = loss if samples is None else _sample(loss, samples, key)
        op = _hessian(part, params, chunk)
        if size <= max(dense_below, ends * pairs):
            return _sampled(_dense_reading(part, params, op), loss, part, params, None), state
        tracked = _tracked(state, check_every, last)
        found = _extremes(op, pairs, size, which=which, tol=tol, above=above, tracked=tracked, key=key)
        reading = _partial_reading(part, params, found, which)
        return _sampled(reading, loss, part, params, found.eigenvectors), _next_state(tracked, found)

    def fills(size: int) -> bool:
        return size > (SMALL if size <= max(dense_below, ends * pairs) else LARGE)

    last = functools.partial(measure, last=True)
    return Probe("top", measure, every, None, check, tol, check_every, last, fills=fills)


def density(
    *,
    k: int | None = None,
    every: int = 100,
    check_every: int = CHECK_EVERY,
    tol: float = 1e-3,
    vectors: int = 10,
    depth: int = 80,
    chunk: int | None = None,
) -> Probe:
    """The spectral density with its standard error, and the k largest and k smallest eigenvalues one by one.

    Args:
        k, every, check_every, tol, chunk: as for `top`.
        vectors: random vectors of the stochastic Lanczos quadrature. depth: Lanczos steps from each.
    """
    pairs = _pairs(k)
    _count("every", every)
    _count("check_every", check_every)
    _tolerance(tol)
    _count("vectors", vectors, least=2)
    _count("depth", depth)
    _optional("chunk", chunk)

    def check(size: int, problem: Any) -> None:
        _check_pairs(k, size)
        if 2 * pairs >= size:
            raise ConfigError(
                f"probe.k={k}: {2 * pairs} eigenvalues of {size} leave nothing for a density. Lower probe.k, or choose probe=exact."
            )
        _check_data(problem, None, chunk)
        _check_basis(2 * pairs, size, problem)

    def measure(loss: Loss, params: Any, state: Any, key: Any, *, last: bool = False) -> tuple[Reading, Any]:
        op, tracked = _hessian(loss, params, chunk), _tracked(state, check_every, last)
        found = _extremes(op, pairs, op.size, which="BE", tol=tol, above=None, tracked=tracked, key=key)
        reading, kept = _partial_reading(loss, params, found, "BE"), _next_state(tracked, found)
        if kept is None:
            return reading, kept
        rest = fetch(spectral_density(op, probes=vectors, steps=depth, spikes=found, key=key))
        n = op.size
        scalars = {
            **reading.scalars,
            "trace": n * float(rest.mean),
            "trace_stderr": n * float(rest.mean_stderr),
            "negative_share": float(rest.negative),
            "negative_share_stderr": float(rest.negative_stderr),
            "hvps": reading.scalars["hvps"] + int(rest.matvecs),
        }
        curve = {name: np.asarray(getattr(rest, name), np.float64) for name in ("x", "density", "stderr")}
        return reading._replace(
            scalars=scalars, extra={**reading.extra, "density": {**curve, "width": float(rest.width)}}
        ), kept

    return Probe("density", measure, every, None, check, tol, check_every, functools.partial(measure, last=True))


def condition_numbers(eigenvalues: Any, *, eps: float) -> dict[str, float]:
    """Condition numbers of a complete spectrum, and what they leave out.

    condition_number = max|λ| / min|λ|, infinite where min|λ| is below the rounding floor n·eps·max|λ|; condition_number_positive =
    λmax / smallest eigenvalue above the floor, nan where none is; rank = how many stand above the floor in size; index = how many of them
    are negative.

    Args:
        eigenvalues: all of them, (n,). eps: machine epsilon of the precision that the matrix was computed in.

    Source: Goodfellow et al. 2016, eq. 4.2; the floor is the usual one of numerical rank (LAPACK, numpy.linalg.matrix_rank).
    """
    values = np.asarray(eigenvalues, np.float64)
    sizes = np.abs(values)
    floor = theory.rounding_floor(values, eps=eps)
    positive = values[values > floor]
    return {
        "condition_number": float(sizes.max() / sizes.min()) if sizes.min() > floor else math.inf,
        "condition_number_positive": float(positive.max() / positive.min()) if len(positive) else math.nan,
        "floor": floor,
        "below_floor": int((sizes <= floor).sum()),
        "rank": int((sizes > floor).sum()),
        "index": int((values < -floor).sum()),
    }


def condition_number_bound(eigenvalues: Any, residuals: Any) -> float:
    """A lower bound of the condition number max|λ| / min|λ| from some of the eigenvalues; inf where one may be zero.

    Args:
        eigenvalues: (m,). residuals: (m,): some eigenvalue lies within its residual of each.
    """
    sizes, residuals = np.abs(np.asarray(eigenvalues, np.float64)), np.asarray(residuals, np.float64)
    smallest = (sizes + residuals).min()
    return max(1.0, float((sizes - residuals).max() / smallest)) if smallest > 0 else math.inf


def inertia_bounds(eigenvalues: Any, residuals: Any, *, size: int, eps: float, which: str = "BE") -> dict[str, int]:
    """Bounds of the index (negative eigenvalues) and of the rank of an n x n matrix from Ritz values of both of its ends.

    By interlacing at least as many eigenvalues are negative (positive) as Ritz values are: index_low counts those below −n·eps·max|λ|, and
    rank_low those beyond it on either side. Where the lower end reaches up to a value that its residual keeps positive, and the solver
    missed none of that end, what lies above is positive too: then index_high counts what lies below; else it is n less the positive ones.
    Some eigenvalues alone never show that another is zero: the rank has no upper bound but n.

    Args:
        eigenvalues: (m,), ascending, the m//2 smallest and the largest (BE), or the largest alone (LA). residuals: (m,). size: n.
        eps: the products' machine epsilon.

    Returns:
        index_low, index_high, rank_low; empty where a value is not finite.

    Source: Parlett 1998, thm 10.1.1 (interlacing) and thm 4.5.1.
    """
    values, residuals = np.asarray(eigenvalues, np.float64), np.asarray(residuals, np.float64)
    if not (len(values) and np.isfinite(values).all()):
        return {}
    floor = size * eps * float(np.abs(values).max())
    negative, positive = int((values < -floor).sum()), int((values > floor).sum())
    low = slice(0, len(values) // 2 if which == "BE" else 0)
    sure = values[low] > np.maximum(residuals[low], floor)
    index_high = int((~sure).sum()) if sure.any() else size - positive
    return {"index_low": negative, "index_high": index_high, "rank_low": negative + positive}


def sharpness(op: Operator, *, tol: float, key: Any) -> float:
    """Largest eigenvalue of a Hessian, plain or preconditioned; the largest |λ| where none is positive.

    Up to LARGE parameters it asks for the pairs that `top` asks for where it is told nothing: they share a compiled program, and to compile
    another one takes far longer than the products that it would save.

    Args:
        tol: relative residual.
    """
    if op.size <= LARGE:
        found = solved(op, k=min(2 * PAIRS, op.size), which="BE", tol=tol, check=0, key=key).eigenvalues
    else:
        found = solved(op, k=1, which="LA", tol=tol, key=key).eigenvalues
        if float(found[-1]) <= 0:
            found = solved(op, k=1, which="LM", tol=tol, key=key).eigenvalues
    values = np.asarray(found, np.float64)
    return float(values[-1] if values[-1] > 0 else np.abs(values).max())


def as_rows(vectors: Any) -> np.ndarray:
    """Vectors as a pytree, each leaf with a leading axis m, as rows (m, n) in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(fetch(vectors))]
    return np.concatenate([leaf.reshape(len(leaf), math.prod(leaf.shape[1:])) for leaf in leaves], axis=1)


@compiled
@full_precision
def gradient(loss: Loss, params: Any) -> Any:
    """∇loss at params."""
    return jax.grad(loss)(params)


def _overlaps(loss: Loss, params: Any, eigenvectors: Any) -> Any:
    """⟨v,g⟩²/‖g‖², (m,); of a small space on the host."""
    if _size(params) > LARGE:
        return _overlaps_on_device(loss, params, eigenvectors)
    found = fetch(gradient(loss, params))
    flat = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(found)])
    with one_thread(True), np.errstate(invalid="ignore", over="ignore"):
        energy = flat @ flat
        return (as_rows(eigenvectors) @ flat) ** 2 / (energy if energy > 0 else 1)


@compiled
@full_precision
def _overlaps_on_device(loss: Loss, params: Any, eigenvectors: Any) -> Any:
    gradient = jax.grad(loss)(params)
    energy = optax.tree.vdot(gradient, gradient)
    return jax.vmap(lambda v: optax.tree.vdot(v, gradient) ** 2)(eigenvectors) / jnp.where(energy > 0, energy, 1)


@compiled
@full_precision
def _dense(loss: Loss, params: Any, operator: Operator) -> tuple[Any, Any]:
    """The matrix (n, n) and the gradient (n,)."""
    return operator.dense(), ravel_pytree(jax.grad(loss)(params))[0]


def _hessian(loss: Any, params: Any, chunk: int | None) -> Operator:
    return hessian(loss, params) if chunk is None else hessian(loss.loss, params, loss.data, chunk=chunk)


def undivided(op: Operator) -> Operator:
    """The operator in the form that a preconditioned one has, P = 1: to divide by 1 is exact.

    `eigsh` then has one program for the Hessian and for the preconditioned one, of which it would take seconds to compile a second. In a
    large space, where products take longer than that, the operator as it is.
    """
    if op.size > LARGE:
        return op
    return preconditioned(op, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), op.like))


def _sample(loss: Objective, samples: int, key: Any) -> Objective:
    """The loss over examples drawn without replacement."""
    count = len(jax.tree.leaves(loss.data)[0])
    chosen = jax.random.choice(key, count, (samples,), replace=False)
    return loss._replace(data=jax.tree.map(lambda leaf: leaf[chosen], loss.data))


class Tracked(NamedTuple):
    """Eigenpairs that are followed from reading to reading.

    Attributes:
        readings: made so far. start: what the last one left to start from, or None. full: whether this one is checked in full.
    """

    readings: int
    start: Start | None
    full: bool


def _tracked(state: Any, check_every: int, last: bool) -> Tracked:
    """Of the state that a probe gets, `_next_state`'s."""
    readings = state["readings"] if state else 0
    start = Start(state["eigenvectors"], state["scout"]) if state else None
    return Tracked(readings, start, last or readings % check_every == 0)


def _next_state(tracked: Tracked, found: Eigenpairs) -> dict[str, Any] | None:
    """What the next reading starts from, in dicts and arrays alone, as a checkpoint keeps them; None where nothing was found.

    A full check adds nothing to it, unless it finds what was missed: a run to which steps are added goes on as if it had not ended.
    """
    if not np.isfinite(found.eigenvalues).all():
        return None
    return {"readings": tracked.readings + 1, "eigenvectors": found.eigenvectors, "scout": found.scout}


def _extremes(
    op: Operator, pairs: int, size: int, *, which: Any, tol: float, above: float | None, tracked: Tracked, key: Any
) -> Eigenpairs:
    """`pairs` eigenpairs from each end (BE) or of the largest (LA), more where `above` or the last reading asks for them."""
    op = undivided(op)
    made, ends, start = 0, 2 if which == "BE" else 1, tracked.start
    check: Literal["full"] | None = "full" if tracked.full else None
    if above is not None and start is not None:
        pairs = max(pairs, len(jax.tree.leaves(start.eigenvectors)[0]) // ends)
    while True:
        found = solved(op, k=ends * pairs, which=which, tol=tol, start=start, check=check, key=key)
        made += int(found.matvecs)
        grows = above is not None and found.converged and float(found.eigenvalues[-pairs]) > above
        if (
            not grows
            or 2 * ends * pairs >= size
            or 2 * pairs > MOST_PAIRS
            or _basis_bytes(2 * ends * pairs, size, op) > memory.device()
        ):
            return found._replace(matvecs=made)
        pairs, start = 2 * pairs, found.start


def chance(missed: Any) -> float:
    """A probability of Eigenpairs as it is recorded, in six digits: 1 bounds any that was not checked."""
    return 1.0 if math.isnan(missed) else float(f"{float(missed):.6g}")


def _partial_reading(loss: Loss, params: Any, found: Eigenpairs, which: str) -> Reading:
    values, residuals = np.asarray(found.eigenvalues, np.float64), np.asarray(found.residuals, np.float64)
    below, over = np.asarray(found.missed_ends)
    missed = {"lambda_max_missed": chance(over), **({"lambda_min_missed": chance(below)} if which == "BE" else {})}
    missed["eigenvalues_missed"] = chance(found.missed)
    return Reading(
        eigenvalues=values,
        residuals=residuals,
        gradient_overlaps=np.asarray(_overlaps(loss, params, found.eigenvectors), np.float64),
        complete=False,
        scalars={
            "lambda_max": values[-1],
            "lambda_max_residual": residuals[-1],
            **({"lambda_min": values[0], "lambda_min_residual": residuals[0]} if which == "BE" else {}),
            "condition_number_bound": condition_number_bound(values, residuals),
            **inertia_bounds(values, residuals, size=_size(params), eps=eps_of(params), which=which),
            **missed,
            "hvps": int(found.matvecs),
        },
        extra={"unchecked": [name.removesuffix("_missed") for name, value in missed.items() if value > SURE]},
        eigenvectors=found.eigenvectors,
    )


def _sampled(reading: Reading, whole: Any, part: Any, params: Any, eigenvectors: Any) -> Reading:
    """The reading of a sample of the examples, marked as such, with what the sampling makes of its eigenvalues' errors."""
    if part is whole:
        return reading
    count, population = (len(jax.tree.leaves(loss.data)[0]) for loss in (part, whole))
    extra: dict[str, Any] = {**reading.extra, "samples": count, "population": population}
    scalars = dict(reading.scalars)
    if eigenvectors is not None and np.isfinite(reading.eigenvalues).all():
        found = _sampling_error(part, params, eigenvectors, population)
        if found is not None:
            extra["sampling_error"] = np.asarray(found.stderr, np.float64)
            scalars["lambda_max_sampling_error"] = float(found.stderr[-1])
    return reading._replace(scalars=scalars, extra=extra)


def _sampling_error(part: Objective, params: Any, eigenvectors: Any, population: int) -> Estimate | None:
    """From as many groups of the sample as keep ghost batches whole, GROUPS of them where there are none; None where two do not."""
    options = {"vectors": eigenvectors, "population": population}
    count = len(jax.tree.leaves(part.data)[0])
    for groups in (GROUPS, *(groups for groups in range(GROUPS - 1, 1, -1) if count % groups == 0)):
        with contextlib.suppress(ValueError):
            return sampling_error(part.loss, params, part.data, groups=groups, **options)
    return None


def _dense_reading(loss: Loss, params: Any, operator: Operator) -> Reading:
    computed, gradient = fetch(_dense(loss, params, operator))
    if not np.isfinite(computed).all():
        empty = np.full(len(computed), np.nan)
        return Reading(
            empty, empty, None, complete=True, scalars={"lambda_max": math.nan, "lambda_min": math.nan}, extra={}
        )
    values, vectors, residuals = dense_eigh(computed)
    gradient = np.asarray(gradient, np.float64)
    with threads(len(values)), np.errstate(invalid="ignore", over="ignore"):  # of a gradient that is not finite
        overlaps, energy = (vectors.T @ gradient) ** 2, float(gradient @ gradient)
    return Reading(
        eigenvalues=values,
        residuals=residuals,
        gradient_overlaps=overlaps / (energy if energy > 0 else 1.0),
        complete=True,
        scalars={
            "lambda_max": float(values[-1]),
            "lambda_min": float(values[0]),
            **condition_numbers(values, eps=float(jnp.finfo(operator.dtype).eps)),
            "hvps": len(values),
        },
        extra={},
        eigenvectors=vectors,
    )


def solved(op: Operator, **options: Any) -> Eigenpairs:
    """`eigsh`, whose small eigenproblems have one thread of LAPACK where the products are small too: more wait for XLA's."""
    with one_thread(op.size <= LARGE and devices_of(op) == 1):
        return eigsh(op, **options)


def eps_of(params: Any) -> float:
    """Machine epsilon of the precision that the parameters have."""
    return _eps(*{leaf.dtype for leaf in jax.tree.leaves(params)})


@functools.cache
def _eps(*dtypes: Any) -> float:
    return float(jnp.finfo(jnp.result_type(*dtypes)).eps)


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _pairs(k: Any) -> int:
    if k is not None:
        _count("k", k)
    return PAIRS if k is None else k


def _tolerance(tol: Any) -> None:
    if not is_number(tol) or not 0 < tol < 1:
        raise ConfigError(f"probe.tol={tol}: expected a number in (0, 1), the relative residual. Change probe.tol.")


def _check_pairs(k: int | None, size: int) -> None:
    if k is not None and k > size:
        raise ConfigError(
            f"probe.k={k}: expected 1 <= k <= {size}, the number of parameters. Lower probe.k, or choose probe=exact."
        )


def _check_basis(pairs: int, size: int, problem: Any) -> None:
    """Refuses a Krylov basis, held twice at a restart, that the memory has no place for; devices that are no part of the CPU have each
    its own."""
    rows = min(size, basis_size(pairs, size))
    what = f"a Krylov basis of {rows} vectors of {size} parameters, twice at a restart,"
    memory.check("probe.k", pairs, what, _basis_bytes(pairs, size, problem.data), "Lower probe.k, or choose probe=off.")


def _basis_bytes(pairs: int, size: int, placed: Any) -> float:
    """Of a Krylov basis, twice: on each of the devices that the arrays of `placed` lie on."""
    rows, itemsize = min(size, basis_size(pairs, size)), 8 if x64() else 4
    devices = 1 if jax.default_backend() == "cpu" or size <= LARGE else devices_of(placed)
    return 2 * rows * size * itemsize / devices


def _check_data(problem: Any, samples: int | None, chunk: int | None) -> None:
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


def _optional(key: str, value: Any, *, least: int = 1) -> None:
    if value is not None:
        _count(key, value, least=least)


def _count(key: str, value: Any, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
        raise ConfigError(f"probe.{key}={value}: expected an integer from {least} to 10^9. Change probe.{key}.")
