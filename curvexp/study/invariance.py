"""Scale invariance: what normalization says of the gradient and the Hessian of the weights before it."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

import curvexp
from curvexp import preprocess
from curvexp.problem import data, network
from curvexp.study.claim import Result, at_least, equal
from curvexp.types import Params, Scalar


def scale_invariance(
    *, hidden: Sequence[int] = (16, 16), factors: Sequence[float] = (0.25, 3.0, 10.0), seeds: int = 3
) -> Result:
    """Hidden layers that are batch-normalized (ε = 0): for each kernel θ before a normalization θ'g = 0, Hθ = −g, H(cθ) = H(θ)/c²."""
    problem = network.mlp(
        preprocess=preprocess.batchnorm(epsilon=0.0, inputs="normalized"),
        dtype=jnp.float64,
        data=data.wine(),
        hidden=list(hidden),
    )
    orthogonal, euler, gradients, hessians, plain = [], [], [], [], []
    for seed in range(seeds):
        params = problem.init(jax.random.key(seed))
        for layer in range(len(hidden) + 1):
            name = f"Dense_{layer}"
            kernel = params[name]["kernel"]
            v = jax.random.normal(jax.random.key(seed + 10), kernel.shape)
            g, hv, ht = _products(params, problem.data, 1.0, v, loss=problem.loss, name=name)
            size = np.linalg.norm(g)
            difference = np.linalg.norm(ht + g) / size
            if layer == len(hidden):
                plain.append(difference)
                continue
            orthogonal.append(np.vdot(kernel, g) / (size * np.linalg.norm(kernel)))
            euler.append(difference)
            for c in factors:
                moved, curved, _ = _products(params, problem.data, c, v, loss=problem.loss, name=name)
                hessians.append(np.linalg.norm(curved * c**2 - hv) / np.linalg.norm(hv))
                gradients.append(np.linalg.norm(moved * c - g) / size)
    because = "float64 rounding: a division by the batch's deviation and products of some hundred terms, relative to the quantity"
    claims = [
        equal("θ'g = 0 (cosine)", 0, orthogonal, absolute=1e-12, because=because),
        equal("Hθ = −g (relative difference)", 0, euler, absolute=1e-11, because=because),
        equal("g(cθ) = g(θ)/c", 0, gradients, absolute=1e-11, because=because),
        equal("H(cθ) = H(θ)/c², on a random vector", 0, hessians, absolute=1e-11, because=because),
        at_least(
            "the last layer, which nothing normalizes, has no such law: ‖Hθ + g‖/‖g‖",
            0.1,
            plain,
            because="a control: it is of order 1",
        ),
    ]
    return Result(claims, {"cosine": orthogonal, "euler": np.array(euler), "hessian": np.array(hessians)})


@functools.partial(jax.jit, static_argnames=("loss", "name"))
def _products(
    params: Params,
    data: PyTree,
    factor: Scalar | float,
    v: Float[Array, "..."],
    *,
    loss: Callable[..., Scalar],
    name: str,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """Gradient, Hessian times v and Hessian times the kernel, of the loss in one layer's kernel, taken at factor times it."""

    def of_kernel(kernel: Float[Array, "..."]) -> Scalar:
        return loss({**params, name: {**params[name], "kernel": kernel}}, data)

    kernel = factor * params[name]["kernel"]
    op = curvexp.hessian(of_kernel, kernel)
    return jax.grad(of_kernel)(kernel), op(v), op(kernel)
