"""The ledger of a run: at each reading, why it is slow, or about to blow up, in figures beside what theory gives for them.

Along each tracked eigendirection v of the operator A that decides stability (the Hessian H; for a method that divides its step by a
diagonal P the preconditioned Hessian P^(-1/2) H P^(-1/2), and then all in the coordinates P^(1/2)θ, where the gradient is P^(-1/2)g):

    gradient_share  ⟨v,g⟩²/‖g‖², the direction's part of the loss that a short step along −g takes away
    loss_along      ½λ⟨v,θ−θ*⟩² where the minimum θ* is known, else ½⟨v,g⟩²/|λ|, what a Newton step along v takes away
    contraction     measured: the factor a step by which the component shrank since the record before
    contraction_theory  |1 − αλ|, or the spectral radius of momentum's 2 x 2 iteration

With momentum the gradient's component oscillates. What is followed is then the dominant mode w's of s = (⟨v,g⟩, ⟨v,m⟩), w from theory's
iteration at the measured λ: on a quadratic it shrinks by the spectral radius in every single step (see `theory.dominant_mode`).
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from curvexp import theory
from curvexp.curvature import Objective, hessian, preconditioned
from curvexp.linalg import dense_eigh
from curvexp.linalg.eigenpairs import Start
from curvexp.linalg.lapack import fetch, threads
from curvexp.linalg.layout import LARGE
from curvexp.linalg.precision import at_least_float32, full_precision, is_half
from curvexp.optim import Optimizer, momentum_of
from curvexp.probe import as_rows, chance, condition_number_bound, condition_numbers, eps_of, solved
from curvexp.programs import compiled
from curvexp.record import Reading

BATCHES = 32  # most minibatches that batch sharpness and tr(HΣ) are taken over; all of them where there are no more
FEWEST_BATCHES = 8  # however large a batch is
LEAST_REST = 1e-4  # of the gradient's energy; less is the float32 rounding of what is tracked
HIDDEN = 100  # a component under so many √n·eps of the whole is rounding


class Past(NamedTuple):
    """What a reading looks back at.

    Attributes:
        step: of the record before. gradient, momentum: there, or None.
        vectors, scout: of the preconditioned Hessian at the last reading, the next one's warm start (see `eigsh`); or None.
        readings: made so far.
    """

    step: Any = None
    gradient: Any = None
    momentum: Any = None
    vectors: Any = None
    scout: Any = None
    readings: int = 0


class Spectrum(NamedTuple):
    """Eigenpairs of the operator that decides stability, as a Reading has them, and the products that they took; those of a preconditioned
    Hessian by products with the next one's scout, and the probabilities that one of them was missed, and one above them."""

    eigenvalues: np.ndarray
    residuals: np.ndarray
    eigenvectors: Any
    complete: bool
    products: int
    scout: Any = None
    missed: Any = None


def enter(
    whole: Objective,
    optimizer: Optimizer,
    reading: Reading,
    past: Past,
    *,
    state: Any,
    hyper: dict[str, float],
    loss: float,
    base: float | None,
    optimum: Any,
    batch_size: int | None,
    tol: float,
    full: bool,
    key: Any,
) -> tuple[dict[str, Any], Reading, Past]:
    """A reading's scalars, the reading with its `ledger`, and what the next one looks back at.

    Args:
        whole: the loss over all training data. reading: from the probe, with eigenvectors where it has them.
        past: of the record before.
        state: of the training: params, opt_state, gradient and step are read. hyper: the numbers of the step that comes.
        loss: over all training data. base: the minimum, or a lower bound of it; None where neither is known.
        optimum: parameters at the minimum, or None.
        batch_size: of the training, None for all examples. tol: relative residual of the preconditioned Hessian's eigenvalues.
        full: whether these are checked in full for what was missed.

    Returns:
        scalars, each None where it has no meaning:
            gradient_curvature g'Hg/g'g, best_lr_gradient g'g/g'Hg; for the step s that comes: change_predicted g's + ½s'Hs,
            change_actual, best_step −g's/s'Hs in multiples of s.
            sharpness, its residual where there is a preconditioner, the probability that a larger one was missed, where not all are
            computed, stability_margin sharpness/threshold.
            effective_condition_number, effective_condition_number_positive, or effective_condition_number_bound: of A, whose top is
            the sharpness, as condition_number and the others are of H.
            gradient_share_tracked: what of the gradient's energy all tracked directions hold. bottleneck_eigenvalue, _loss_share,
            _gradient_share, _contraction, _contraction_theory: of the direction with the most of the loss among those of positive λ;
            top_contraction, top_contraction_theory, bottom_contraction, bottom_contraction_theory: of A's largest and smallest λ.
            rest_gradient_share, rest_curvature, rest_contraction, rest_contraction_theory: where not all directions are tracked, of what
            the gradient has outside them: its share, its mean curvature, the shrinking of its norm, theory's for that curvature.
            batch_sharpness, trace_noise with their _stderr: see `noise`; for minibatches.
            hvps: products with the Hessian over all examples that the whole reading took; one over B of P examples counts B/P.
        reading: extra["ledger"] holds eigenvalues, residuals, gradient_share, loss_along, loss_share, contraction, contraction_theory, each
            (m,), nan where unknown; operator: hessian | preconditioned; loss_from: optimum | model; since: the record measured from.
    """
    params = at_least_float32(state.params)
    batches = draw_batches(whole, batch_size, key) if batch_size is not None else None
    gradient, divisor, forms, ratios, products = _account(
        whole,
        state.params,
        state.gradient,
        state.opt_state,
        batches,
        update=optimizer.transform.update,
        preconditioner=optimizer.preconditioner,
    )
    forms = {name: float(form) for name, form in fetch(forms).items()}
    hvps = reading.scalars.get("hvps", 0) + (2 if divisor is None else 3)
    with np.errstate(all="ignore"):
        scalars = _along(forms)
        if batches is not None:
            (number, size), count = batches.shape, _examples(whole)
            exact = number == _batches(count, size)
            scalars |= _mean("batch_sharpness", ratios, exact) | _mean("trace_noise", products, exact)
            hvps += number * (1 + size / count)
        spectrum = _spectrum(whole, params, reading, divisor, past=past, tol=tol, full=full, key=key)
        hvps += spectrum.products
        scalars |= _stability(spectrum, reading, divisor is not None, hyper, optimizer, eps=eps_of(params))
        if spectrum.eigenvectors is not None and np.isfinite(spectrum.eigenvalues).all():
            directions, used, rest = _directions(
                optimizer, spectrum, gradient, past, state, divisor, hyper, loss, base, optimum
            )
            ledger = {"operator": "hessian" if divisor is None else "preconditioned", **directions}
            if spectrum.missed is not None:
                ledger["missed"] = spectrum.missed[0]
            scalars |= _answers(ledger, lower="lambda_min" in reading.scalars and len(spectrum.eigenvalues) > 1)
            if not spectrum.complete and "samples" not in reading.extra:
                scalars |= _rest(optimizer, ledger, used, rest, forms["ghg_divided"] / forms["gg_divided"])
            reading = reading._replace(extra={**reading.extra, "ledger": ledger})
    scalars["hvps"] = hvps
    keep = spectrum.eigenvectors if divisor is not None and not spectrum.complete else None
    kept = keep if np.isfinite(spectrum.eigenvalues).all() else None
    scout = spectrum.scout if kept is not None else None
    past = Past(state.step, gradient, momentum(optimizer, state), kept, scout, past.readings + 1)
    return _without_nan(scalars), reading._replace(eigenvectors=None), past


def noise(loss: Objective, params: Any, batches: Any) -> tuple[np.ndarray, np.ndarray]:
    """What each minibatch adds to batch sharpness and to tr(HΣ): g_B'H_B g_B/‖g_B‖² and (g_B − g)'H(g_B − g), both (M,).

    Their means over all minibatches are the batch sharpness, E[g_B'H_B g_B/‖g_B‖²], and tr(HΣ) with Σ the covariance of the minibatch
    gradient g_B: a step −αg_B raises the mean loss by ½α² tr(HΣ) over the full-batch step. Examples that do not meet in batch normalization
    give Σ = Σ₁(P − B)/(B(P − 1)), Σ₁ the covariance of a single example's gradient.

    Args:
        loss: over all P examples. batches: indices of the examples in each, (M, B).

    Source: Andreyev, Beneventano 2024 (arXiv:2412.20553); Wu, Ma, E 2018, sec. 2.
    """
    ratios, products = _noise(loss, params, jax.device_put(np.asarray(batches)))
    return np.asarray(ratios, np.float64), np.asarray(products, np.float64)


def momentum(optimizer: Optimizer, state: Any) -> Any:
    """The momentum in a training state, a pytree like the parameters; None where theory's iteration has none."""
    return None if optimizer.iteration is None else momentum_of(state.opt_state)


def draw_batches(loss: Objective, batch_size: int, key: Any, *, most: int = BATCHES) -> Any:
    """Indices of minibatches as the training draws them, without replacement, (M, B): all there are, where they are at most `most`."""
    count = _examples(loss)
    if _batches(count, batch_size) <= most:
        return jax.device_put(np.array(list(itertools.combinations(range(count), batch_size))))
    number = max(min(most, 4 * count // batch_size), FEWEST_BATCHES)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.device_put(np.stack([rng.permutation(count)[:batch_size] for _ in range(number)]))


def _batches(count: int, size: int) -> float:
    """How many minibatches there are; inf where they are more than anyone would take, whose number would cost seconds to compute."""
    return math.comb(count, size) if count <= 100 or size == count else math.inf


def _examples(loss: Objective) -> int:
    return len(jax.tree.leaves(loss.data)[0])


# ---- figures of the whole -------------------------------------------------------------------------------------------------------


def _along(forms: dict[str, float]) -> dict[str, float]:
    """Directional curvature along the gradient, and what the coming step does to the loss beside its Taylor model."""
    gg, ghg, gs, shs = (forms[name] for name in ("gg", "ghg", "gs", "shs"))
    return {
        "gradient_curvature": ghg / gg if gg > 0 else math.nan,
        "best_lr_gradient": float(theory.best_step_along_gradient(gg, ghg)),
        "change_predicted": float(theory.taylor_change(gs, shs)),
        "change_actual": forms["change"],
        "best_step": float(theory.best_step_length(gs, shs)),
    }


def _mean(name: str, values: Any, exact: bool) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    stderr = 0.0 if exact else float(values.std(ddof=1) / math.sqrt(len(values)))
    return {name: float(values.mean()), f"{name}_stderr": stderr}


def _stability(
    spectrum: Spectrum,
    reading: Reading,
    divided: bool,
    hyper: dict[str, float],
    optimizer: Optimizer,
    *,
    eps: float,
) -> dict[str, Any]:
    """Sharpness beside its threshold, and the condition numbers of the operator that it belongs to; nothing where that is not known."""
    scalars: dict[str, Any] = {}
    if optimizer.operator is None:
        return scalars
    if divided:
        scalars = {"sharpness": spectrum.eigenvalues[-1], "sharpness_residual": spectrum.residuals[-1]}
        if spectrum.missed is not None:
            scalars["sharpness_missed"] = spectrum.missed[1]
    elif "lambda_max" in reading.scalars:
        scalars = {"sharpness": reading.scalars["lambda_max"]}
        if "lambda_max_missed" in reading.scalars:
            scalars["sharpness_missed"] = reading.scalars["lambda_max_missed"]
    if optimizer.threshold is not None and "sharpness" in scalars:
        with np.errstate(divide="ignore", invalid="ignore"):  # an lr of a schedule may be infinite, its threshold 0
            margin = np.float64(scalars["sharpness"]) / np.float64(optimizer.threshold(hyper))
        scalars["stability_margin"] = float(margin)
    if len(spectrum.eigenvalues) and np.isfinite(spectrum.eigenvalues).all():
        if spectrum.complete:
            names = ("condition_number", "condition_number_positive")
            known = not divided and all(name in reading.scalars for name in names)
            found = reading.scalars if known else condition_numbers(spectrum.eigenvalues, eps=eps)
            scalars |= {f"effective_{name}": found[name] for name in names}
        elif len(spectrum.eigenvalues) > 1:
            bound = condition_number_bound(spectrum.eigenvalues, spectrum.residuals)
            scalars["effective_condition_number_bound"] = bound
    return scalars


def _answers(ledger: dict[str, Any], *, lower: bool) -> dict[str, float]:
    """Rows of the ledger: the ends (the lower where it was looked for), and of those that curve upwards the one with the most loss."""
    values, columns = ledger["eigenvalues"], ("contraction", "contraction_theory")
    scalars = {"gradient_share_tracked": float(ledger["gradient_share"].sum())}
    scalars |= {
        f"{end}_{name}": ledger[name][row] for end, row in (("top", -1), *[("bottom", 0)] * lower) for name in columns
    }
    along = np.where((values > ledger["residuals"]) & np.isfinite(ledger["loss_along"]), ledger["loss_along"], -np.inf)
    most = int(along.argmax())
    if along[most] > -np.inf:
        names = ("loss_share", "gradient_share", *columns)
        scalars |= {"bottleneck_eigenvalue": values[most]} | {
            f"bottleneck_{name}": ledger[name][most] for name in names
        }
    return scalars


def _rest(
    optimizer: Optimizer, ledger: dict[str, Any], used: dict[str, Any], shrinking: float, curvature: float
) -> dict[str, float]:
    """What the gradient has outside the tracked directions, from its Rayleigh quotient `curvature`."""
    share = 1 - float(ledger["gradient_share"].sum())
    if not share > LEAST_REST:
        return {}
    outside = (curvature - float(ledger["gradient_share"] @ ledger["eigenvalues"])) / share
    predicted, iteration = _predicted(optimizer, used, np.array([outside]))
    return {
        "rest_gradient_share": share,
        "rest_curvature": outside,
        "rest_contraction": shrinking,
        # momentum's rate is no function of a mean curvature, and the norm of a gradient is not its mode's
        "rest_contraction_theory": float(predicted[0]) if iteration.shape[-1] == 1 else math.nan,
    }


def _without_nan(scalars: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value if value is None else _plain(value)
        for name, value in scalars.items()
    }


def _plain(value: Any) -> float | int:
    return value if isinstance(value, int | float) else float(value)


# ---- the operator that decides stability ----------------------------------------------------------------------------------------


def _spectrum(
    whole: Objective, params: Any, reading: Reading, divisor: Any, *, past: Past, tol: float, full: bool, key: Any
) -> Spectrum:
    """The reading's own eigenpairs; or as many of the preconditioned Hessian, from the reading's dense Hessian where it has one."""
    values, residuals = reading.eigenvalues, reading.residuals
    if divisor is None:
        return Spectrum(values, residuals, reading.eigenvectors, reading.complete, 0)
    if reading.complete and isinstance(reading.eigenvectors, np.ndarray) and "samples" not in reading.extra:
        roots = np.sqrt(np.asarray(ravel_pytree(divisor)[0], np.float64))
        with threads(len(values)):
            matrix = (reading.eigenvectors * values) @ reading.eigenvectors.T / np.outer(roots, roots)
        if not np.isfinite(matrix).all():
            return Spectrum(np.full_like(values, np.nan), np.full_like(values, np.nan), None, True, 0)
        found, vectors, errors = dense_eigh((matrix + matrix.T) / 2)
        return Spectrum(found, errors, vectors, True, 0)
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    k = (
        min(len(values), n)
        if reading.eigenvectors is not None and not isinstance(reading.eigenvectors, np.ndarray)
        else 1
    )
    op = preconditioned(hessian(whole, params), divisor)
    both = k > 1 and "lambda_min" in reading.scalars
    start = None if past.vectors is None else Start(past.vectors, past.scout)
    check = "full" if full or start is None else None
    pairs = solved(op, k=k, which="BE" if both else "LA", tol=tol, start=start, check=check, key=key)
    values, residuals = np.asarray(pairs.eigenvalues, np.float64), np.asarray(pairs.residuals, np.float64)
    missed = (chance(pairs.missed), chance(np.asarray(pairs.missed_ends)[1]))
    return Spectrum(values, residuals, pairs.eigenvectors, False, int(pairs.matvecs), pairs.scout, missed)


# ---- figures of each direction --------------------------------------------------------------------------------------------------


def _directions(
    optimizer: Optimizer,
    spectrum: Spectrum,
    gradient: Any,
    past: Past,
    state: Any,
    divisor: Any,
    hyper: dict[str, float],
    loss: float,
    base: float | None,
    optimum: Any,
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The ledger's columns, each (m,); the numbers of the steps that they look back on; the shrinking of what is not tracked."""
    m = momentum(optimizer, state)
    before = (past.gradient, past.momentum) if past.step is not None else (gradient, m)
    vectors = {"gradient": gradient, "momentum": m, "gradient_before": before[0], "momentum_before": before[1]}
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    found, norms = _project(spectrum.eigenvectors, given, state.params, optimum, divisor)
    values = spectrum.eigenvalues
    eps = eps_of(at_least_float32(state.params))
    floor = theory.rounding_floor(values, eps=eps) if spectrum.complete else spectrum.residuals
    if optimum is not None:
        along = 0.5 * values * found["offset"] ** 2
    else:
        certain = np.where(np.abs(values) > floor, np.abs(values), np.nan)
        along = 0.5 * found["gradient"] ** 2 / certain
    total = loss - base if base is not None and loss > base else math.nan
    steps = 0 if past.step is None else int(state.step) - int(past.step)
    used: dict[str, Any] = optimizer.hyper_before(state.opt_state, steps) if steps else dict(hyper)
    predicted, iteration = _predicted(optimizer, used, values)
    measured, rest = np.full(len(values), np.nan), math.nan
    if steps:
        ends = [_modes(iteration, found, norms, suffix, state.params) for suffix in ("_before", "")]
        measured = np.exp(np.log(ends[1] / ends[0]) / steps)
        left = [norms[name] ** 2 - (found[name] ** 2).sum() for name in ("gradient_before", "gradient")]
        rest = float((left[1] / left[0]) ** (0.5 / steps)) if min(left) > 0 else math.nan
    columns = {
        "since": int(past.step) if steps else None,
        "loss_from": "model" if optimum is None else "optimum",
        "eigenvalues": values,
        "residuals": spectrum.residuals,
        "gradient_share": (found["gradient"] / norms["gradient"]) ** 2,
        "loss_along": along,
        "loss_share": along / total,
        "contraction": measured,
        "contraction_theory": predicted,
    }
    return columns, used, rest


def _predicted(optimizer: Optimizer, used: dict[str, Any], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Theory's contraction, the geometric mean over the steps of these numbers, (m,), and the iteration at their mean lr, (m, d, d)."""
    if optimizer.iteration is None:
        return np.full(len(values), np.nan), np.zeros((len(values), 1, 1))
    lr = np.atleast_1d(used[optimizer.lr_name])
    each = optimizer.iteration({**used, optimizer.lr_name: lr[:, None]}, values)
    iteration = optimizer.iteration({**used, optimizer.lr_name: float(lr.mean())}, values)
    return np.exp(np.log(theory.iteration_contraction(each)).mean(axis=0)), iteration


def _modes(
    iteration: np.ndarray, found: dict[str, np.ndarray], norms: dict[str, float], suffix: str, params: Any
) -> np.ndarray:
    """Size of each direction's dominant mode, (m,); nan where the rounding of the whole hides it."""
    gradient, momentum = found[f"gradient{suffix}"], found.get(f"momentum{suffix}")
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    floor = HIDDEN * math.sqrt(n) * eps_of(params) * norms[f"gradient{suffix}"]
    if iteration.shape[-1] == 2 and momentum is not None:
        sizes = theory.dominant_mode(iteration, np.stack([gradient, momentum], axis=-1))
    else:
        sizes = np.abs(gradient)
    return np.where(sizes > floor, sizes, np.nan)


def _project(
    eigenvectors: Any, vectors: dict[str, Any], params: Any, optimum: Any, divisor: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Components along each eigenvector, (m,), and norms, in the coordinates P^(1/2)θ: of `vectors` as gradients, and of the way from the
    optimum, where it is known, as `offset`."""
    if not isinstance(eigenvectors, np.ndarray) and sum(leaf.size for leaf in jax.tree.leaves(params)) <= LARGE:
        eigenvectors, vectors, params, optimum, divisor = fetch((eigenvectors, vectors, params, optimum, divisor))
        eigenvectors = as_rows(eigenvectors).T  # the host has it before a program for it is compiled
    if isinstance(eigenvectors, np.ndarray):
        found = {name: _flat(vector) for name, vector in vectors.items()}
        if divisor is not None:
            roots = np.sqrt(_flat(divisor))
            found = {name: vector / roots for name, vector in found.items()}
        if optimum is not None:
            offset = _flat(params) - _flat(optimum)
            found["offset"] = offset if divisor is None else offset * roots
        rows = np.stack(list(found.values()))
        with threads(min(eigenvectors.shape)), np.errstate(invalid="ignore", over="ignore"):
            components = dict(zip(found, rows @ eigenvectors, strict=True))
            return components, dict(zip(found, np.linalg.norm(rows, axis=1).tolist(), strict=True))
    made, norms = fetch(_projected(eigenvectors, vectors, params, optimum, divisor))
    return {name: np.asarray(part, np.float64) for name, part in made.items()}, {k: float(v) for k, v in norms.items()}


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


# ---- compiled programs ----------------------------------------------------------------------------------------------------------


@functools.partial(compiled, static=("update", "preconditioner"))
@full_precision
def _account(
    loss: Any,
    params: Any,
    gradient: Any,
    opt_state: Any,
    batches: Any,
    *,
    update: Callable[..., Any],
    preconditioner: Callable[[Any], Any] | None,
) -> tuple[Any, Any, dict[str, Any], Any, Any]:
    """The gradient g; P or None; quadratic forms of g, of P⁻¹g and of the step s that `update` is about to make of `gradient`, the
    training's, and the loss's change over s; `noise` of the batches, (M, B) or None.

    One linearization of the gradient serves every product with H over all examples.
    """
    step, stepped = update(gradient, opt_state, params)
    divisor = None if preconditioner is None else at_least_float32(preconditioner(stepped))
    if any(map(is_half, jax.tree.leaves(params))):
        moved, params = (
            optax.apply_updates(params, step),
            at_least_float32(params),
        )  # the step as rounded to the parameters
        step = optax.tree.sub(at_least_float32(moved), params)
    gradient, product = jax.linearize(jax.grad(loss), params)
    divided = () if divisor is None else (jax.tree.map(jnp.divide, gradient, divisor),)
    vectors = (gradient, step, *divided)
    images = jax.vmap(product)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors))
    own = [optax.tree.vdot(vector, jax.tree.map(lambda leaf, i=i: leaf[i], images)) for i, vector in enumerate(vectors)]
    forms = {
        "gg": optax.tree.vdot(gradient, gradient),
        "ghg": own[0],
        "gs": optax.tree.vdot(gradient, step),
        "shs": own[1],
        "change": loss(optax.apply_updates(params, step)) - loss(params),
        "gg_divided": optax.tree.vdot(gradient, vectors[-1] if divided else gradient),  # g'P⁻¹g and, below, g'P⁻¹HP⁻¹g
        "ghg_divided": own[-1] if divided else own[0],
    }
    ratios, products = (None, None) if batches is None else _noises(loss, params, gradient, product, batches)
    return gradient, divisor, forms, ratios, products


def _noises(loss: Any, params: Any, gradient: Any, product: Callable[[Any], Any], batches: Any) -> tuple[Any, Any]:
    """`noise` of the batches, from gradient and products of the loss over all examples."""
    dot: Callable[[Any, Any], Any] = optax.tree.vdot

    def one(chosen: Any) -> tuple[Any, Any]:
        part = loss._replace(data=jax.tree.map(lambda leaf: leaf[chosen], loss.data))
        found, along = jax.linearize(jax.grad(part), params)
        off = optax.tree.sub(found, gradient)
        return dot(found, along(found)) / dot(found, found), dot(off, product(off))

    return jax.lax.map(one, batches)


@compiled
@full_precision
def _noise(loss: Any, params: Any, batches: Any) -> tuple[Any, Any]:
    return _noises(loss, params, *jax.linearize(jax.grad(loss), params), batches)


@compiled
@full_precision
def _projected(eigenvectors: Any, vectors: dict[str, Any], params: Any, optimum: Any, divisor: Any) -> tuple[Any, Any]:
    found, offset = dict(vectors), None if optimum is None else optax.tree.sub(params, optimum)
    if divisor is not None:
        found = {name: jax.tree.map(lambda g, p: g / jnp.sqrt(p), vector, divisor) for name, vector in found.items()}
    if offset is not None:
        found["offset"] = offset if divisor is None else jax.tree.map(lambda d, p: d * jnp.sqrt(p), offset, divisor)

    def components(vector: Any) -> Any:
        return jax.vmap(lambda v: optax.tree.vdot(v, vector))(eigenvectors)

    return {name: components(vector) for name, vector in found.items()}, {
        name: optax.tree.norm(vector) for name, vector in found.items()
    }
