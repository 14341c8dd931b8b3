"""The keys of a config: which there are, and what their values may be; a key that nothing reads is refused."""

import copy
import difflib
import functools
import inspect
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from curvexp.app import texts
from curvexp.errors import ConfigError
from curvexp.numeric import is_number
from curvexp.store import secrets
from curvexp.store.folder import jsonable

CONTROLS = ("resume", "retry", "trust")  # keys that say how to go on with a run; they are no part of its config
GROUPS = ("problem", "preprocess", "optim", "probe", "track")
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_GIVEN_BY_US = {"preprocess", "dtype"}  # what a problem's builder is called with
PRECISIONS = {  # of the parameters and, by JAX's name, of the training's matrix products; the curvature is measured in the parameters'
    "float32": "highest",
    "float64": "highest",
    "tensorfloat32": "tensorfloat32",
}


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
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {first_line(error)}") from error
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
    sinks = config["sinks"]
    for number, node in enumerate(sinks if isinstance(sinks, list) else [sinks]):
        if not isinstance(sinks, list) or not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"sinks={sinks}: expected a list of mappings with _target_, [] for none. Change sinks.")
        _check_node(f"sinks.{number}", node)


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
    if not isinstance(config["keep_params"], bool):
        raise ConfigError(f"keep_params={config['keep_params']}: expected true or false. Change keep_params.")
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


def _check_node(path: str, node: Any) -> None:
    """Every mapping with a _target_, at any depth, has only keys that its target takes."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check_node(f"{path}.{index}", item)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        parameters = parameters_of(path, node["_target_"])
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        names = [name for name in parameters if name not in _GIVEN_BY_US or path != "problem"]
        if path == "optim" and "schedule" not in names:
            names.append("schedule")  # of a transformation of optax's own, which we wrap
        if path == "optim" and "learning_rate" in names:
            names.append("lr")
        for key in node:
            if key not in HYDRA_KEYS and key not in names and not takes_all:
                raise ConfigError(
                    f"{path}.{key}={node[key]}: unknown key; {node['_target_']} takes {', '.join(names) or 'none'}."
                    f"{nearest(key, names)}"
                )
    for key, value in node.items():
        _check_node(f"{path}.{key}", value)


def parameters_of(path: str, target: Any) -> Any:
    """The parameters of the function that a _target_ names, by name.

    Raises:
        ConfigError: the target cannot be imported, or is no function.
    """
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


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
