"""The contract of a problem."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from curvexp.curvature import hessian
from curvexp.probe import eps_of, operator_of
from curvexp.problem import Problem
from curvexp.testing.promises import SMALL, close, equal, holds, shapes
from curvexp.training import over_all_data
from curvexp.types import Params, RandomKey, Scalar


def check_problem(problem: Problem, *, seed: int = 0) -> None:
    """Checks that a problem does what `Problem` promises.

    The promises: `init` is a function of its key; the loss is a finite real scalar and a pure function; its gradient agrees with
    central differences; its Hessian is symmetric; with examples the loss is their mean (batch normalization apart); model and criterion
    make up the loss; what `known` states holds.

    Raises:
        ContractError: naming the promise that is broken.
    """
    key, other = jax.random.key(seed), jax.random.key(seed + 1)
    params = problem.init(key)
    leaves = jax.tree.leaves(params)
    holds(bool(leaves), "init(key) returns a pytree with at least one array")
    for leaf in leaves:
        holds(jnp.issubdtype(leaf.dtype, jnp.floating), f"parameters are real floating point, and one is {leaf.dtype}")
    holds(equal(params, problem.init(key)), "init gives the same parameters for the same key")
    holds(shapes(params) == shapes(problem.init(other)), "init gives the same shapes for every key")

    def loss(p: Params) -> Scalar:
        return problem.loss(p, problem.data)

    value = loss(params)
    holds(jnp.shape(value) == (), f"the loss is a scalar, and has the shape {jnp.shape(value)}")
    holds(jnp.issubdtype(value.dtype, jnp.floating), f"the loss is real floating point, and is {value.dtype}")
    holds(bool(jnp.isfinite(value)), f"the loss is finite at the start, and is {value}")
    holds(equal(value, loss(params)), "the loss is a pure function: called twice it gives one value")
    eps = eps_of(params)
    close(jax.jit(loss)(params), value, 1e3 * eps, "the loss gives the same value under jax.jit")
    _check_derivatives(loss, params, key, eps)
    _check_examples(problem, params, value, eps)
    _check_known(problem, params, loss, other, eps)
    if problem.evaluate is not None:
        for name, scalar in problem.evaluate(params, problem.data, problem.test).items():
            holds(jnp.shape(scalar) == (), f"evaluate returns scalars, and {name} has the shape {jnp.shape(scalar)}")


def _check_derivatives(loss: Callable[[Params], Scalar], params: Params, key: RandomKey, eps: float) -> None:
    flat, tree = ravel_pytree(params)
    u, v = (vector / jnp.linalg.norm(vector) for vector in jax.random.normal(key, (2, flat.size), flat.dtype))

    def along(t: float) -> Scalar:
        return loss(tree(flat + t * u))

    step = eps ** (1 / 3) * max(1.0, float(jnp.linalg.norm(flat)))
    slope = float((along(step) - along(-step)) / (2 * step))
    gradient = jax.grad(loss)(params)
    scale = float(jnp.linalg.norm(ravel_pytree(gradient)[0])) + abs(float(loss(params)))
    # truncation and rounding of a central difference are both of the order eps^(2/3); 1e3 leaves room for third derivatives
    close(
        jnp.vdot(ravel_pytree(gradient)[0], u),
        slope,
        1e3 * eps ** (2 / 3) * scale,
        "the gradient is the loss's slope",
        relative=False,
    )
    op = hessian(loss, params)
    hu, hv = (ravel_pytree(op(tree(w)))[0] for w in (u, v))
    largest = max(float(jnp.linalg.norm(hu)), float(jnp.linalg.norm(hv)))
    close(jnp.vdot(u, hv), jnp.vdot(v, hu), 1e3 * eps * largest + 1e-30, "the Hessian is symmetric", relative=False)


def _check_examples(problem: Problem, params: Params, value: Scalar, eps: float) -> None:
    if problem.model is not None and problem.criterion is not None:
        found = problem.criterion(problem.model(params, problem.data.inputs), problem.data.targets)
        close(found, value, 1e3 * eps, "the loss is criterion(model(params, inputs), targets)")
        if problem.log_likelihood is not None:
            whole, along = over_all_data(problem), jax.grad(problem.loss)(params, problem.data)
            own, other = (operator_of(whole, params, operator=name)(along) for name in ("fisher", "ggn"))
            # of a criterion whose outputs are the natural parameters the two agree: Martens 2020, sec. 9
            close(own, other, 1e4 * eps, "the criterion is the negative log-likelihood of log_likelihood")
    if problem.examples is None or problem.batchnorm is not None:
        return
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(problem.data)}
    holds(
        lengths == {problem.examples}, f"`examples` is the data's leading axis: {problem.examples}, {sorted(lengths)}"
    )
    cut = max(1, problem.examples // 3)
    parts = [jax.tree.map(lambda leaf, s=s: leaf[s], problem.data) for s in (slice(cut), slice(cut, None))]
    shares = [cut / problem.examples, 1 - cut / problem.examples]
    mean = sum(share * problem.loss(params, part) for share, part in zip(shares, parts, strict=True))
    close(mean, value, 1e3 * eps, "the loss is the mean over the examples")


def _check_known(
    problem: Problem, params: Params, loss: Callable[[Params], Scalar], key: RandomKey, eps: float
) -> None:
    known, value = problem.known, float(loss(params))
    near = functools.partial(close, relative=False)
    for name, bound in (("known.minimum", known.minimum), ("lower_bound", problem.lower_bound)):
        if bound is not None:
            holds(
                value >= bound - 1e3 * eps * max(1, abs(bound)),
                f"no loss lies under {name}={bound}, and one is {value}",
            )
    if known.optimum is not None:
        gradient = ravel_pytree(jax.grad(loss)(known.optimum))[0]
        start = ravel_pytree(jax.grad(loss)(problem.init(key)))[0]
        near(
            jnp.linalg.norm(gradient),
            0.0,
            math.sqrt(eps) * float(jnp.linalg.norm(start)) + eps,
            "the gradient is 0 at known.optimum",
        )
        if known.minimum is not None and math.isfinite(known.minimum):
            scale = max(abs(known.minimum), abs(value))
            near(
                loss(known.optimum),
                known.minimum,
                1e3 * eps * scale + eps,
                "known.minimum is the loss at known.optimum",
            )
    if known.eigenvalues is not None and len(known.eigenvalues) <= SMALL:
        exact = np.linalg.eigvalsh(np.asarray(hessian(loss, params).dense(), np.float64))
        scale = float(np.abs(exact).max())
        near(exact, known.eigenvalues, 1e3 * eps * scale, "known.eigenvalues are those of the Hessian")
