"""Optimizers: an optax transformation, and beside it the theory that goes with it.

The numbers (lr, momentum, b1, ...) live as arrays in the optax state, put there by `optax.inject_hyperparams`, and the transformation
itself is one object for each kind of optimizer. So one compiled program serves every learning rate, and can be vmapped over them.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curvexp import theory
from curvexp.errors import ConfigError
from curvexp.host import fetch
from curvexp.number import is_number
from curvexp.programs import compiled

Hyper = Mapping[str, Any]
Number = float | Literal["auto"]
Schedule = Callable[[Any], Any]

FALLBACK_MOMENTUM = 0.9  # where momentum=auto and no spectrum is known
LARGEST_LR = 1e12


class Optimizer(NamedTuple):
    """An optax transformation with its numbers and its theory.

    Attributes:
        name: the option's name.
        transform: the same object for every optimizer of this kind; its state holds `hyper` as arrays.
        hyper: the numbers, `auto` where theory or a measurement is to choose them (see `resolve`).
        fraction: share of the stability threshold that lr=auto takes where no best step is known.
        schedule: step -> multiplier of lr, or None.
        best: (smallest, largest, momentum or None) -> theory.Optimum on a quadratic, or None.
        threshold: hyper -> largest stable curvature, or None.
        rate: (hyper, eigenvalues) -> contraction along each eigenvector, or None.
        preconditioner: state after an update -> the diagonal P that the update divided by, a pytree like params, or None.
        iteration: (hyper, eigenvalues) -> the step as a matrix on the components of (gradient, momentum) along each eigenvector,
            (..., d, d) with d 1 or 2, of the preconditioned Hessian where there is a preconditioner; or None.
    """

    name: str
    transform: optax.GradientTransformationExtraArgs
    hyper: Hyper
    fraction: float = 0.5
    schedule: Schedule | None = None
    best: Callable[[float, float, float | None], theory.Optimum] | None = None
    threshold: Callable[[Hyper], Any] | None = None
    rate: Callable[[Hyper, Any], Any] | None = None
    preconditioner: Callable[[Any], Any] | None = None
    iteration: Callable[[Hyper, Any], Any] | None = None

    def init(self, params: Any) -> Any:
        """Optax state at `params`, holding this optimizer's numbers as arrays; `auto` numbers are to be resolved before."""
        unresolved = [name for name, value in self.hyper.items() if value == "auto"]
        if unresolved:
            raise ConfigError(
                f"optim.{unresolved[0]}=auto: expected a number by now; call curvexp.optim.resolve first."
            )
        dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(params)))
        with np.errstate(over="ignore"):  # beyond float32 a number is infinite
            numbers = {name: np.asarray(value, dtype) for name, value in self.hyper.items()}
        return _begun(params, numbers, init=self.transform.init)

    @property
    def numbers(self) -> Callable[[Any], dict[str, Any]]:
        """state -> the numbers that its next update uses, as arrays, `lr` multiplied by the schedule; the same object for one kind."""
        return _numbers(self.lr_name, self.schedule)

    def hyper_at(self, state: Any) -> dict[str, float]:
        """The numbers that the next update of `state` uses, on the host."""
        return {name: float(value) for name, value in fetch(self.numbers(state)).items()}

    def hyper_before(self, state: Any, steps: int) -> dict[str, Any]:
        """The numbers that the last `steps` updates up to `state` used: float64, (), or (steps,) for the lr of a schedule."""
        injected, _ = _injected(state)
        if injected is None:
            return {}
        found: dict[str, Any] = {name: np.float64(value) for name, value in fetch(injected.hyperparams).items()}
        if self.schedule is not None and self.lr_name in found:
            counts = int(injected.count) - np.arange(steps, 0, -1)
            factors = _over(np.asarray(counts, np.int32), schedule=self.schedule)
            found[self.lr_name] = found[self.lr_name] * np.asarray(factors, np.float64)
        return found

    @property
    def lr_name(self) -> str:
        """Name of the step size among the numbers: `lr` in ours, `learning_rate` in optax's own."""
        return "lr" if "lr" in self.hyper else "learning_rate"


def sgd(*, lr: Number = "auto", fraction: float = 0.5, schedule: Schedule | None = None) -> Optimizer:
    """(Stochastic) gradient descent, x ← x − lr·g."""
    return Optimizer(
        "sgd",
        _transform(_sgd, ("lr",), schedule),
        _checked(lr=_lr(lr)),
        fraction=_fraction(fraction),
        schedule=schedule,
        best=lambda smallest, largest, _: theory.gradient_descent_optimum(smallest, largest),
        threshold=lambda hyper: theory.gradient_descent_threshold(lr=hyper["lr"]),
        rate=lambda hyper, eigenvalues: theory.gradient_descent_contraction(eigenvalues, lr=hyper["lr"]),
        iteration=_plain_iteration,
    )


def momentum(
    *, lr: Number = "auto", momentum: Number = "auto", fraction: float = 0.5, schedule: Schedule | None = None
) -> Optimizer:
    """Polyak's heavy ball, m ← momentum·m + g, x ← x − lr·m."""
    return Optimizer(
        "momentum",
        _transform(_heavy_ball, ("lr", "momentum"), schedule),
        _checked(lr=_lr(lr), momentum=_decay("momentum", momentum, auto=True)),
        fraction=_fraction(fraction),
        schedule=schedule,
        best=_best_heavy_ball,
        threshold=lambda hyper: theory.heavy_ball_threshold(lr=hyper["lr"], momentum=hyper["momentum"]),
        rate=lambda hyper, eigenvalues: theory.heavy_ball_contraction(
            eigenvalues, lr=hyper["lr"], momentum=hyper["momentum"]
        ),
        iteration=lambda hyper, eigenvalues: theory.heavy_ball_iteration(
            eigenvalues, lr=hyper["lr"], momentum=hyper["momentum"]
        ),
    )


def nesterov(
    *, lr: Number = "auto", momentum: Number = "auto", fraction: float = 0.5, schedule: Schedule | None = None
) -> Optimizer:
    """Nesterov momentum as optax has it, m ← momentum·m + g, x ← x − lr·(g + momentum·m)."""
    return Optimizer(
        "nesterov",
        _transform(_nesterov, ("lr", "momentum"), schedule),
        _checked(lr=_lr(lr), momentum=_decay("momentum", momentum, auto=True)),
        fraction=_fraction(fraction),
        schedule=schedule,
        best=_best_nesterov,
        threshold=lambda hyper: theory.nesterov_threshold(lr=hyper["lr"], momentum=hyper["momentum"]),
        rate=lambda hyper, eigenvalues: theory.nesterov_contraction(
            eigenvalues, lr=hyper["lr"], momentum=hyper["momentum"]
        ),
        iteration=lambda hyper, eigenvalues: theory.nesterov_iteration(
            eigenvalues, lr=hyper["lr"], momentum=hyper["momentum"]
        ),
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
        _checked(lr=_lr(lr), b1=_decay("b1", b1), b2=_decay("b2", b2), eps=_positive("eps", eps)),
        fraction=_fraction(fraction),
        schedule=schedule,
        threshold=lambda hyper: theory.adam_threshold(lr=hyper["lr"], b1=hyper["b1"]),
        preconditioner=preconditioner,
        iteration=lambda hyper, eigenvalues: theory.adam_iteration(eigenvalues, lr=hyper["lr"], b1=hyper["b1"]),
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
        _checked(lr=_lr(lr), decay=_decay("decay", decay), eps=_positive("eps", eps)),
        fraction=_fraction(fraction),
        schedule=schedule,
        threshold=lambda hyper: theory.gradient_descent_threshold(lr=hyper["lr"]),
        preconditioner=preconditioner,
        iteration=_plain_iteration,
    )


def adagrad(
    *, lr: Number = 1e-2, eps: float = 1e-7, fraction: float = 0.5, schedule: Schedule | None = None
) -> Optimizer:
    """Adagrad (Duchi, Hazan, Singer 2011) as optax has it: P = √(0.1 + Σg² + eps); threshold 2/lr."""
    return Optimizer(
        "adagrad",
        _transform(_adagrad, ("lr", "eps"), schedule),
        _checked(lr=_lr(lr), eps=_positive("eps", eps)),
        fraction=_fraction(fraction),
        schedule=schedule,
        threshold=lambda hyper: theory.gradient_descent_threshold(lr=hyper["lr"]),
        preconditioner=preconditioner,
        iteration=_plain_iteration,
    )


def from_optax(
    transform: Callable[..., Any], *, schedule: Schedule | None = None, name: str | None = None, **options: Any
) -> Optimizer:
    """Any optax transformation, with its numeric options as arrays in its state; no theory goes with it.

    Args:
        transform: a function of optax, or one with its manners, e.g. optax.lion.
        schedule: step -> multiplier of the learning rate.
        options: its arguments; `lr` stands for `learning_rate`.

    Raises:
        ConfigError: an option that `transform` does not take, or none for one that it needs.
    """
    known = inspect.signature(transform).parameters
    if "lr" in options and "lr" not in known and "learning_rate" in known:
        options["learning_rate"] = options.pop("lr")
    if options.get("learning_rate") == "auto":
        raise ConfigError(
            f"optim.lr=auto: no stability threshold is known for {_name(transform)}; expected a number, e.g. optim.lr=1e-3."
        )
    numbers = {key: float(value) for key, value in options.items() if is_number(value)}
    if "learning_rate" in numbers:
        _lr(numbers["learning_rate"])
    fixed = tuple((key, value) for key, value in options.items() if key not in numbers)
    try:
        built = _from_optax(transform, tuple(numbers), fixed, schedule)
    except TypeError as error:
        raise ConfigError(
            f"optim._target_={_name(transform)}: {error}. Set or remove optim.KEY accordingly."
        ) from error
    return Optimizer(name or _name(transform), built, numbers, schedule=schedule)


def resolve(
    optimizer: Optimizer,
    *,
    eigenvalues: Any | None = None,
    sharpness: float | None = None,
    eps: float = float(np.finfo(np.float64).eps),
) -> tuple[Optimizer, str | None]:
    """The optimizer with a number wherever `auto` stood, and a sentence on how it was chosen (None where nothing was auto).

    Args:
        eigenvalues: the constant Hessian's, where the problem knows it, (n,): theory's best step for the extreme ones above rounding.
        sharpness: largest eigenvalue measured at the start, else: `fraction` of the stability threshold.
        eps: machine epsilon of the run's precision: what cannot be told from zero in it is no part of the condition number.

    Raises:
        ConfigError: nothing positive to scale lr by.
    """
    hyper = dict(optimizer.hyper)
    if "auto" not in hyper.values():
        return optimizer, None
    if hyper[optimizer.lr_name] != "auto":
        hyper["momentum"] = FALLBACK_MOMENTUM
        return optimizer._replace(hyper=hyper), f"momentum={FALLBACK_MOMENTUM} (momentum=auto beside a given lr)"
    given = hyper.get("momentum")
    if eigenvalues is not None and optimizer.best is not None:
        nonzero = theory.above_rounding(eigenvalues, eps=eps)
        if len(nonzero) and nonzero.min() > 0:
            found = optimizer.best(nonzero.min(), nonzero.max(), None if given in (None, "auto") else given)
            hyper |= {"lr": found.lr} | ({"momentum": found.momentum} if "momentum" in hyper else {})
            return optimizer._replace(hyper=hyper), f"{_list(hyper)}: theory's best, worst contraction {found.rate:.6g}"
        sharpness = float(np.abs(nonzero).max()) if len(nonzero) else 0.0
    if given == "auto":
        hyper["momentum"] = FALLBACK_MOMENTUM
    if optimizer.threshold is None or sharpness is None or not (sharpness > 0 and math.isfinite(sharpness)):
        raise ConfigError(
            f"optim.lr=auto: no step can be derived (largest curvature {sharpness}); expected some curvature at the "
            "start. Give optim.lr a number."
        )
    unit = float(optimizer.threshold({**hyper, "lr": 1.0}))
    hyper["lr"] = optimizer.fraction * unit / sharpness
    return (
        optimizer._replace(hyper=hyper),
        f"{_list(hyper)}: {optimizer.fraction:g} of the stability threshold for the largest curvature {sharpness:.6g}",
    )


# ---- the transformations: one object a kind -------------------------------------------------------------------------------------


def _sgd(lr: Any) -> Any:
    return optax.sgd(lr)


def _heavy_ball(lr: Any, momentum: Any) -> Any:
    return optax.sgd(lr, momentum)


def _nesterov(lr: Any, momentum: Any) -> Any:
    return optax.sgd(lr, momentum, nesterov=True)


def _adam(lr: Any, b1: Any, b2: Any, eps: Any) -> Any:
    return optax.adam(lr, b1, b2, eps)


def _rmsprop(lr: Any, decay: Any, eps: Any) -> Any:
    return optax.rmsprop(lr, decay, eps)


def _adagrad(lr: Any, eps: Any) -> Any:
    return optax.adagrad(lr, eps=eps)


@functools.cache
def _transform(factory: Callable[..., Any], names: tuple[str, ...], schedule: Schedule | None) -> Any:
    """The injected transformation; its numbers are placeholders that `Optimizer.init` replaces."""
    return _scheduled(optax.inject_hyperparams(factory)(**dict.fromkeys(names, 0.5)), schedule)


@functools.cache
def _from_optax(
    transform: Callable[..., Any], names: tuple[str, ...], fixed: tuple[tuple[str, Any], ...], schedule: Schedule | None
) -> Any:
    return _scheduled(optax.inject_hyperparams(transform)(**dict.fromkeys(names, 0.5), **dict(fixed)), schedule)


def _scheduled(transform: Any, schedule: Schedule | None) -> Any:
    """The transformation with its step multiplied by the schedule: the direction does not depend on lr in any of ours."""
    if schedule is None:
        return optax.with_extra_args_support(transform)
    return optax.chain(transform, optax.scale_by_schedule(schedule))


@functools.partial(compiled, static=("init",))
def _begun(params: Any, numbers: dict[str, Any], *, init: Callable[[Any], Any]) -> Any:
    """The state at `params`, with the numbers in their place."""
    state = init(params)
    injected, put = _injected(state)
    return put(injected._replace(hyperparams={**injected.hyperparams, **numbers})) if injected else state


@functools.cache
def _numbers(lr_name: str, schedule: Schedule | None) -> Callable[[Any], dict[str, Any]]:
    def numbers(state: Any) -> dict[str, Any]:
        injected, _ = _injected(state)
        if injected is None:
            return {}
        found = dict(injected.hyperparams)
        if schedule is not None and lr_name in found:
            found[lr_name] = found[lr_name] * schedule(injected.count)
        return found

    return numbers


_over = jax.jit(lambda counts, schedule: jax.vmap(schedule)(counts), static_argnames="schedule")


def _plain_iteration(hyper: Hyper, eigenvalues: Any) -> Any:
    return theory.gradient_descent_iteration(eigenvalues, lr=hyper["lr"])


def momentum_of(opt_state: Any) -> Any:
    """The momentum m in an optax state, a pytree like the parameters: the trace of sgd, Adam's first moment; None without any."""
    kinds = (optax.TraceState, optax.ScaleByAdamState)
    for state in jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, kinds)):
        if isinstance(state, kinds):
            return state.trace if isinstance(state, optax.TraceState) else state.mu
    return None


def _injected(state: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The part of an optax state that holds the numbers, and how to put it back; (None, identity) where there is none."""
    if hasattr(state, "hyperparams"):
        return state, lambda new: new
    if isinstance(state, tuple) and state and hasattr(state[0], "hyperparams"):
        return state[0], lambda new: (new, *state[1:])
    return None, lambda _: state


def preconditioner(
    opt_state: Any, *, b1: float | None = None, b2: float | None = None, eps: float | None = None
) -> Any:
    """The diagonal P that an adaptive optax optimizer divided its last update by, a pytree like the parameters.

        Adam     (1 − b1^t)(√(ν/(1 − b2^t)) + eps), with the correction of the first moment: the step is α/P times m, not m/(1 − b1^t)
        RMSProp  √(ν + eps)
        Adagrad  √(Σg² + eps)

    Args:
        opt_state: holds the state of scale_by_adam, scale_by_rms or scale_by_rss, however deep, and may be that of
            optax.inject_hyperparams, whose numbers are then taken.
        b1, b2, eps: the optimizer's numbers where the state does not hold them; default: optax's own defaults.

    Raises:
        ValueError: no such state in it.

    Source: Cohen et al. 2022, sec. 2 and 3.
    """
    injected, _ = _injected(opt_state)
    numbers = dict(injected.hyperparams) if injected else {}
    numbers |= {name: value for name, value in (("b1", b1), ("b2", b2), ("eps", eps)) if value is not None}
    kinds = (optax.ScaleByAdamState, optax.ScaleByRmsState, optax.ScaleByRssState)
    found = [s for s in jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, kinds)) if isinstance(s, kinds)]
    if not found:
        raise ValueError(
            f"no state of adam, rmsprop or adagrad in {type(opt_state).__name__}; expected one of {', '.join(k.__name__ for k in kinds)}."
        )
    state = found[0]
    if isinstance(state, optax.ScaleByAdamState):
        first, second, small = (numbers.get(name, value) for name, value in (("b1", 0.9), ("b2", 0.999), ("eps", 1e-8)))
        dtype = optax.tree.dtype(state.nu, "highest")
        t = state.count.astype(dtype)
        return jax.tree.map(lambda nu: (1 - first**t) * (jnp.sqrt(nu / (1 - second**t)) + small), state.nu)
    if isinstance(state, optax.ScaleByRmsState):
        return jax.tree.map(lambda nu: jnp.sqrt(nu + numbers.get("eps", 1e-8)), state.nu)
    return jax.tree.map(lambda total: jnp.sqrt(total + numbers.get("eps", 1e-7)), state.sum_of_squares)


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


def _lr(lr: Any) -> Number:
    if lr == "auto":
        return "auto"
    if not is_number(lr) or not math.isfinite(lr) or not 0 < lr <= LARGEST_LR:
        raise ConfigError(f"optim.lr={lr}: expected a number in (0, {LARGEST_LR:g}], or auto. Change optim.lr.")
    return float(lr)


def _decay(key: str, value: Any, *, auto: bool = False) -> Number:
    if auto and value == "auto":
        return "auto"
    if not is_number(value) or not 0 <= value < 1:
        raise ConfigError(
            f"optim.{key}={value}: expected a number in [0, 1){', or auto' if auto else ''}. Change optim.{key}."
        )
    return float(value)


def _positive(key: str, value: Any) -> float:
    if not is_number(value) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"optim.{key}={value}: expected a positive number. Change optim.{key}.")
    return float(value)


def _fraction(value: Any) -> float:
    if not is_number(value) or not 0 < value <= 10:
        raise ConfigError(
            f"optim.fraction={value}: expected a number in (0, 10], the share of the stability threshold. "
            "Change optim.fraction."
        )
    return float(value)


def _list(hyper: Hyper) -> str:
    return ", ".join(f"{name}={value:.6g}" for name, value in hyper.items() if name in ("lr", "momentum"))


def _name(function: Any) -> str:
    return getattr(getattr(function, "func", function), "__name__", str(function))  # optax.nadam is a partial of adam
