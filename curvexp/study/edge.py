"""The edge of stability: sharpness rises to the optimizer's threshold and hovers there."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import curvexp
from curvexp import optim, preprocess, theory
from curvexp.optim import Optimizer
from curvexp.problem import Problem, data, network
from curvexp.study.claim import Claim, Result, at_most, equal, not_applicable

REACHED = 0.9  # of the threshold: a run whose sharpness never got so far is not at the edge
HOVERING = (
    "the late median may differ from the threshold by 10 %: at the edge the sharpness oscillates about it, and the threshold is that of "
    "the quadratic model; a factor 2, or 1+β left out, would miss by 30 % or more"
)


class Path(NamedTuple):
    """A run's history: step, loss and sharpness at each reading, (m,), and the last parameters."""

    steps: Any
    losses: Any
    sharpness: Any
    params: Any


def edge_of_stability(
    *,
    lrs: Sequence[float] = (0.18, 0.2, 0.3, 0.4),
    hidden: Sequence[int] = (64, 64),
    steps: int = 6000,
    every: int = 100,
    seed: int = 0,
) -> Result:
    """Full-batch gradient descent of a tanh network on the digits, squared error: sharpness against 2/lr over the last half."""
    problem = digits_network(hidden)
    claims: list[Claim] = []
    found: dict[str, Any] = {}
    for lr in lrs:
        path = sharpness_path(problem, optim.sgd(lr=float(lr)), steps=steps, every=every, seed=seed)
        threshold = float(theory.gradient_descent_threshold(lr=lr))
        claims += hovers(f"gradient descent, lr {lr:g}: sharpness hovers at 2/lr", path, threshold)
        claims.append(_rises(f"lr {lr:g}", path, threshold))
        found |= {f"lr {lr:g} {name}": value for name, value in path._asdict().items() if name != "params"}
        found[f"lr {lr:g} threshold"] = threshold
    return Result(claims, found)


def edge_momentum(
    *,
    heavy_ball_lrs: Sequence[float] = (0.04,),
    nesterov_lrs: Sequence[float] | None = (0.02,),
    momentum: float = 0.9,
    hidden: Sequence[int] = (50, 50),
    steps: int = 8000,
    every: int = 100,
    seed: int = 0,
) -> Result:
    """The same with momentum, on a Chebyshev polynomial: 2(1+β)/lr for heavy ball, 2(1+β)/(lr(1+2β)) for Nesterov."""
    problem = chebyshev_network(hidden)
    claims: list[Claim] = []
    found: dict[str, Any] = {}
    kinds = (
        ("heavy ball", optim.momentum, theory.heavy_ball_threshold, heavy_ball_lrs, "2(1+β)/lr"),
        ("Nesterov", optim.nesterov, theory.nesterov_threshold, nesterov_lrs or (), "2(1+β)/(lr(1+2β))"),
    )
    for name, make, threshold_of, lrs, formula in kinds:
        for lr in lrs:
            path = sharpness_path(problem, make(lr=float(lr), momentum=momentum), steps=steps, every=every, seed=seed)
            threshold = float(threshold_of(lr=lr, momentum=momentum))
            claims += hovers(f"{name}, lr {lr:g}, β {momentum:g}: sharpness hovers at {formula}", path, threshold)
            found |= {f"{name} lr {lr:g} {key}": value for key, value in path._asdict().items() if key != "params"}
            found[f"{name} lr {lr:g} threshold"] = threshold
    return Result(claims, found)


def adaptive_edge(
    *,
    lrs: Sequence[float] = (1e-3,),
    b1: float = 0.9,
    hidden: Sequence[int] = (64, 64),
    steps: int = 6000,
    every: int = 200,
    seed: int = 0,
) -> Result:
    """Full-batch Adam on the digits: the sharpness of P^(-1/2) H P^(-1/2) against 2(1+β₁)/((1−β₁)lr), 38/lr at β₁ = 0.9."""
    problem = digits_network(hidden)
    claims: list[Claim] = []
    found: dict[str, Any] = {}
    for lr in lrs:
        path = sharpness_path(problem, optim.adam(lr=float(lr), b1=b1), steps=steps, every=every, seed=seed)
        threshold = float(theory.adam_threshold(lr=lr, b1=b1))
        claims += hovers(
            f"Adam, lr {lr:g}, β₁ {b1:g}: preconditioned sharpness hovers at 2(1+β₁)/((1−β₁)lr)", path, threshold
        )
        found |= {f"lr {lr:g} {name}": value for name, value in path._asdict().items() if name != "params"}
        found[f"lr {lr:g} threshold"] = threshold
    return Result(claims, found)


def hovers(statement: str, path: Path, threshold: float) -> list[Claim]:
    """The median of sharpness/threshold over the last half is 1; not applicable where the training never sharpened that far."""
    ratio = np.asarray(path.sharpness) / threshold
    late = ratio[len(ratio) // 2 :]
    quartiles = (float(np.percentile(late, 2.5)), float(np.percentile(late, 97.5)))
    if np.isfinite(ratio).all() and ratio.max() < REACHED:
        reached = f"not at the edge: sharpness/threshold never reached {REACHED:g}"
        return [not_applicable(statement, measurement=float(ratio.max()), because=reached)]
    return [
        equal(
            f"{statement} (late median of the ratio)",
            1,
            float(np.median(late)),
            absolute=0.1,
            because=HOVERING,
            interval=quartiles,
        )
    ]


def digits_network(hidden: Sequence[int]) -> Problem:
    """tanh network on the standardised digits, squared error, float32."""
    return network.mlp(
        preprocess=preprocess.normalized(), dtype=jnp.float32, data=data.digits(), hidden=list(hidden), criterion="mse"
    )


def chebyshev_network(hidden: Sequence[int], *, degree: int = 5, points: int = 20) -> Problem:
    """tanh network on the Chebyshev polynomial of a degree at equidistant points of [−1, 1], squared error, float64.

    Source: Cohen et al. 2021, app. (the small regression).
    """
    x = np.linspace(-1, 1, points)
    y = np.polynomial.chebyshev.Chebyshev.basis(degree)(x)
    given = data.Dataset("chebyshev", x[:, None], y[:, None])
    return network.mlp(preprocess=preprocess.raw(), dtype=jnp.float64, data=given, hidden=list(hidden), criterion="mse")


def sharpness_path(
    problem: Problem, optimizer: Optimizer, *, steps: int, every: int, seed: int, scale: float = 1.0
) -> Path:
    """A full-batch run with the top eigenvalue of its (preconditioned) Hessian every so many steps; it ends where the loss is not finite.

    Args:
        scale: factor on the initial parameters.
    """
    params = jax.tree.map(lambda leaf: scale * leaf, problem.init(jax.random.key(seed)))
    state, found = optimizer.init(params), None
    at, losses, values = [], [], []
    for done in range(0, steps + 1, every):
        if done:
            params, state = advance(
                params, state, problem.data, every, loss=problem.loss, update=optimizer.transform.update
            )
        value = float(problem.loss(params, problem.data))
        at.append(done)
        losses.append(value)
        if not np.isfinite(value):
            values.append(np.nan)
            break
        if optimizer.preconditioner and not done:
            values.append(0.0)  # before the first step there is no preconditioner
            continue
        op = curvexp.hessian(problem.loss, params, problem.data)
        if optimizer.preconditioner:
            op = curvexp.preconditioned(op, optimizer.preconditioner(state))
        found = curvexp.eigsh(op, k=1, tol=1e-3, start=found, check="full", key=jax.random.key(done))
        values.append(float(found.eigenvalues[-1]))
    return Path(np.array(at), np.array(losses), np.array(values), params)


@functools.partial(jax.jit, static_argnames=("loss", "update"))
def advance(
    params: Any, state: Any, data: Any, steps: Any, *, loss: Callable[..., Any], update: Callable[..., Any]
) -> Any:
    """`steps` full-batch updates."""

    def step(_: Any, carry: Any) -> Any:
        x, opt_state = carry
        change, opt_state = update(jax.grad(loss)(x, data), opt_state, x)
        return optax.apply_updates(x, change), opt_state

    return jax.lax.fori_loop(0, steps, step, (params, state))


def _rises(where: str, path: Path, threshold: float) -> Claim:
    """Progressive sharpening: the start lies below the late median; not applicable where it lies above the threshold already."""
    statement = f"{where}: from below the threshold the sharpness rises (start against late median)"
    start, late = float(path.sharpness[0]), float(np.median(path.sharpness[len(path.sharpness) // 2 :]))
    if start >= threshold:
        return not_applicable(statement, measurement=start, because="it starts above the threshold, and falls to it")
    return at_most(statement, late, start, because="no tolerance: a comparison")
