"""Any transformation of optax as an Optimizer."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curvexp.errors import ConfigError
from curvexp.numeric import is_number
from curvexp.optim.base import Optimizer, Schedule
from curvexp.optim.injected import injected
from curvexp.optim.known import known
from curvexp.optim.ours import checked_lr
from curvexp.types import OptState, Params, RandomKey

STEP_SIZES = ("learning_rate", "lr")  # what a function may call its step size


def from_optax(
    transform: Callable[..., optax.GradientTransformation],
    *args: Any,
    schedule: Schedule | None = None,
    name: str | None = None,
    **options: Any,
) -> Optimizer:
    """Any optax transformation, its numbers as arrays in its state; with theory where theory knows `transform`.

    The decimal numbers of `options` are arrays where its steps can be traced so, else the learning rate alone is, else nothing. Whole
    numbers and switches stay what they are.

    Args:
        transform: a function of optax, or one with its manners, e.g. optax.lion.
        args: what it takes by position, such as the transformations of optax.chain.
        schedule: step -> multiplier of the learning rate. It goes in as optax takes a schedule, as a function of the step, where
            `transform` takes one; else as the number of each step.
        options: its arguments; `lr` stands for `learning_rate`. A learning rate that is a function of the step is a schedule.

    Raises:
        ConfigError: an option that `transform` does not take, or none for one that it needs; a schedule without a learning rate.
    """
    parameters = inspect.signature(transform).parameters
    if "lr" in options and "lr" not in parameters and "learning_rate" in parameters:
        options["learning_rate"] = options.pop("lr")
    options = {key: _plain(value) for key, value in options.items()}
    lr_name = next((key for key in STEP_SIZES if key in parameters), None)
    if lr_name is not None:
        schedule, options = _step_size(transform, lr_name, schedule, options, default=parameters[lr_name].default)
    elif schedule is not None:
        raise ConfigError(
            f"optim.schedule: {_name(transform)} takes no learning rate, which a schedule multiplies. Leave optim.schedule out, or put the "
            "schedule into the part that takes a learning rate."
        )
    try:
        inspect.signature(transform).bind(*args, **options)
    except TypeError as error:
        raise ConfigError(
            f"optim._target_={_name(transform)}: {error}. Set or remove optim.KEY accordingly."
        ) from error
    theory = known(transform, _defaults(transform) | options)
    numbers = {key: float(value) for key, value in options.items() if _is_decimal(key, value, parameters)}
    about = (("unknown", theory.unknown), *theory.facts.items())
    form = _Form(transform, args, (), (), schedule, lr_name or "", False, about)
    built, names = _first_that_traces(form, options, numbers)
    fields = {key: value for key, value in theory._asdict().items() if key != "facts"}
    kept = {key: value for key, value in numbers.items() if key in names}
    return Optimizer(name or _name(transform), built, kept, schedule=schedule, **fields)


def as_optimizer(optimizer: object) -> Optimizer:
    """An Optimizer as it is; a bare optax transformation as one of which no theory and only what its state tells is known.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return _bare(optimizer)
    if isinstance(optimizer, optax.MultiSteps):
        hint = "Pass optimizer.gradient_transformation()."
    elif callable(optimizer):
        hint = "Call it, with its arguments."
    else:
        hint = "Pass one, such as optim.adam(lr=1e-3) or optax.adam(1e-3)."
    raise ConfigError(
        f"optimizer={_shown(optimizer)}: expected an optimizer of curvexp.optim or a transformation of optax. {hint}"
    )


def check_step(optimizer: Optimizer, init: Callable[[RandomKey], Params]) -> None:
    """Refuses an optimizer that cannot step on the parameters of `init`; nothing is computed.

    Raises:
        ConfigError: with the reason that the transformation gives.
    """
    _check_step(optimizer.name, optimizer.transform, tuple(optimizer.hyper), init)


@functools.lru_cache(maxsize=8)
def _check_step(
    name: str, transform: optax.GradientTransformation, numbers: tuple[str, ...], init: Callable[[RandomKey], Params]
) -> None:
    optimizer = Optimizer(name, transform, dict.fromkeys(numbers, 0.5))

    def step(key: RandomKey) -> tuple[Params, Params]:
        params = init(key)
        changes, _ = transform.update(params, optimizer.init(params), params)
        return params, changes

    try:
        params, changes = jax.eval_shape(step, jax.random.key(0))
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        NotImplementedError,
    ) as error:  # optax refuses by any of these
        raise ConfigError(
            f"optimizer={name} cannot step on these parameters: {type(error).__name__}: {_first_line(error)}. A run gives it gradient, "
            "state and parameters alone: no value of the loss, no second set of parameters such as optax.lookahead's. Choose another "
            "optimizer, or other arguments."
        ) from error
    before, after = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (params, changes))
    if before != after:
        raise ConfigError(
            f"optimizer={name}: its update has the shapes {after}, the parameters {before}; expected the same. Choose another optimizer."
        )


@functools.lru_cache(maxsize=32)
def _bare(transform: optax.GradientTransformation) -> Optimizer:
    """One object for one transformation, so that its runs share their compiled programs."""
    reason = "of a bare optax transformation no operator is known whose largest eigenvalue decides stability"
    return Optimizer("optax", optax.with_extra_args_support(transform), {}, unknown=reason)


def _step_size(
    transform: Callable[..., object], lr_name: str, schedule: Schedule | None, options: dict[str, Any], *, default: Any
) -> tuple[Schedule | None, dict[str, Any]]:
    """The schedule and the options, with a step size that is a number wherever there is any."""
    lr = options.get(lr_name, default)
    if isinstance(lr, str) and lr == "auto":
        raise ConfigError(
            f"optim.lr=auto: no step is chosen for {_name(transform)}; expected a number, e.g. optim.lr=1e-3."
        )
    if lr_name in options and callable(lr):
        if schedule is not None:
            raise ConfigError(
                f"optim.{lr_name}: a schedule, beside optim.schedule; expected one of the two. Give optim.{lr_name} a number."
            )
        return lr, {**options, lr_name: 1.0}
    if is_number(lr) and (lr_name in options or schedule is not None):
        return schedule, {**options, lr_name: checked_lr(lr)}
    if schedule is not None:
        raise ConfigError(
            f"optim.{lr_name}={lr}: expected a number, which optim.schedule multiplies. Set optim.{lr_name}."
        )
    return schedule, options


def _is_decimal(key: str, value: object, parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether an option may be an array: a decimal number, or a whole one where a decimal one is the default."""
    default = parameters[key].default if key in parameters else None
    return is_number(value) and (isinstance(value, float) or isinstance(default, float) or key in STEP_SIZES)


class _Form(NamedTuple):
    """All that a built transformation depends on; what it is called with by name is `numbers`, arrays, and `fixed`."""

    transform: Callable[..., optax.GradientTransformation]
    args: tuple[object, ...]
    numbers: tuple[str, ...]
    fixed: tuple[tuple[str, type, object], ...]  # the type too: 1 == 1.0 == True
    schedule: Schedule | None
    lr_name: str
    as_function: bool
    theory: tuple[tuple[str, Any], ...]


class _Built(NamedTuple):
    transform: optax.GradientTransformationExtraArgs
    error: str | None  # of a step on a few small arrays


def _first_that_traces(
    form: _Form, options: Mapping[str, object], numbers: Mapping[str, float]
) -> tuple[optax.GradientTransformationExtraArgs, tuple[str, ...]]:
    """The transformation with as many arrays as its steps can be traced with, and their names.

    Where no form steps on small arrays the function as it is may not either, as with a mask that names a model's parameters: then the
    first form that fails no otherwise.
    """
    own = tuple(name for name in numbers if name == form.lr_name)
    choices = [tuple(numbers), own] if form.schedule is not None else [tuple(numbers), own, ()]
    ways = (True, False) if form.schedule is not None else (False,)
    tried = []
    for as_function in ways:
        for names in dict.fromkeys(choices):
            fixed = tuple((key, type(value), value) for key, value in options.items() if key not in names)
            built = _build(form._replace(numbers=names, fixed=fixed, as_function=as_function))
            if built.error is None:
                return built.transform, names
            tried.append((built, names))
    plain = _build(form._replace(fixed=tuple((k, type(v), v) for k, v in options.items()), schedule=None))
    for built, names in tried:
        if built.error == plain.error:
            return built.transform, names
    raise ConfigError(
        f"optim._target_={_name(form.transform)}: {tried[-1][0].error}. Set or remove optim.KEY accordingly, or leave the schedule out."
    )


def _build(form: _Form) -> _Built:
    try:
        return _kept(form)
    except TypeError:  # unhashable: a mapping, a list, an array
        return _made(form)


def _made(form: _Form) -> _Built:
    given = {key: value for key, _, value in form.fixed}
    theory = dict(form.theory)
    built = injected(
        form.transform,
        form.numbers,
        given=given,
        args=form.args,
        facts={**_defaults(form.transform), **theory, **given},
        reason=theory.get("unknown"),
        schedule=form.schedule,
        lr_name=form.lr_name,
        as_function=form.as_function,
    )

    def step() -> tuple[Params, OptState]:
        params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3), "scale": jnp.ones(())}
        return built.update(params, built.init(params), params)

    try:
        jax.eval_shape(step)
    except Exception as error:
        return _Built(built, f"{type(error).__name__}: {_first_line(error)}")
    return _Built(built, None)


_kept = functools.lru_cache(maxsize=128)(_made)


def _defaults(function: Callable[..., object]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters
    return {key: p.default for key, p in parameters.items() if p.default is not p.empty}


def _plain(value: Any) -> Any:
    """A scalar array as Python's number."""
    if (
        isinstance(value, np.generic | np.ndarray | jax.Array)
        and np.ndim(value) == 0
        and not isinstance(value, jax.core.Tracer)
    ):
        return value.item()
    return value


def _name(function: object) -> str:
    return getattr(getattr(function, "func", function), "__name__", str(function))  # optax.nadam is a partial of adam


def _shown(value: object) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
