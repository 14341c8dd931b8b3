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
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from curvexp.curvature import Objective
from curvexp.linalg.lapack import fetch
from curvexp.linalg.precision import at_least_float32, full_precision, is_half
from curvexp.optim import Optimizer
from curvexp.probe.ledger.batches import batch_count, draw_batches, example_count, noises
from curvexp.probe.ledger.directions import direction_columns, momentum
from curvexp.probe.ledger.operator import NOT_MEASURED, deciding_spectrum
from curvexp.probe.ledger.past import Now, Past
from curvexp.probe.ledger.whole import (
    ends_and_bottleneck,
    gradient_and_step,
    mean_of_batches,
    outside_tracked,
    stability,
    without_nan,
)
from curvexp.probe.operators import operator_name
from curvexp.probe.readings import eps_of
from curvexp.programs import compiled
from curvexp.record import Reading
from curvexp.types import OptState, Params, RandomKey, Scalar


def enter(
    whole: Objective,
    optimizer: Optimizer,
    reading: Reading,
    past: Past,
    now: Now,
    *,
    batch_size: int | None,
    tol: float,
    full: bool,
    key: RandomKey,
) -> tuple[dict[str, Any], Reading, Past]:
    """A reading's scalars, the reading with its `ledger`, and what the next one looks back at.

    Args:
        whole: the loss over all training data. reading: from the probe, with eigenvectors where it has them.
        past: of the record before. now: where the training stands.
        batch_size: of the training, None for all examples. tol: relative residual of the preconditioned Hessian's eigenvalues.
        full: whether these are checked in full for what was missed.

    Returns:
        scalars, each None where it has no meaning; of a reading of another operator than the Hessian those of the step and of minibatches
        alone, as the Hessian decides stability:
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
            (k,), nan where unknown; operator: hessian | preconditioned; loss_from: optimum | model; since: the record measured from.
    """
    state, params = now.state, at_least_float32(now.state.params)
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
        scalars = gradient_and_step(forms)
        if batches is not None:
            (number, size), count = batches.shape, example_count(whole)
            exact = number == batch_count(count, size)
            scalars |= mean_of_batches("batch_sharpness", ratios, exact) | mean_of_batches(
                "trace_noise", products, exact
            )
            hvps += number * (1 + size / count)
        spectrum = NOT_MEASURED
        if operator_name(reading) == "hessian":
            spectrum = deciding_spectrum(whole, params, reading, divisor, past=past, tol=tol, full=full, key=key)
            scalars |= stability(spectrum, reading, divisor is not None, now.hyper, optimizer, eps=eps_of(params))
        hvps += spectrum.products
        if spectrum.eigenvectors is not None and np.isfinite(spectrum.eigenvalues).all():
            directions, used, rest = direction_columns(optimizer, spectrum, past, now, gradient, divisor)
            ledger = {"operator": "hessian" if divisor is None else "preconditioned", **directions}
            if spectrum.missed is not None:
                ledger["missed"] = spectrum.missed[0]
            scalars |= ends_and_bottleneck(
                ledger, lower="lambda_min" in reading.scalars and len(spectrum.eigenvalues) > 1
            )
            if not spectrum.complete and "samples" not in reading.extra and forms["gg_divided"] > 0:
                scalars |= outside_tracked(optimizer, ledger, used, rest, forms["ghg_divided"] / forms["gg_divided"])
            reading = reading._replace(extra={**reading.extra, "ledger": ledger})
    scalars["hvps"] = hvps
    keep = spectrum.eigenvectors if divisor is not None and not spectrum.complete else None
    kept = keep if np.isfinite(spectrum.eigenvalues).all() else None
    scout = spectrum.scout if kept is not None else None
    past = Past(state.step, gradient, momentum(optimizer, state), kept, scout, past.readings + 1)
    return without_nan(scalars), reading._replace(eigenvectors=None), past


@functools.partial(compiled, static=("update", "preconditioner"))
@full_precision
def _account(
    loss: Objective,
    params: Params,
    gradient: Params,
    opt_state: OptState,
    batches: Int[Array, "m B"] | None,
    *,
    update: Callable[..., Any],
    preconditioner: Callable[[OptState], Params] | None,
) -> tuple[Params, Params | None, dict[str, Scalar], Float[Array, "m"] | None, Float[Array, "m"] | None]:
    """The gradient g; P or None; quadratic forms of g, of P⁻¹g and of the step s that `update` is about to make of `gradient`, the
    training's, and the loss's change over s; `noise` of the batches, or None.

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
    gradient, product = jax.linearize(jax.grad(cast(Callable[..., Scalar], loss)), params)
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
    ratios, products = (None, None) if batches is None else noises(loss, params, gradient, product, batches)
    return gradient, divisor, forms, ratios, products
