"""Outliers of a classifier's Hessian: how many, what carries them, and what batch normalization makes of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, PyTree
from numpy.typing import ArrayLike

from curvexp import curvature, optim, preprocess, theory
from curvexp.linalg import eigsh
from curvexp.problem import Problem, data, network
from curvexp.study.claim import Claim, Result, at_least, at_most, equal, mean_interval, not_applicable
from curvexp.study.training import at_target
from curvexp.training import Run
from curvexp.types import Params, Scalar

EXAMPLES = 120  # of each class
MOST = 5000  # steps of training
BLOCK = 50  # steps between two looks at whether a run has come to its target
EXACT = 1e-3  # eigsh's tolerance, relative to the largest eigenvalue


class Leading(NamedTuple):
    """The largest eigenvalues of an operator, descending, and their eigenvectors."""

    values: Float64[np.ndarray, "k"]
    vectors: Float64[np.ndarray, "n k"]


def outliers(
    *,
    classes: Sequence[int] = (3, 5, 7, 10),
    least: int = 5,
    hidden: Sequence[int] = (32, 32),
    loss: float = 0.3,
    seeds: int = 3,
) -> Result:
    """Outliers, counted up to the widest gap, of the Hessian and of the Gauss-Newton matrix, in a training's middle and at its end.

    Args:
        least: classes from which on the count is claimed. With fewer the widest gap may lie between two outliers.
    """
    claims: list[Claim] = []
    found: dict[str, Any] = {"classes": list(classes)}
    whole = "counts are whole: none is allowed to differ"
    counts = {name: np.zeros((len(classes), seeds), int) for name in ("hessian", "ggn", "fitted")}
    carried, aligned = np.zeros((2, len(classes), seeds))
    for i, number in enumerate(classes):
        given = first_classes(number)
        problem, smooth = (classifier(given, *kind, hidden) for kind in (("raw", "relu"), ("normalized", "tanh")))
        middle = trained(problem, seeds=seeds, lr=0.003, target=loss)
        fitted = trained(smooth, seeds=seeds, lr=0.1, target=0.01)
        for seed, params in enumerate(middle):
            h, g = leading(hessian(problem, params), number + 6), leading(ggn(problem, params), number + 6)
            counts["hessian"][i, seed], counts["ggn"][i, seed] = widest_gap(h.values), widest_gap(g.values)
            rest = curvature.difference(hessian(problem, params), ggn(problem, params))
            size = float(jnp.abs(eigsh(rest, k=1, which="LM", tol=1e-2).eigenvalues[0]))
            carried[i, seed] = size / g.values[number - 2]
            aligned[i, seed] = overlap(h.vectors[:, : number - 1], g.vectors[:, : number - 1])
            found |= {f"hessian {number} {seed}": h.values, f"ggn {number} {seed}": g.values}
            counts["fitted"][i, seed] = widest_gap(leading(hessian(smooth, fitted[seed]), number + 6).values)
    expected = theory.classifier_outliers(classes)[:, None]
    many = np.asarray(classes) >= least
    task = f"digits with their mean, ReLU, loss {loss:g}"
    claims = []
    if many.any():
        claims = [
            equal(
                f"{task}: the Hessian of K ≥ {least} classes has K−1 outliers",
                expected[many],
                counts["hessian"][many],
                because=whole,
            ),
            equal(f"{task}: the Gauss-Newton matrix has as many", expected[many], counts["ggn"][many], because=whole),
        ]
    if not many.all():
        right = counts["hessian"][~many] == expected[~many]
        claims.append(
            not_applicable(
                f"{task}: with fewer classes the widest gap comes after K−1 in {int(right.sum())} of {right.size} runs",
                because="of few outliers the first may stand as far above the next as that above the rest",
                measurement=float(right.sum()),
            )
        )
    claims += [
        at_most(
            f"{task}: the residual part H − G cannot make one: its norm over the last outlier of G",
            1,
            carried,
            because="Weyl: no eigenvalue moves by more than the norm",
        ),
        at_least(
            f"{task}: H and G have the same outlier directions: mean squared cosine of the K−1",
            0.9,
            aligned,
            because="a random subspace of so many dimensions has about (K−1)/n, 0.005 at most",
        ),
    ]
    agree = int((counts["fitted"] == expected).sum())
    claims.append(
        not_applicable(
            f"centred digits, tanh, fitted to a loss of 0.01: the widest gap comes after K−1 in {agree} of {counts['fitted'].size} runs",
            because="the statement is for inputs with a mean, ReLU and a training in its middle: outside of that it is not borne out",
            measurement=float(agree),
        )
    )
    return Result(claims, found | {f"count {name}": value for name, value in counts.items()})


def batchnorm_spectrum(
    *, hidden: Sequence[int] = (32, 32), losses: Sequence[float] = (0.3, 0.1), seeds: int = 5
) -> Result:
    """With and without batch normalization, same inputs and loss: how far the outliers stand out, and the gradients' share in them."""
    given, number = first_classes(10), 10
    claims: list[Claim] = []
    found: dict[str, Any] = {"losses": list(losses)}
    for loss in losses:
        ratio, top, share, noisy = (np.zeros((2, seeds)) for _ in range(4))
        for row, prepared in enumerate(("normalized", "batchnorm")):
            problem = classifier(given, prepared, "relu", hidden)
            for seed, params in enumerate(trained(problem, seeds=seeds, lr=0.03, target=loss)):
                lead = leading(hessian(problem, params), 2 * number)
                ratio[row, seed] = lead.values[0] / lead.values[number - 1]
                top[row, seed] = lead.values[0]
                share[row, seed], noisy[row, seed] = gradient_shares(
                    problem, params, lead.vectors[:, : number - 1], seed=seed
                )
        for name, values in (("λ₁/λ_K", ratio), ("λmax", top)):
            paired = np.log(values[0] / values[1])
            low, high = np.exp(mean_interval(paired))
            claims.append(
                at_least(
                    f"loss {loss:g}: batch normalization lowers {name}: the factor",
                    1,
                    float(np.exp(paired.mean())),
                    interval=(low, high),
                    because=f"paired over {seeds} starts; the whole interval has to lie above 1",
                )
            )
        paired = np.log(noisy[0] / noisy[1])
        low, high = np.exp(mean_interval(paired))
        claims.append(
            at_least(
                f"loss {loss:g}: it lowers the share of minibatch gradients (64 examples) in the K−1 leading directions: the factor",
                1,
                float(np.exp(paired.mean())),
                interval=(low, high),
                because=f"paired over {seeds} starts; the whole interval has to lie above 1",
            )
        )
        claims.append(
            not_applicable(
                f"loss {loss:g}: the gradient over all examples has {100 * share[0].mean():.2g} % there without, "
                f"{100 * share[1].mean():.2g} % with it",
                because="of one gradient at one step: it changes from step to step, and nothing is claimed of it",
                measurement=float(share[0].mean()),
            )
        )
        found |= {
            f"{name} {loss:g}": v
            for name, v in (("ratio", ratio), ("top", top), ("share", share), ("minibatch_share", noisy))
        }
    return Result(claims, found)


def widest_gap(values: ArrayLike) -> int:
    """How many of the descending values stand before the largest ratio of neighbours."""
    v = np.maximum(np.asarray(values, np.float64), np.finfo(np.float64).tiny)
    return int(np.argmax(v[:-1] / v[1:])) + 1


def overlap(left: Float[np.ndarray, "n k"], right: Float[np.ndarray, "n k"]) -> float:
    """Mean squared cosine of the principal angles of two subspaces with orthonormal bases."""
    return float(np.linalg.norm(left.T @ right) ** 2 / left.shape[1])


def first_classes(number: int) -> data.Dataset:
    """The digits 0 to number − 1, 120 examples of each on average."""
    whole = data.digits()
    assert whole.test_inputs is not None  # the digits have a test part
    assert whole.test_targets is not None
    kept, tested = (np.asarray(part) < number for part in (whole.targets, whole.test_targets))
    return whole._replace(
        inputs=whole.inputs[kept][: EXAMPLES * number],
        targets=whole.targets[kept][: EXAMPLES * number],
        test_inputs=whole.test_inputs[tested],
        test_targets=whole.test_targets[tested],
        classes=number,
    )


def classifier(given: data.Dataset, prepared: str, activation: str, hidden: Sequence[int]) -> Problem:
    """A network with cross-entropy on these examples."""
    return network.mlp(
        preprocess=getattr(preprocess, prepared)(),
        dtype=jnp.float32,
        data=given,
        hidden=list(hidden),
        activation=activation,
    )


def trained(problem: Problem, *, seeds: int, lr: float, target: float) -> list[Params]:
    """Parameters where heavy ball (momentum 0.9) on all examples first has the target loss, for each seed."""
    optimizer = optim.momentum(lr=lr, momentum=0.9)
    runs = [Run(problem, optimizer, seed, target=target) for seed in range(seeds)]
    return at_target(runs, steps=MOST, block=BLOCK)


def hessian(problem: Problem, params: Params) -> curvature.Operator:
    """Over all training examples."""
    return curvature.hessian(problem.loss, params, problem.data)


def ggn(problem: Problem, params: Params) -> curvature.Operator:
    """Over all training examples."""
    assert problem.model is not None  # every network has both
    assert problem.criterion is not None
    return curvature.ggn(problem.model, problem.criterion, params, problem.data.inputs, problem.data.targets)


def leading(op: curvature.Operator, k: int) -> Leading:
    """The k largest eigenpairs."""
    pairs = eigsh(op, k=k, tol=EXACT)
    rows = np.concatenate(
        [np.asarray(leaf, np.float64).reshape(k, -1) for leaf in jax.tree.leaves(pairs.eigenvectors)], axis=1
    )
    return Leading(np.asarray(pairs.eigenvalues, np.float64)[::-1], rows[::-1].T)


def gradient_shares(
    problem: Problem, params: Params, vectors: Float[np.ndarray, "n k"], *, seed: int, size: int = 64, batches: int = 20
) -> tuple[float, float]:
    """Share of ‖g‖² in a subspace with orthonormal basis: of the gradient over all examples, and the mean over minibatches."""
    random, count = np.random.default_rng(seed), len(problem.data.targets)

    def share(given: PyTree) -> float:
        g = np.concatenate(
            [
                np.asarray(leaf, np.float64).ravel()
                for leaf in jax.tree.leaves(_gradient(params, given, loss=problem.loss))
            ]
        )
        return float(np.linalg.norm(vectors.T @ g) ** 2 / (g @ g))

    chosen = [random.choice(count, size, replace=False) for _ in range(batches)]
    parts = [share(jax.tree.map(lambda a, rows=rows: a[rows], problem.data)) for rows in chosen]
    return share(problem.data), float(np.mean(parts))


@functools.partial(jax.jit, static_argnames="loss")
def _gradient(params: Params, given: PyTree, *, loss: Callable[[Params, PyTree], Scalar]) -> Params:
    return jax.grad(loss)(params, given)
