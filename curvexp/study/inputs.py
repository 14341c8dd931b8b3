"""What the inputs do to the curvature: their mean, their scales, and what preprocessing makes of both."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

import curvexp
from curvexp import optim, preprocess, theory, training
from curvexp.problem import Problem, data, linear, network
from curvexp.study.claim import Claim, Result, at_least, equal, mean_interval, not_applicable
from curvexp.study.training import steps_to_target
from curvexp.types import Init

BLOCK = 100  # steps between two looks at whether a run has come to its target
SATURATED = 10.0  # tanh'(10) = 8e-9
FITTED = ("raw", "centered", "normalized", "whitened", "batchnorm")


def input_mean(
    *,
    features: int = 100,
    samples: int = 1000,
    means: Sequence[float] = (0, 0.1, 0.25, 0.5, 1, 2),
    variance: float = 1.0,
    seeds: int = 8,
) -> Result:
    """λmax of least squares on inputs of mean m, measured through autodiff products, against the law of spiked models."""
    ratio = features / samples
    raw, centered, secular = _largest_by_mean(features, samples, means, variance, seeds)
    strength = features * np.square(np.asarray(means, np.float64)) / variance
    predicted = theory.spiked_top_eigenvalue(strength, ratio=ratio, variance=variance)
    out = strength > 2 * theory.outlier_threshold(ratio)
    fluctuation = (
        "the mean over seeds of an eigenvalue that fluctuates by √(2/P) relative a seed (4.5 % at P = 1000, 1.6 % over 8 "
        "seeds): three times that, 4.7 %; a factor 2 or the lack of the γ term at θ² near √γ would miss by more"
    )
    allowed = 3 * np.sqrt(2 / samples / seeds)
    claims = [
        equal(
            f"mean {mean:g}: λmax is v(1+θ²)(1+γ/θ²)",
            predicted[i],
            raw[i].mean(),
            relative=allowed,
            because=fluctuation,
            interval=mean_interval(raw[i]),
        )
        for i, mean in enumerate(means)
        if out[i]
    ]
    edge = float(theory.marchenko_pastur_edges(ratio, variance=variance)[1])
    finite = (
        "3σ of the top eigenvalue's Tracy-Widom fluctuation, σ = v(√P+√N)(1/√P+1/√N)^(1/3)/P (Johnstone 2001); "
        "its mean lies 1.2σ below the edge"
    )
    root_p, root_n = np.sqrt(samples), np.sqrt(features)
    blur = 3 * variance * (root_p + root_n) * (1 / root_p + 1 / root_n) ** (1 / 3) / samples / edge
    claims += [
        equal(
            "centred inputs: λmax is the bulk's edge v(1+√γ)², whatever the mean",
            edge,
            centered.mean(axis=1),
            relative=blur,
            because=finite,
        ),
        equal(
            "λmax of the sample's C + mm' by the secular equation",
            secular,
            raw,
            relative=1e-4,
            because="eigsh's residual tolerance 1e-4",
        ),
    ]
    if (~out).any():
        claims.append(
            equal(
                "below the threshold θ² < √γ the mean leaves no outlier: λmax is the edge",
                predicted[~out],
                raw[~out].mean(axis=1),
                relative=blur,
                because=finite,
            )
        )
    return Result(claims, {"mean": means, "raw": raw, "centered": centered, "predicted": predicted})


def _largest_by_mean(
    features: int, samples: int, means: Sequence[float], variance: float, seeds: int
) -> Float64[np.ndarray, "3 means seeds"]:
    """λmax of least squares on raw and on centred inputs, measured, and that of the sample's C + mm' by the secular equation."""
    raw, centered, secular = found = np.zeros((3, len(means), seeds))
    for i, mean in enumerate(means):
        for seed in range(seeds):
            given = data.gaussian(
                samples=samples,
                features=features,
                mean=float(mean),
                condition_number=1.0,
                variance=variance,
                seed=seed,
                test_fraction=0.0,
            )
            raw[i, seed] = largest(_least_squares(given, "raw", bias=False), seed=seed)
            centered[i, seed] = largest(_least_squares(given, "centered", bias=False), seed=seed)
            secular[i, seed] = theory.top_of_second_moment(np.cov(given.inputs.T, bias=True), given.inputs.mean(axis=0))
    return found


def normalization(
    *,
    datasets: Sequence[str] = ("digits", "breast_cancer", "gaussian"),
    problems: Sequence[str] = ("least_squares", "logistic", "mlp"),
    seeds: int = 5,
    steps: int = 1000,
) -> Result:
    """λmax, κ and steps to a target for each preprocessing, paired over seeds, which draw the split of the data and a network's start.

    Linear models start at zero weights: from random ones on raw inputs the logistic's outputs are saturated, and it has no curvature.
    """
    claims: list[Claim] = []
    table: dict[str, Any] = {}
    for dataset in datasets:
        for name in problems:
            top, taken, kappa = (np.full((len(FITTED), seeds), np.nan) for _ in range(3))
            runs = []
            for seed in range(seeds):
                given = _dataset(dataset, seed)
                for i, prepared in enumerate(FITTED):
                    problem = _problem(name, given, prepared)
                    top[i, seed] = largest(problem, seed=seed)
                    runs.append(_to_nine_tenths(problem, top[i, seed], seed=seed))
                    if problem.known.eigenvalues is not None:
                        values = theory.above_rounding(problem.known.eigenvalues)
                        kappa[i, seed] = values.max() / values.min()
                        if prepared in ("raw", "centered", "normalized") and seed == 0:
                            claims.append(_second_moment(dataset, given, prepared, top[i, seed]))
            taken[:] = steps_to_target(runs, steps=steps, block=BLOCK).reshape(seeds, len(FITTED)).T
            table |= {f"{dataset} {name} {kind}": a for kind, a in (("λmax", top), ("steps", taken), ("κ", kappa))}
            size = float(np.sqrt(np.square(given.inputs).mean())) if name == "mlp" else 0.0
            claims += _comparisons(dataset, name, top, taken, kappa, steps, size)
    return Result(claims, {"preprocess": FITTED, **table})


def largest(problem: Problem, *, seed: int) -> float:
    """λmax of the Hessian at the start of a run with this seed, by products alone."""
    op = curvexp.hessian(problem.loss, training.start(from_zero(problem), seed), problem.data)
    return float(curvexp.eigsh(op, k=1, tol=1e-4, key=jax.random.key(seed + 1)).eigenvalues[-1])


def from_zero(problem: Problem) -> Problem:
    """The problem begun at zero weights where it is a linear model, whose loss is then that of no model; a network as it is."""
    return problem if problem.name == "mlp" else problem._replace(init=_zeros(problem.init))


@functools.cache
def _zeros(init: Init) -> Init:
    """One function for one structure of the parameters, so that all its runs share their programs."""
    return lambda key: jax.tree.map(jnp.zeros_like, init(key))


def _least_squares(given: data.Dataset, prepared: str, *, bias: bool) -> Problem:
    return linear.least_squares(preprocess=getattr(preprocess, prepared)(), dtype=jnp.float64, data=given, bias=bias)


def _dataset(name: str, seed: int) -> data.Dataset:
    if name == "gaussian":
        return data.gaussian(samples=500, features=20, mean=1.0, condition_number=100.0, classes=3, seed=seed)
    return getattr(data, name)(seed=seed)


def _problem(name: str, given: data.Dataset, prepared: str) -> Problem:
    options: dict[str, Any] = {"preprocess": getattr(preprocess, prepared)(), "dtype": jnp.float64, "data": given}
    if name == "mlp":
        return network.mlp(**options, hidden=[16])
    return linear.logistic(**options, l2=1e-3) if name == "logistic" else linear.least_squares(**options)


def _to_nine_tenths(problem: Problem, sharpness: float, *, seed: int) -> training.Run:
    """Gradient descent at half its largest stable step until 9/10 of the way from the loss at its start to its minimum (0 where that is
    unknown) are done."""
    optimizer = optim.sgd(lr=float(theory.gradient_descent_threshold(lr=1.0)) / sharpness / 2)
    problem, target = from_zero(problem), 0.1  # a fraction of the way where the minimum is known, else a loss
    if problem.known.minimum is None:
        target *= float(problem.loss(training.start(problem, seed), problem.data))
    return training.Run(problem, optimizer, seed, target=target, diverge_at=math.inf)


def _second_moment(dataset: str, given: data.Dataset, prepared: str, measured: float) -> Claim:
    """λmax of least squares with a bias: the second moment of the inputs with a column of ones, C + mm' with C's last row 0."""
    x = preprocess.__dict__[prepared]().fit(given.inputs)(given.inputs)
    ones = np.column_stack([x, np.ones(len(x))])
    predicted = theory.top_of_second_moment(np.cov(ones.T, bias=True), ones.mean(axis=0))
    because = "eigsh's residual tolerance 1e-4"
    return equal(
        f"{dataset}, least squares, {prepared}: λmax is that of C + mm'",
        predicted,
        measured,
        relative=1e-4,
        because=because,
    )


def _comparisons(
    dataset: str,
    name: str,
    top: Float64[np.ndarray, "m seeds"],
    taken: Float64[np.ndarray, "m seeds"],
    kappa: Float64[np.ndarray, "m seeds"],
    steps: int,
    size: float,
) -> list[Claim]:
    """Paired over seeds: ln of raw over the prepared one, its mean with a 95 % interval, which must lie above 0."""
    where = f"{dataset}, {name}"
    paired = "paired over seeds; the whole 95 % t-interval of the mean logarithm of the ratio must lie on its side of 0"
    claims = []
    for prepared in ("normalized", "whitened", "batchnorm"):
        i = FITTED.index(prepared)
        statement = f"{where}: ln λmax raw/{prepared}"
        ratio = np.log(top[0] / top[i])
        if size > SATURATED:
            because = f"first-layer activations on raw inputs have RMS {size:.3g}: tanh is flat there, and its curvature gone at the start"
            claims.append(not_applicable(statement, measurement=ratio.mean(), because=because))
        else:
            claims.append(at_least(statement, 0, ratio.mean(), because=paired, interval=mean_interval(ratio)))
        cut = taken >= steps
        statement = f"{where}: ln of steps to target raw/{prepared}"
        if (cut[0] & cut[i]).any():
            because = f"both were cut off at {steps} steps for some seeds: nothing to compare"
            claims.append(not_applicable(statement, because=because))
            continue
        ratio = np.log(taken[0] / taken[i])
        censored = (
            f" (a lower bound: raw cut off at {steps} in {cut[0].sum()} of {cut.shape[1]})" if cut[0].any() else ""
        )
        claims.append(at_least(statement + censored, 0, ratio.mean(), because=paired, interval=mean_interval(ratio)))
    if np.isfinite(kappa).all():
        white = kappa[FITTED.index("whitened")]
        claims.append(
            equal(
                f"{where}: whitened inputs have κ = 1 above rounding",
                1,
                white,
                relative=1e-6,
                because="singular values to rounding times κ of the inputs",
            )
        )
        ratio = np.log(kappa[0] / kappa[FITTED.index("normalized")])
        claims.append(
            at_least(f"{where}: ln κ raw/normalized", 0, ratio.mean(), because=paired, interval=mean_interval(ratio))
        )
    return claims
