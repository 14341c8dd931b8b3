"""From a YAML file of conf/study to a finding: which studies there are, and how one is run."""

import inspect
import re
import time
import typing
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from curvexp.app import jax_cache, keys
from curvexp.app.studies.runs import StudyRun, compose_runs, trained
from curvexp.errors import ConfigError
from curvexp.study.claim import Claim, Finding, Result, verdict
from curvexp.study.recorded import GIVEN

LARGEST = 10**7  # whole number that a study takes
ABOUT = ("number", "statement", "source", "precision")  # what a study's file says besides its function's numbers
RUNS = ("overrides", "runs")  # and of the runs that it needs


class Study(NamedTuple):
    """One study as its file has it.

    Attributes:
        name: of the file. number: its place in the list; None comes last. statement, source: a sentence and where it is from.
        precision: float32 or float64. target: import path of the function. folder: where hydra.run.dir points.
        options: its numbers, of the function and of the runs.
        runs: that the function judges, in the order of the file; without any it measures by itself.
    """

    name: str
    number: int | None
    statement: str
    source: str
    precision: str
    target: str
    options: dict[str, Any]
    folder: Path
    runs: tuple[StudyRun, ...] = ()


def names(config_dir: str | Path | None = None) -> list[str]:
    """The studies in conf/study and in config_dir/study, by number, then by name.

    Raises:
        ConfigError: no such folder.
    """
    return list(listed(config_dir))


def listed(config_dir: str | Path | None = None) -> dict[str, tuple[int | None, str]]:
    """Number and statement of each study, in the order of `names`; its errors."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(
            f"--config-dir={config_dir}: no such folder; expected one with files such as study/mine.yaml."
        )
    folders = [keys.conf_folder(), *([Path(config_dir)] if config_dir is not None else [])]
    found = {path.stem: path for folder in folders for path in (folder / "study").glob("*.yaml")}

    about = {}
    for name, path in found.items():
        try:
            file = OmegaConf.to_container(OmegaConf.load(path))
        except Exception as error:  # of YAML or OmegaConf: what the person wrote
            why = " ".join(str(error).split())
            raise ConfigError(f"{path}: cannot be read: {why}. Mend the file.") from error
        node = file if isinstance(file, dict) else {}
        number = node.get("number")
        about[name] = (number if isinstance(number, int) else None, str(node.get("statement", "")))
    return dict(sorted(about.items(), key=lambda item: (item[1][0] is None, item[1][0] or 0, item[0])))


def compose(name: str, overrides: list[str] | None = None, *, config_dir: str | Path | None = None) -> Study:
    """The study `name` with overrides such as `study.seeds=2`.

    Raises:
        ConfigError: no such study, an unknown key, or a value of a wrong kind.
    """
    known = names(config_dir)
    if name not in known:
        raise ConfigError(
            f"study={name}: no such study; expected one of {', '.join(known)}.{keys.nearest(name, known)}"
        )
    path = [] if config_dir is None else [f"hydra.searchpath=[{Path(config_dir).absolute().as_uri()}]"]
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(keys.conf_folder())):
            words = [*path, f"+study={name}", *(overrides or [])]
            composed = hydra.compose("config", overrides=words, return_hydra_config=True)
            folder = Path(str(composed.hydra.run.dir))
    except Exception as error:  # of some dozen kinds: what is composed is what was typed
        unknown = re.search(r"Could not override 'study\.([^']+)'", str(error))
        if unknown is None or not overrides:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"study={name}: {first} ({', '.join(overrides or [])})") from error
        key = unknown.group(1)
        options = [*compose(name, config_dir=config_dir).options, "precision"]
        raise ConfigError(
            f"study.{key}: unknown key; study={name} has {', '.join(options)}.{keys.nearest(key, options)}"
        ) from error
    node = keys.plain(composed)["study"]
    target = node.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError(
            f"study._target_={target}: expected the import path of a function. Set _target_ in {name}.yaml."
        )
    defaults: tuple[Any, ...] = (None, "", "", "float64")
    about = {key: node.pop(key, default) for key, default in zip(ABOUT, defaults, strict=True)}
    if about["precision"] not in ("float32", "float64"):
        raise ConfigError(f"study.precision={about['precision']}: expected float32 or float64. Change study.precision.")
    common, named = node.pop("overrides", []), node.pop("runs", {})
    _check_runs(name, common, named)
    study = Study(name, target=target, options=node, folder=folder, **about)
    if named and "runs" not in inspect.signature(_function(study)).parameters:
        raise ConfigError(
            f"study.runs: {target} takes no runs; expected a function with a parameter `runs`. Change {target}."
        )
    _check_options(study, _in_runs(composed, node, _path(name, config_dir)))
    runs = compose_runs(name, common, named, given=path)
    if named and not runs:
        raise ConfigError(f"study={name}: every sweep of its runs is empty; expected a run. Give one of them a value.")
    return study._replace(runs=tuple(runs))


def perform(study: Study) -> tuple[Finding, dict[str, Any]]:
    """Runs a study; the finding, and the data of its figures. JAX's precision is as before afterwards.

    What a study's file names under `runs` lies in folder/runs/NAME/N afterwards; a run that has ended there is not made again.

    Raises:
        ConfigError: the function does not return a Result with a claim, or a folder holds a run of other numbers. RuntimeError: a run
            failed.
    """
    import jax

    before = jax.config.values["jax_enable_x64"]
    jax_cache.prepare_jax(study.precision)
    begun = time.perf_counter()
    try:
        with jax.default_matmul_precision(
            "highest"
        ):  # a GPU's own default is fewer bits than the study's precision has
            result = _result(study)
    finally:
        jax.config.update("jax_enable_x64", before)
    if not isinstance(result, Result) or not result.claims or not all(isinstance(c, Claim) for c in result.claims):
        raise ConfigError(
            f"study._target_={study.target}: returned {type(result).__name__}; expected a curvexp.study.Result with claims."
        )
    finding = Finding(
        study.name,
        study.number,
        study.statement,
        study.source,
        verdict(result.claims),
        [claim._asdict() for claim in result.claims],
        round(time.perf_counter() - begun, 2),
        study.options,
    )
    return finding, dict(result.data)


def _result(study: Study) -> Any:
    """What the function makes of its numbers, and of the runs."""
    if not study.runs:
        return _function(study)(**study.options)
    folder = study.folder / "runs"
    runs = trained(study.runs, folder, study=study.name)
    jax_cache.prepare_jax(study.precision)  # a run has its own
    takes = inspect.signature(_function(study)).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    options = {key: value for key, value in study.options.items() if key in takes or takes_all}
    given = {"runs": runs, "folder": folder} if "folder" in takes else {"runs": runs}
    return _function(study)(**given, **options)


def _path(name: str, config_dir: str | Path | None) -> Path:
    """The file of a study that is there."""
    own = [] if config_dir is None else [Path(config_dir) / "study" / f"{name}.yaml"]
    return next((path for path in own if path.exists()), keys.conf_folder() / "study" / f"{name}.yaml")


def _check_runs(name: str, common: Any, runs: Any) -> None:
    """Refuses runs that are not lists of overrides."""
    if not isinstance(runs, dict) or (common and not runs):
        raise ConfigError(
            f"study.runs={runs}: expected names of runs, with lists of overrides. Change runs in {name}.yaml."
        )
    for key, texts in {"overrides": common, **{f"runs.{run}": texts for run, texts in runs.items()}}.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                f"study.{key}={texts}: expected a list of overrides, such as optim.lr=0.1. Change {name}.yaml."
            )


def _in_runs(composed: DictConfig, options: dict[str, Any], path: Path) -> dict[str, inspect.Parameter]:
    """The numbers that the overrides of the runs ask for, each with the value of the file as its default."""
    raw: Any = OmegaConf.to_container(composed.study, resolve=False)
    text = str([raw.get(key) for key in RUNS])
    file: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    found = {}
    for key in options:
        if re.search(rf"study\.{re.escape(key)}\b", text):
            value = file.get(key, options[key])
            default = tuple(value) if isinstance(value, list) else value
            found[key] = inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default)
    return found


def _function(study: Study) -> Any:
    try:
        found = get_object(study.target)
    except (Exception, SystemExit) as error:  # an ImportError, or what the user's module raises while it is imported
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"study._target_={study.target}: cannot be imported: {why}. Change study._target_."
        ) from error
    if not callable(found):
        raise ConfigError(f"study._target_={study.target}: expected a function, found {type(found).__name__}.")
    return found


def _check_options(study: Study, in_runs: dict[str, inspect.Parameter]) -> None:
    """Refuses a number that neither the function nor the runs take, one of another kind, and the lack of one."""
    function = inspect.signature(_function(study)).parameters
    parameters = {**in_runs, **{key: p for key, p in function.items() if key not in GIVEN}}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key, value in study.options.items():
        if key not in parameters and not takes_all:
            raise ConfigError(
                f"study.{key}={value}: unknown key; {study.target} takes {', '.join(parameters) or 'none'}."
                f"{keys.nearest(key, parameters)}"
            )
        if key in parameters and (value is not None or key in function):  # in a run null is a choice, or no sweep
            _check_kind(f"study.{key}", value, parameters[key])
    missing = [
        key
        for key, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and key not in study.options
    ]
    if missing:
        raise ConfigError(
            f"study.{missing[0]}: missing; {study.target} needs it. Set {missing[0]} in {study.name}.yaml."
        )


def _check_kind(key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Refuses what is not of the kind of the parameter's default: a whole number, a number, or a list of what its annotation says."""
    from curvexp.problem import checks

    default, least = parameter.default, 0 if parameter.name == "seed" else 1
    if isinstance(default, bool):
        return
    if isinstance(default, int):
        if type(value) is not int or not least <= value <= LARGEST:
            raise ConfigError(f"{key}={value}: expected a whole number >= {least} and <= {LARGEST}. Change {key}.")
    elif isinstance(default, float):
        checks.number(key, value)
    elif isinstance(default, tuple) and default:
        parts = typing.get_args(parameter.annotation)
        if type(None) in parts:  # of a list that may be left out
            if value is None:
                return
            parts = typing.get_args(parts[0])
        kind = (*parts, type(default[0]))[0]
        if not isinstance(value, list | tuple) or not value:
            raise ConfigError(f"{key}={value}: expected a list with something in it. Change {key}.")
        for position, part in enumerate(value):
            one = f"{key}[{position}]"
            if kind is int:
                checks.whole(one, part, least=0)
            elif kind is float:
                checks.number(one, part)
            elif not isinstance(part, kind if isinstance(kind, type) else object):
                raise ConfigError(f"{one}={part}: expected {kind.__name__}. Change {key}.")
