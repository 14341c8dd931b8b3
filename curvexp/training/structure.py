"""Which runs have equal structure, so that one program carries them as rows."""

import contextlib
import functools
import math
import weakref
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import PyTree

from curvexp import optim
from curvexp.curvature.functions import described
from curvexp.curvature.objective import WeightedMean, check_value
from curvexp.errors import ConfigError
from curvexp.linalg.lapack import x64
from curvexp.linalg.layout import devices_of
from curvexp.linalg.precision import full_precision
from curvexp.optim import Optimizer
from curvexp.problem import Problem
from curvexp.training.loop import Kind
from curvexp.types import Init

if TYPE_CHECKING:
    from curvexp.training.account import Run


def by_structure(runs: Sequence["Run"], *, batch_size: int | None = None) -> list[list[int]]:
    """Numbers of the runs, those of equal structure together: each list can go through one `run_many`.

    Runs of equal structure have the same functions (loss, evaluation, optimizer), arrays of the same shapes and dtypes (data, parameters),
    their readings at the same steps, and stand at the same step. Seeds, numbers of the optimizer, data, target may differ.

    Args:
        runs: of `curvexp.Run`. batch_size: as for `run_many`.
    """
    found: dict[Hashable, list[int]] = {}
    for number, run in enumerate(runs):
        found.setdefault(tuple(structure(run, batch_size).items()), []).append(number)
    return list(found.values())


def check_equal(runs: Sequence["Run"], batch_size: int | None) -> None:
    """Refuses runs of unequal structure.

    Raises:
        ValueError: naming the first run that differs, and in what.
    """
    first = structure(runs[0], batch_size) if runs else {}
    for number, run in enumerate(runs[1:], 1):
        other = structure(run, batch_size)
        for name, value in first.items():
            if other[name] != value:
                raise ValueError(
                    f"runs[{number}] has another {name} than runs[0] ({_short(other[name])}, {_short(value)}): expected runs of equal "
                    "structure. Part them by curvexp.training.by_structure, and call run_many for each group."
                )


def structure(run: "Run", batch_size: int | None) -> dict[str, Hashable]:
    """What rows of one program have in common, each part by the name that a person knows it by."""
    problem, optimizer = run.problem, optim.as_optimizer(run.optimizer)
    kind = kind_of(problem, optimizer, batch_size, "highest")  # the same for all
    return {
        "loss function": kind.loss,
        "evaluation": kind.evaluate,
        "number of examples": kind.examples,
        "optimizer": (optimizer.transform.init, kind.update, kind.numbers, tuple(sorted(optimizer.hyper))),
        "shape of the parameters": _parameters_form(problem.init, x64()),
        "shape of the data": _form(problem.data),
        "shape of the test data": _form(problem.test),
        "number of devices": devices_of(problem.data),
        "interval of readings": run.probe.every if run.probe is not None and run.probe.measure else None,
        "step to go on from": 0 if run.resume is None else int(run.resume.state.step),
    }


def kind_of(problem: Problem, optimizer: Optimizer, batch_size: int | None, matmul_precision: str) -> Kind:
    """What the training's programs are compiled for."""
    transform = optimizer.transform
    functions = (problem.loss, transform.update, optimizer.numbers, problem.evaluate)
    return Kind(*functions, problem.examples, batch_size, matmul_precision)


def parameters(init: Init) -> int:
    """Number of parameters that a problem begins with."""
    _, forms = _parameters_form(init, x64())
    return sum(math.prod(shape) for shape, _ in forms)


def check_loss(problem: Problem) -> None:
    """Refuses a loss that is no real number; nothing is computed, and nothing traced where it was before.

    Raises:
        ConfigError: naming the loss.
    """
    form = (_form(problem.data), x64())
    with contextlib.suppress(TypeError):  # a function that cannot be told again
        if form in _CHECKED.setdefault(problem.loss, set()):
            return
    try:
        params = jax.eval_shape(full_precision(problem.init), jax.random.key(0))
        value = jax.eval_shape(full_precision(problem.loss), params, problem.data)
    except Exception:  # of a person's own code: the run that meets it tells it, with its traceback
        return
    if isinstance(value, WeightedMean):
        raise ConfigError(
            "problem.loss returned a WeightedMean, expected one real number, which is trained on. Return its sum / weight."
        )
    try:
        check_value(value, "problem", name="loss")
    except TypeError:
        raise ConfigError(
            f"problem.loss returned {described(value)}, expected one real number, float32[] or float64[]. Return the mean over the "
            "examples, without auxiliary values: what else is to be recorded belongs into problem.evaluate."
        ) from None
    with contextlib.suppress(TypeError):
        _CHECKED[problem.loss].add(form)


_CHECKED: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


@functools.lru_cache(maxsize=8)
@full_precision
def _parameters_form(init: Init, wide: bool) -> "_Form":
    return _form(jax.eval_shape(init, jax.random.key(0)))


_Form = tuple[PyTreeDef, tuple[tuple[Any, str], ...]]


def _form(tree: PyTree) -> _Form:
    """Structure of a tree, shapes and dtypes of its arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)


def _short(value: object) -> str:
    text = getattr(value, "__qualname__", None) or str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
