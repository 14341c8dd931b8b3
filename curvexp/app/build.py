"""From a composed config to the objects of a run, with every refusal before any compute."""

import contextlib
import copy
import difflib
import functools
import inspect
import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curvexp import home
from curvexp.app import texts
from curvexp.errors import ConfigError, Unsupported
from curvexp.numeric import is_number
from curvexp.store import secrets
from curvexp.store.folder import jsonable

CONTROLS = ("resume", "retry", "trust")  # keys that say how to go on with a run; they are no part of its config
GROUPS = ("problem", "preprocess", "optim", "probe", "track")
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_GIVEN_BY_US = {"preprocess", "dtype"}  # what a problem's builder is called with
PRECISIONS = {  # of the parameters and, by JAX's name, of the training's matrix products; the curvature is measured in the parameters'
    "float32": "highest",
    "float64": "highest",
    "tensorfloat32": "tensorfloat32",
}
CACHE_BYTES = 2**28  # of compiled programs, some thousands


class Experiment(NamedTuple):
    """The objects of one run."""

    problem: Any
    optimizer: Any
    probe: Any
    tracker: Any
    parameters: int


def conf_folder() -> Path:
    """Where the config files lie: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).parents[1] / "_conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as dicts, lists and numbers, interpolations resolved.

    Raises:
        ConfigError: a mandatory value is missing, an interpolation leads nowhere, JSON has no form for a value, or it is a secret of the
            environment.
    """
    try:
        ours = config
        if "hydra" in config:  # in a job Hydra has taken its own part out
            ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        found = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    except Exception as error:  # omegaconf has a dozen kinds, each with the key in its message
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {_first_line(error)}") from error
    assert isinstance(found, dict)
    jsonable(found)
    secrets.check(found)
    return {str(key): value for key, value in found.items()}


def check_keys(config: dict[str, Any]) -> None:
    """Refuses every key that nothing reads, with the nearest name, and one that was deleted: `+key=` and `~key` slip past Hydra's check.

    Raises:
        ConfigError: naming the key.
    """
    known = [*_defaults(), *GROUPS]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: unknown key; expected one of {', '.join(known)}.{nearest(key, known)}")
    for key, value in _defaults().items():
        if key not in config and key not in CONTROLS:
            raise ConfigError(f"{key}: missing; expected a value, as in {key}={value}. Leave out ~{key}.")
    for group in GROUPS:
        node = config.get(group)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(
                f"{group}={node}: expected one of its options, or a mapping with _target_. Set {group}=OPTION."
            )
        _check_node(group, node)


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
    optimizer, probe, tracker = build_parts(config)
    with texts.told(config):
        try:
            problem, preprocess = _problem(
                json.dumps(config["problem"]),
                json.dumps(config["preprocess"]),
                _dtype(config["precision"]),
                config["devices"],
            )
        except MemoryError as error:
            raise ConfigError(f"problem: more memory than there is ({_first_line(error)}). Lower its sizes.") from error
        names = names or {}
        from curvexp.training import check

        parameters = check(problem, probe, **settings(config))
        _check_preprocess(problem, preprocess, names)
        _check_update(config["optim"], optimizer, problem)
    optimizer = optimizer._replace(name=names.get("optim", optimizer.name))
    return Experiment(problem, optimizer, probe, tracker, parameters)


def build_parts(config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The optimizer, the probe and the tracker: what can be built, and refused, without data."""
    with texts.told(config):
        tracker = _instantiate("track", config["track"])
        tracker.check()
        return _optimizer(config["optim"]), _instantiate("probe", config["probe"]), tracker


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `run` that stand at the top level of the config."""
    found = {key: config[key] for key in ("steps", "batch_size", "record_every", "target", "diverge_at")}
    return {**found, "matmul_precision": PRECISIONS[config["precision"]]}


def check_numbers(config: dict[str, Any]) -> None:
    """Refuses a wrong seed or precision, and numbers of a wrong kind; ranges that need the problem are the training's to check.

    Raises:
        ConfigError: naming the key.
    """
    with texts.told(config):
        _check_numbers(config)


def _check_numbers(config: dict[str, Any]) -> None:
    seed, precision = config["seed"], config["precision"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed}: expected an integer from 0 to 2^32 - 1. Change seed.")
    if precision not in list(PRECISIONS):
        expected = f"{', '.join(list(PRECISIONS)[:-1])} or {list(PRECISIONS)[-1]}"
        raise ConfigError(f"precision={precision}: expected {expected}.{nearest(str(precision), list(PRECISIONS))}")
    landscape = "off" if config["landscape"] is False else config["landscape"]  # YAML reads a bare off as false
    if landscape not in ("auto", "all", "off"):
        raise ConfigError(f"landscape={landscape}: expected auto, all or off. Change landscape.")
    for key in ("steps", "record_every"):
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
            raise ConfigError(f"{key}={value}: expected an integer from 1 to 10^9. Change {key}.")
    devices = config["devices"]
    if devices != "all" and (isinstance(devices, bool) or not isinstance(devices, int) or devices < 1):
        raise ConfigError(f"devices={devices}: expected a positive integer, or all. Change devices.")
    _check_checkpoint(config["checkpoint"])
    value = config["diverge_at"]
    if not is_number(value) or math.isnan(value) or value <= 1:
        raise ConfigError(f"diverge_at={value}: expected a number above 1. Change diverge_at.")


def _check_checkpoint(node: Any) -> None:
    known = _defaults()["checkpoint"]
    if not isinstance(node, dict) or set(node) != set(known):
        raise ConfigError(f"checkpoint={node}: expected {', '.join(known)}. Change checkpoint.")
    for key in ("every", "keep"):
        value = node[key]
        if key == "every" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
            expected = "an integer from 1 to 10^9" + (", or null" if key == "every" else "")
            raise ConfigError(f"checkpoint.{key}={value}: expected {expected}. Change checkpoint.{key}.")
    value = node["seconds"]
    if value is not None and not (is_number(value) and value > 0):
        raise ConfigError(f"checkpoint.seconds={value}: expected seconds above 0, or null. Change checkpoint.seconds.")


def prepare_jax(precision: str) -> None:
    """Sets the precision of this job, and JAX's compilation cache: jobs of one process share these flags, so each sets them.

    The cache lies in the user's cache folder, or where there is none in a temporary one of the user's own, and holds CACHE_BYTES, the least
    recently used going first, under a lock that parallel jobs share. JAX's own variables decide otherwise:
    JAX_ENABLE_COMPILATION_CACHE=false for none, JAX_COMPILATION_CACHE_DIR for another folder, which is then left as JAX treats it,
    JAX_COMPILATION_CACHE_MAX_SIZE for another size in bytes, -1 for no bound.
    """
    import jax

    if jax.config.values["jax_enable_compilation_cache"] and jax.config.values["jax_compilation_cache_dir"] is None:
        folder = _cache_folder()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:  # JAX's eviction asks for the name of each file's owner
            jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES if home.has_name() else -1)
        with contextlib.suppress(OSError):  # JAX then warns, and compiles
            _mend_cache(folder)
    jax.config.update("jax_enable_x64", precision == "float64")


def _dtype(precision: str) -> str:
    """The dtype of the parameters."""
    return "float64" if precision == "float64" else "float32"


def _cache_folder() -> Path:
    """The folder of compiled programs: below the user's cache folder, or a temporary one where that cannot be told or written."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no HOME, and no entry of the user in passwd
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "curvexp" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return home.temporary() / "programs"


def _mend_cache(folder: Path) -> None:
    """Dates entries without a date, which a kill between the two leaves: JAX's eviction stops at one. Where JAX evicts nothing, and the
    cache is full, it is emptied."""
    if not home.has_name() and folder.is_dir():
        entries = list(os.scandir(folder))
        if sum(entry.stat().st_size for entry in entries) > CACHE_BYTES:
            for entry in entries:
                os.unlink(entry.path)
    names = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    for name in names:
        if name.endswith("-cache") and f"{name.removesuffix('-cache')}-atime" not in names:
            (folder / f"{name.removesuffix('-cache')}-atime").write_bytes(bytes(8))


def check_writable(folder: str | Path, key: str) -> None:
    """Refuses an output folder that cannot be made or written; it is made, and removed again.

    Raises:
        ConfigError: naming the folder and the key.
    """
    path = Path(os.path.abspath(folder))
    missing = [part for part in (path, *path.parents) if not os.path.lexists(part)]
    probe = path / f".curvexp-{os.getpid()}"
    made: list[Path] = []
    try:  # what a file system takes, in names, depth and rights, it says best itself
        for part in (*reversed(missing), probe):
            part.mkdir()
            made.append(part)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        raise ConfigError(f"{key}={folder}: {problem}; expected a folder that can be written. Change {key}.") from error
    finally:
        for part in reversed(made):
            part.rmdir()


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean X or Y?`, or nothing where no known name is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def defaults() -> dict[str, Any]:
    """What conf/config.yaml has at its top level, Hydra's part and the groups aside."""
    return copy.deepcopy(_defaults())


@functools.cache
def _defaults() -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "config.yaml"), resolve=False)
    return {str(key): value for key, value in found.items() if key not in ("defaults", "hydra")}


def _check_node(path: str, node: Any) -> None:
    """Every mapping with a _target_, at any depth, has only keys that its target takes."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check_node(f"{path}.{index}", item)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        parameters = _signature(path, node["_target_"])
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        names = [name for name in parameters if name not in _GIVEN_BY_US or path != "problem"]
        if path == "optim" and "schedule" not in names:
            names.append("schedule")  # of a transformation of optax's own, which we wrap
        if path == "optim" and "learning_rate" in names:
            names.append("lr")
        for key in node:
            if key not in _HYDRA_KEYS and key not in names and not takes_all:
                raise ConfigError(
                    f"{path}.{key}={node[key]}: unknown key; {node['_target_']} takes {', '.join(names) or 'none'}."
                    f"{nearest(key, names)}"
                )
    for key, value in node.items():
        _check_node(f"{path}.{key}", value)


def _signature(path: str, target: Any) -> Any:
    try:
        return _parameters(target)
    except (Exception, SystemExit) as error:  # an ImportError, or what the user's module raises while it is imported
        why = " ".join(line.strip() for line in (str(error) or type(error).__name__).splitlines()[:2])
        if isinstance(error, _NoFunction):
            raise ConfigError(f"{path}._target_={target}: expected a function, found {error}.") from error
        raise ConfigError(f"{path}._target_={target}: cannot be imported: {why}. Change {path}._target_.") from error


class _NoFunction(Exception):
    pass


@functools.lru_cache(maxsize=64)
def _parameters(target: Any) -> Any:
    """A function's parameters."""
    logger = logging.getLogger("hydra.utils")  # it logs what is raised as well
    before = logger.disabled
    logger.disabled = True
    try:
        found = get_object(target)
    finally:
        logger.disabled = before
    if not callable(found):
        raise _NoFunction(type(found).__name__)
    return inspect.signature(found).parameters


def _instantiate(path: str, node: dict[str, Any]) -> Any:
    target = str(node.get("_target_"))
    options = {key: value for key, value in node.items() if key != "_target_"}
    if target.startswith("curvexp.") and not _HYDRA_KEYS & set(options) and not _has_target(options):
        try:  # what Hydra would do, in a tenth of the time
            return get_object(target)(**options)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{path}: {_first_line(error)}. Change {path}.") from error
    try:
        return instantiate(node)
    except OmegaConfBaseException as error:  # a text that holds an interpolation even after all were resolved
        key = f"{path}.{error.full_key}" if getattr(error, "full_key", None) else path
        raise ConfigError(f"{key}: {_first_line(error)}. Change {key}.") from error
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, ConfigError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ConfigError):
            raise cause from None
        known = _is_known(node.get("_target_"))
        if cause is None:  # Hydra's own refusal, such as that of a function on its blocklist
            raise ConfigError(f"{path}: {' '.join(str(error).split())[:200]}. Change {path}.") from error
        if isinstance(cause, TypeError) or (known and isinstance(cause, Exception)):
            raise ConfigError(f"{path}: {_first_line(cause)}. Change {path}.") from error
        raise cause from None


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_target, value.values()))
    return isinstance(value, list) and any(map(_has_target, value))


def _optimizer(node: dict[str, Any]) -> Any:
    from curvexp.optim import Optimizer, from_optax

    schedule = node.get("schedule")
    options = {key: value for key, value in node.items() if key not in _HYDRA_KEYS | {"schedule"}}
    made = _schedule(json.dumps(schedule)) if isinstance(schedule, dict) else schedule
    if made is not None and not callable(made):
        raise ConfigError(
            f"optim.schedule={schedule}: expected an option of optim/schedule, or a mapping with _target_. Change optim.schedule."
        )
    _check_allowed(node["_target_"])
    target = get_object(node["_target_"])
    options = {key: _made_inside(f"optim.{key}", value) for key, value in options.items()}
    args = _made_inside("optim._args_", node.get("_args_") or [])
    if str(getattr(target, "__module__", None)).split(".")[0] != "optax":
        takes = inspect.signature(target).parameters
        if made is None or "schedule" in takes:  # else it is wrapped, and the schedule goes in as its learning rate
            try:
                found = target(*args, **options, **({"schedule": made} if made is not None else {}))
            except TypeError as error:
                raise ConfigError(f"optim: {_first_line(error)}") from error
            if isinstance(found, Optimizer):
                return found
    else:  # optax's sequences are tuples, which one can tell apart by their values
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return from_optax(target, *args, schedule=made, **options)


def _made_inside(path: str, node: Any) -> Any:
    """An option, with every mapping in it that has a _target_ made, as Hydra does."""
    if isinstance(node, dict):
        if "_target_" in node:
            return _part(path, json.dumps(node))
        return {key: _made_inside(f"{path}.{key}", value) for key, value in node.items()}
    if isinstance(node, list):
        return [_made_inside(f"{path}.{index}", value) for index, value in enumerate(node)]
    return node


@functools.lru_cache(maxsize=32)
def _part(path: str, node: str) -> Any:
    """One object for one config, so that jobs with the same parts share their compiled programs."""
    return _instantiate(path, json.loads(node))


@functools.lru_cache(maxsize=32)
def _check_allowed(target: str) -> None:
    """Refuses for an optimizer what Hydra's blocklist has."""
    _instantiate("optim", {"_target_": target, "_partial_": True})


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
            f"optim: {' and '.join(targets)} cannot be called so: {kind}{_first_line(error)}. Change optim.KEY."
        ) from error


def _is_known(target: Any) -> bool:
    """Whether a function is ours or optax's: what it raises is about its arguments, where a person's own is told with its traceback."""
    return str(target).split(".", 1)[0] in ("curvexp", "optax")


@functools.lru_cache(maxsize=32)
def _schedule(node: str) -> Any:
    """One object for one config, so that jobs with the same schedule share their compiled programs."""
    return _instantiate("optim.schedule", json.loads(node))


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
        raise ConfigError(f"problem: {_first_line(error)}. Change problem.") from error
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
