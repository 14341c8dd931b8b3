"""Outliers of a classifier's Hessian: how many, what carries them, and what batch normalization makes of them."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float64, PyTree
from numpy.typing import ArrayLike

from curvexp import curvature, load_params, preprocess, theory
from curvexp.linalg import eigsh
from curvexp.problem import Problem, data, network
from curvexp.study.claim import Claim, Result, at_least, at_most, equal, mean_interval, not_applicable
from curvexp.study.recorded import Recorded, recorded
from curvexp.types import Params, Scalar

if TYPE_CHECKING:
    from curvexp.store import Runs

EXACT = 1e-3  # eigsh's tolerance, relative to the largest eigenvalue


class Leading(NamedTuple):
    """The largest eigenvalues of an operator, descending, and their eigenvectors."""

    values: Float64[np.ndarray, "k"]
    vectors: Float64[np.ndarray, "n k"]


def outliers(
    runs: "Runs",
    folder: Path,
    *,
    classes: Sequence[int] = (3, 5, 7, 10),
    least: int = 5,
    hidden: Sequence[int] = (32, 32),
    loss: float = 0.3,
    fitted_loss: float = 0.01,
    seeds: int = 5,
) -> Result:
    """Outliers, counted up to the widest gap, of the Hessian and of the Gauss-Newton matrix, in a training's middle and at its end.

    Args:
        runs: each a sweep over classes and seeds that stops at its target: middle, of ReLU networks on raw inputs, at `loss`; fitted, of
            tanh networks on normalized inputs, at `fitted_loss`. folder: that they lie in.
        least: classes from which on the count is claimed. With fewer the widest gap may lie between two outliers.
    """
    whole = "a median of counts: none is allowed to differ"
    fitted, hessians, ggns, carried, aligned = (np.full((len(classes), seeds), np.nan) for _ in range(5))
    found: dict[str, Any] = {"classes": list(classes)}
    for run in recorded(runs, "middle"):
        number, seed = int(run.config["problem.data.classes"]), int(run.config["seed"])
        at = classes.index(number), seed
        point = _outliers_of(classifier(number, "raw", "relu", hidden), at_target(run, folder), number)
        hessians[at], ggns[at] = widest_gap(point.hessian), widest_gap(point.ggn)
        carried[at], aligned[at] = point.rest / point.ggn[number - 2], point.aligned
        found |= {f"hessian {number} {seed}": point.hessian, f"ggn {number} {seed}": point.ggn}
    for run in recorded(runs, "fitted"):
        number = int(run.config["problem.data.classes"])
        top = leading(hessian(classifier(number, "normalized", "tanh", hidden), at_target(run, folder)), number + 6)
        fitted[classes.index(number), int(run.config["seed"])] = widest_gap(top.values)
    counts = {"hessian": hessians, "ggn": ggns, "fitted": fitted}
    expected = theory.classifier_outliers(classes)[:, None]
    many = np.asarray(classes) >= least
    task = f"digits with their mean, ReLU, loss {loss:g}"
    claims = [
        equal(
            f"{task}, K ≥ {least}: {statement}", expected[many, 0], np.median(counts[name][many], axis=1), because=whole
        )
        for name, statement in (
            ("hessian", f"the Hessian has K−1 outliers (median of {seeds} starts)"),
            ("ggn", "the Gauss-Newton matrix has as many"),
        )
        if many.any()
    ]
    for group, chosen in ((f"K ≥ {least}", many), ("fewer classes", ~many)):
        if chosen.any():
            claims.append(_share(f"{task}, {group}", counts["hessian"][chosen] == expected[chosen]))
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
    agree, of = int((counts["fitted"] == expected).sum()), counts["fitted"].size
    claims.append(
        not_applicable(
            f"centred digits, tanh, fitted to a loss of {fitted_loss:g}: the widest gap comes after K−1 in {agree} of {of} runs",
            because="the statement is for inputs with a mean, ReLU and a training in its middle: outside of that it is not borne out",
            measurement=float(agree),
        )
    )
    return Result(claims, found | {f"count {name}": value for name, value in counts.items()})


def _share(where: str, right: Bool[np.ndarray, "..."]) -> Claim:
    """How many runs have the count of theory, of which nothing is claimed."""
    return not_applicable(
        f"{where}: the widest gap comes after K−1 in {int(right.sum())} of {right.size} runs",
        because="of single runs nothing is claimed: the last outlier may stand as far below those above as above the rest",
        measurement=float(right.sum()),
    )


class _Outliers(NamedTuple):
    """Leading eigenvalues of Hessian and Gauss-Newton matrix at one point, descending, and how the two compare.

    Attributes:
        rest: ‖H − G‖₂. aligned: mean squared cosine between the K − 1 leading eigenvectors of the two.
    """

    hessian: Float64[np.ndarray, "k"]
    ggn: Float64[np.ndarray, "k"]
    rest: float
    aligned: float


def _outliers_of(problem: Problem, params: Params, classes: int) -> _Outliers:
    whole, carrier = hessian(problem, params), ggn(problem, params)
    h, g = leading(whole, classes + 6), leading(carrier, classes + 6)
    rest = eigsh(curvature.difference(whole, carrier), k=1, which="LM", tol=1e-2).eigenvalues[0]
    aligned = overlap(h.vectors[:, : classes - 1], g.vectors[:, : classes - 1])
    return _Outliers(h.values, g.values, float(jnp.abs(rest)), aligned)


def batchnorm_spectrum(
    runs: "Runs",
    folder: Path,
    *,
    hidden: Sequence[int] = (32, 32),
    losses: Sequence[float] = (0.3, 0.1),
    seeds: int = 5,
) -> Result:
    """With and without batch normalization, same inputs and loss: how far the outliers stand out, and the gradients' share in them.

    Args:
        runs: without and with, each a sweep over the losses that it stops at, and over seeds. folder: that they lie in.
    """
    number = 10
    claims: list[Claim] = []
    found: dict[str, Any] = {"losses": list(losses)}
    for loss in losses:
        ratio, top, share, noisy = (np.zeros((2, seeds)) for _ in range(4))
        for row, (name, prepared) in enumerate((("without", "normalized"), ("with", "batchnorm"))):
            problem = classifier(number, prepared, "relu", hidden)
            for run in (run for run in recorded(runs, name) if run.config["target"] == loss):
                params, seed = at_target(run, folder), int(run.config["seed"])
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


def classifier(classes: int, prepared: str, activation: str, hidden: Sequence[int]) -> Problem:
    """The network of the runs, on the digits 0 to classes − 1."""
    return network.mlp(
        preprocess=getattr(preprocess, prepared)(),
        dtype=jnp.float32,
        data=data.digits(classes=classes),
        hidden=list(hidden),
        activation=activation,
    )


def at_target(run: Recorded, folder: Path) -> Params:
    """The parameters with which a run came to its target.

    Raises:
        RuntimeError: it did not.
    """
    if not run.summary["steps_to_target"] >= 0:
        raise RuntimeError(
            f"{run.name}: the loss is {run.scalars['loss'][-1]:.3g} after {run.steps[-1]} steps, above its target "
            f"{run.config['target']:g}: give it more steps, or raise the target."
        )
    return load_params(folder / run.name)


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
