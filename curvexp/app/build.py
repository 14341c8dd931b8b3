"""From a composed config to the objects of a run, with every refusal before any compute."""

import contextlib
import functools
import inspect
import json
import re
from typing import Any, Literal, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from curvexp.app import texts
from curvexp.app.jax_cache import prepare_jax
from curvexp.app.keys import HYDRA_KEYS, PRECISIONS, check_keys, check_numbers, first_line
from curvexp.errors import ConfigError, Unsupported
from curvexp.sink import Sink


class Experiment(NamedTuple):
    """The objects of one run."""

    problem: Any
    optimizer: Any
    probe: Any
    tracker: Sink
    sinks: list[Sink]
    parameters: int


def build(config: dict[str, Any], *, names: dict[str, str] | None = None) -> Experiment:
    """The objects that the config describes; nothing is computed but what the data and the closed forms need.

    Args:
        config: from `plain`. names: the option chosen in each group, to be the objects' names.

    Raises:
        ConfigError: a value is wrong. Unsupported: a combination has no meaning.
    """
    check_keys(config)
    check_numbers(config)
    prepare_jax(config["precision"])
    optimizer, probe, tracker, sinks = build_parts(config)
    with texts.told(config):
        try:
            problem, preprocess = _problem(
                json.dumps(config["problem"]),
                json.dumps(config["preprocess"]),
                _dtype(config["precision"]),
                config["devices"],
            )
        except MemoryError as error:
            raise ConfigError(f"problem: more memory than there is ({first_line(error)}). Lower its sizes.") from error
        names = names or {}
        from curvexp.training import check

        parameters = check(problem, probe, **settings(config))
        _check_preprocess(problem, preprocess, names)
        _check_update(config["optim"], optimizer, problem)
    optimizer = optimizer._replace(name=names.get("optim", optimizer.name))
    return Experiment(problem, optimizer, probe, tracker, sinks, parameters)


def problem_of(config: dict[str, Any]) -> Any:
    """The problem that the config describes, on one device.

    Raises:
        ConfigError: a value is wrong.
    """
    with texts.told(config):
        found, _ = _problem(
            json.dumps(config["problem"]), json.dumps(config["preprocess"]), _dtype(config["precision"]), 1
        )
    return found


def build_parts(config: dict[str, Any]) -> tuple[Any, Any, Sink, list[Sink]]:
    """The optimizer, the probe, the tracker and the person's own sinks: what can be built, and refused, without data."""
    with texts.told(config):
        tracker = _sink("track", config["track"])
        sinks = [_sink(f"sinks.{number}", node) for number, node in enumerate(config["sinks"])]
        return _optimizer(config["optim"]), _instantiate("probe", config["probe"]), tracker, sinks


def _sink(path: str, node: dict[str, Any]) -> Sink:
    found = _instantiate(path, node)
    for method in ("start", "append", "finish"):
        if not callable(getattr(found, method, None)):
            raise ConfigError(
                f"{path}._target_={node['_target_']}: expected a sink, with the methods start, append and finish; "
                f"{type(found).__name__} has no {method}. Change {path}._target_."
            )
    if callable(getattr(found, "check", None)):
        found.check()
    return found


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `run` that stand at the top level of the config."""
    found = {key: config[key] for key in ("steps", "batch_size", "record_every", "target", "diverge_at")}
    return {**found, "matmul_precision": PRECISIONS[config["precision"]]}


def _dtype(precision: str) -> str:
    """The dtype of the parameters."""
    return "float64" if precision == "float64" else "float32"


def _instantiate(path: str, node: dict[str, Any]) -> Any:
    """What Hydra makes of a mapping with _target_; lists and mappings come to it in plain Python."""
    _check_texts(path, node)
    try:
        return instantiate({"_convert_": "all", **node})
    except InstantiationException as error:
        inside = re.search(r"^full_key: (\S+)", str(error), re.MULTILINE)
        path = f"{path}.{inside[1]}" if inside else path
        cause = error.__cause__
        while cause is not None and not isinstance(cause, ConfigError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ConfigError):
            raise cause from None
        known = _is_known(node.get("_target_"))
        if cause is None:  # Hydra's own refusal, such as that of a function on its blocklist
            raise ConfigError(f"{path}: {' '.join(str(error).split())[:200]}. Change {path}.") from error
        if isinstance(cause, TypeError) or (known and isinstance(cause, Exception)):
            raise ConfigError(f"{path}: {first_line(cause)}. Change {path}.") from error
        raise cause from None


def _check_texts(path: str, node: Any) -> None:
    """Refuses a text that holds an interpolation after all were resolved: Hydra would resolve it once more."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        _check_texts(f"{path}.{key}", value)
    if isinstance(node, str) and "${" in node:
        raise ConfigError(f"{path}={node}: an interpolation as text; expected a value without ${{. Change {path}.")


@functools.lru_cache(maxsize=64)
def _shared(path: str, node: str) -> Any:
    """`_instantiate`, one object for one config in JSON: jobs with the same functions share their compiled programs."""
    return _instantiate(path, json.loads(node))


def _optimizer(node: dict[str, Any]) -> Any:
    """The optimizer; the numbers are added to what Hydra makes of the rest, so that jobs that differ in them share the rest."""
    from curvexp.optim import Optimizer, from_optax

    schedule = node.get("schedule")
    made = _shared("optim.schedule", json.dumps(schedule)) if isinstance(schedule, dict) else schedule
    if made is not None and not callable(made):
        raise ConfigError(
            f"optim.schedule={schedule}: expected an option of optim/schedule, or a mapping with _target_. Change optim.schedule."
        )
    options = {key: value for key, value in node.items() if key not in HYDRA_KEYS | {"schedule"}}
    numbers = {key: value for key, value in options.items() if isinstance(value, int | float)}
    rest = {key: value for key, value in node.items() if key not in (*numbers, "schedule")}
    partial = _shared("optim", json.dumps({**rest, "_partial_": True}))
    target, args = partial.func, partial.args
    options = {key: numbers.get(key, partial.keywords.get(key)) for key in options}
    if str(getattr(target, "__module__", None)).split(".")[0] != "optax":
        takes = inspect.signature(target).parameters
        if made is None or "schedule" in takes:  # else it is wrapped, and the schedule goes in as its learning rate
            try:
                found = target(*args, **options, **({"schedule": made} if made is not None else {}))
            except TypeError as error:
                raise ConfigError(f"optim: {first_line(error)}") from error
            if isinstance(found, Optimizer):
                return found
    else:  # optax's sequences are tuples, which one can tell apart by their values
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return from_optax(target, *args, schedule=made, **options)


def _check_update(node: dict[str, Any], optimizer: Any, problem: Any) -> None:
    """Refuses arguments that optax's functions find wrong only when a step is traced; nothing is computed."""
    from curvexp.optim import check_step

    schedule = node.get("schedule")
    targets = [str(part.get("_target_")) for part in (node, schedule) if isinstance(part, dict)]
    if all(target.startswith("curvexp.") for target in targets) or not all(map(_is_known, targets)):
        return
    try:
        check_step(optimizer, problem.init)
    except Exception as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(
            f"optim: {' and '.join(targets)} cannot be called so: {kind}{first_line(error)}. Change optim.KEY."
        ) from error


def _is_known(target: Any) -> bool:
    """Whether a function is ours or optax's: what it raises is about its arguments, where a person's own is told with its traceback."""
    return str(target).split(".", 1)[0] in ("curvexp", "optax")


@functools.lru_cache(maxsize=8)
def _problem(problem: str, preprocess: str, dtype: str, devices: int | Literal["all"]) -> tuple[Any, Any]:
    """One problem for one config, and its preprocessing: jobs that differ in seed, optimizer or probe alone share data and programs."""
    import jax.numpy as jnp

    from curvexp.preprocess import watched
    from curvexp.problem.placement import spread

    builder = _instantiate("problem", {**json.loads(problem), "_partial_": True})
    try:
        inspect.signature(builder).bind(preprocess=None, dtype=None)
    except TypeError as error:
        raise ConfigError(f"problem: {first_line(error)}. Change problem.") from error
    except ValueError:  # it has no signature
        pass
    prepared = watched(_instantiate("preprocess", json.loads(preprocess)))
    made = builder(preprocess=prepared, dtype=jnp.dtype(dtype))
    return (made if devices == 1 else spread(made, devices)), prepared


def _check_preprocess(problem: Any, preprocess: Any, names: dict[str, str]) -> None:
    """Refuses a preprocessing that the problem ignores: two equal runs would bear different names."""
    from curvexp.preprocess import ignored

    name = ignored(preprocess)
    if name is None:
        return
    with contextlib.suppress(
        Exception
    ):  # a loss that raises is told by the run; it may be the first to ask for the preprocessing
        import jax

        jax.eval_shape(lambda key: problem.loss(problem.init(key), problem.data), jax.random.key(0))
    if ignored(preprocess):
        raise Unsupported(
            f"preprocess={names.get('preprocess', name)} has no meaning for problem={names.get('problem', problem.name)}, which makes no "
            "use of it. Choose preprocess=raw, or apply it in the problem's function."
        )
