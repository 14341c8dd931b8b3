"""Our optimizers, each with its theory: one transformation a kind, so that one compiled program serves every number."""

import functools
import math
from collections.abc import Callable

import optax
from numpy.typing import ArrayLike

from curvexp import theory
from curvexp.errors import ConfigError
from curvexp.numeric import is_number
from curvexp.optim.base import Hyper, Number, Optimizer, StepMatrix, theory_of
from curvexp.optim.divisor import preconditioner
from curvexp.optim.injected import Schedule, injected
from curvexp.types import Scalar

LARGEST_LR = 1e12


def sgd(*, lr: Number = "auto", fraction: float = 0.5, schedule: Schedule | None = None) -> Optimizer:
    """(Stochastic) gradient descent, x ← x − lr·g."""
    return Optimizer(
        "sgd",
        _transform(_sgd, ("lr",), schedule),
        _checked(lr=checked_lr(lr)),
        fraction=_fraction(fraction),
        schedule=schedule,
        best=lambda smallest, largest, _: theory.gradient_descent_optimum(smallest, largest),
        **theory_of(_plain_iteration),
    )


def momentum(
    *, lr: Number = "auto", momentum: Number = "auto", fraction: float = 0.5, schedule: Schedule | None = None
) -> Optimizer:
    """Polyak's heavy ball, m ← momentum·m + g, x ← x − lr·m."""
    return Optimizer(
        "momentum",
        _transform(_heavy_ball, ("lr", "momentum"), schedule),
        _checked(lr=checked_lr(lr), momentum=_decay("momentum", momentum, auto=True)),
        fraction=_fraction(fraction),
        schedule=schedule,
        best=_best_heavy_ball,
        **theory_of(_heavy_ball_iteration),
    )


def nesterov(
    *, lr: Number = "auto", momentum: Number = "auto", fraction: float = 0.5, schedule: Schedule | None = None
) -> Optimizer:
    """Nesterov momentum as optax has it, m ← momentum·m + g, x ← x − lr·(g + momentum·m)."""
    return Optimizer(
        "nesterov",
        _transform(_nesterov, ("lr", "momentum"), schedule),
        _checked(lr=checked_lr(lr), momentum=_decay("momentum", momentum, auto=True)),
        fraction=_fraction(fraction),
        schedule=schedule,
        best=_best_nesterov,
        **theory_of(_nesterov_iteration),
    )


def adam(
    *,
    lr: Number = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    fraction: float = 0.5,
    schedule: Schedule | None = None,
) -> Optimizer:
    """Adam (Kingma, Ba 2015). Its curvature is judged through P = (1 − b1^t)(√ν̂ + eps), Cohen et al. 2022, sec. 3."""
    return Optimizer(
        "adam",
        _transform(_adam, ("lr", "b1", "b2", "eps"), schedule),
        _checked(lr=checked_lr(lr), b1=_decay("b1", b1), b2=_decay("b2", b2), eps=_positive("eps", eps)),
        fraction=_fraction(fraction),
        schedule=schedule,
        preconditioner=preconditioner,
        **theory_of(_adam_iteration, preconditioned=True),
    )


def rmsprop(
    *,
    lr: Number = 1e-3,
    decay: float = 0.9,
    eps: float = 1e-8,
    fraction: float = 0.5,
    schedule: Schedule | None = None,
) -> Optimizer:
    """RMSProp (Tieleman, Hinton 2012) as optax has it: P = √(ν + eps), no bias correction, no momentum; threshold 2/lr."""
    return Optimizer(
        "rmsprop",
        _transform(_rmsprop, ("lr", "decay", "eps"), schedule),
        _checked(lr=checked_lr(lr), decay=_decay("decay", decay), eps=_positive("eps", eps)),
        fraction=_fraction(fraction),
        schedule=schedule,
        preconditioner=preconditioner,
        **theory_of(_plain_iteration, preconditioned=True),
    )


def adagrad(
    *, lr: Number = 1e-2, eps: float = 1e-7, fraction: float = 0.5, schedule: Schedule | None = None
) -> Optimizer:
    """Adagrad (Duchi, Hazan, Singer 2011) as optax has it: P = √(0.1 + Σg² + eps); threshold 2/lr."""
    return Optimizer(
        "adagrad",
        _transform(_adagrad, ("lr", "eps"), schedule),
        _checked(lr=checked_lr(lr), eps=_positive("eps", eps)),
        fraction=_fraction(fraction),
        schedule=schedule,
        preconditioner=preconditioner,
        **theory_of(_plain_iteration, preconditioned=True),
    )


def _sgd(lr: Scalar) -> optax.GradientTransformation:
    return optax.sgd(lr)


def _heavy_ball(lr: Scalar, momentum: Scalar) -> optax.GradientTransformation:
    return optax.sgd(lr, momentum)


def _nesterov(lr: Scalar, momentum: Scalar) -> optax.GradientTransformation:
    return optax.sgd(lr, momentum, nesterov=True)


def _adam(lr: Scalar, b1: Scalar, b2: Scalar, eps: Scalar) -> optax.GradientTransformation:
    return optax.adam(lr, b1, b2, eps)


def _rmsprop(lr: Scalar, decay: Scalar, eps: Scalar) -> optax.GradientTransformation:
    return optax.rmsprop(lr, decay, eps)


def _adagrad(lr: Scalar, eps: Scalar) -> optax.GradientTransformation:
    return optax.adagrad(lr, eps=eps)


@functools.cache
def _transform(
    factory: Callable[..., optax.GradientTransformation], names: tuple[str, ...], schedule: Schedule | None
) -> optax.GradientTransformationExtraArgs:
    """One object a kind; `facts` are optax's defaults, which our optimizers leave as they are."""
    facts: dict[object, dict[str, object]] = {_adam: {"eps_root": 0.0}, _rmsprop: {"eps_in_sqrt": True}}
    return injected(factory, names, facts=facts.get(factory), schedule=schedule)


def _plain_iteration(hyper: Hyper, eigenvalues: ArrayLike) -> StepMatrix:
    return theory.gradient_descent_iteration(eigenvalues, lr=hyper["lr"])


def _heavy_ball_iteration(hyper: Hyper, eigenvalues: ArrayLike) -> StepMatrix:
    return theory.heavy_ball_iteration(eigenvalues, lr=hyper["lr"], momentum=hyper["momentum"])


def _nesterov_iteration(hyper: Hyper, eigenvalues: ArrayLike) -> StepMatrix:
    return theory.nesterov_iteration(eigenvalues, lr=hyper["lr"], momentum=hyper["momentum"])


def _adam_iteration(hyper: Hyper, eigenvalues: ArrayLike) -> StepMatrix:
    return theory.adam_iteration(eigenvalues, lr=hyper["lr"], b1=hyper["b1"])


# ---- the best step where momentum is given --------------------------------------------------------------------------------------


def _best_heavy_ball(smallest: float, largest: float, beta: float | None) -> theory.Optimum:
    if beta is None:
        return theory.heavy_ball_optimum(smallest, largest)
    lr = 2 * (1 + beta) / (smallest + largest)  # the contraction is symmetric about αλ = 1 + β and grows away from it
    ends = theory.heavy_ball_contraction([smallest, largest], lr=lr, momentum=beta)
    return theory.Optimum(lr, beta, float(ends.max()))


def _best_nesterov(smallest: float, largest: float, beta: float | None) -> theory.Optimum:
    if beta is None:
        return theory.nesterov_optimum(smallest, largest)
    from scipy.optimize import minimize_scalar  # its import takes 0.4 s

    def worst(lr: float) -> float:
        return float(theory.nesterov_contraction([smallest, largest], lr=lr, momentum=beta).max())

    limit = float(theory.nesterov_threshold(lr=largest, momentum=beta))  # the lr at which λmax is at its threshold
    found = minimize_scalar(worst, bounds=(0, limit), method="bounded", options={"xatol": 1e-10 * limit})
    return theory.Optimum(float(found.x), beta, worst(float(found.x)))


# ---- what a number may be -------------------------------------------------------------------------------------------------------


def _checked(**hyper: Number) -> dict[str, Number]:
    return hyper


def checked_lr(lr: object) -> Number:
    if lr == "auto":
        return "auto"
    if not is_number(lr) or not math.isfinite(lr) or not 0 < lr <= LARGEST_LR:
        raise ConfigError(f"optim.lr={lr}: expected a number in (0, {LARGEST_LR:g}], or auto. Change optim.lr.")
    return float(lr)


def _decay(key: str, value: object, *, auto: bool = False) -> Number:
    if auto and value == "auto":
        return "auto"
    if not is_number(value) or not 0 <= value < 1:
        raise ConfigError(
            f"optim.{key}={value}: expected a number in [0, 1){', or auto' if auto else ''}. Change optim.{key}."
        )
    return float(value)


def _positive(key: str, value: object) -> float:
    if not is_number(value) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"optim.{key}={value}: expected a positive number. Change optim.{key}.")
    return float(value)


def _fraction(value: object) -> float:
    if not is_number(value) or not 0 < value <= 10:
        raise ConfigError(
            f"optim.fraction={value}: expected a number in (0, 10], the share of the stability threshold. "
            "Change optim.fraction."
        )
    return float(value)
