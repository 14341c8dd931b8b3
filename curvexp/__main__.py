"""`python -m curvexp`: what the person typed is checked as a whole, then Hydra composes it and runs the jobs."""

import argparse
import contextlib
import difflib
import gc
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curvexp import around, console, home, launcher, plugins, resume, supervisor
from curvexp import config as configs
from curvexp.errors import ConfigError, Unsupported
from curvexp.study import command as study

# our options of launchers bear the names of their plugins' own, whose keys they are held to
_SAME_NAME = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's variable: 1 for tracebacks
TRUE = ("y", "yes", "t", "true", "on", "1")  # as JAX reads its variables
MOST_JOBS = 100_000  # of a sweep: Hydra lists them all before the first starts
NESTED_GROUPS = ("problem.data", "optim.schedule")  # `problem.data=wine` is read as Hydra's `problem/data=wine`


def command() -> None:
    """`python -m curvexp` and `curvexp`: `main` on what was typed, a sweep under a supervisor, see `curvexp.supervisor`."""
    words = sys.argv[1:]
    with console.any_stream():
        if {"-m", "--multirun"} & {*words} and supervisor.possible():
            try:
                words = supervisor.supervised(words, _after_crash)
            except KeyboardInterrupt:
                sys.exit(130)
        main(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line in this process, whose state is as before once it returns; exit code 0, 1 where a job failed, 2 for what was
    refused, 130 for Ctrl-C.

    Args:
        arguments: its words; None: those of this process.
    """
    with _state_kept(), console.any_stream():
        home.ensure()
        _main([_nested(argument) for argument in (sys.argv[1:] if arguments is None else arguments)])


def _main(typed: list[str]) -> None:
    flags = _flags(typed)
    flags_first = [
        word for word in typed if word not in flags.overrides
    ]  # argparse takes no overrides on both sides of a flag
    sys.argv = [sys.argv[0], *flags_first, *flags.overrides]
    plugins.register()
    try:
        for word in typed:
            if "\0" in word or (not word.isascii() and _not_utf8(word)):
                console.refuse(f"{_short(word)}: expected text in UTF-8, without a null character. Change it.")
                sys.exit(2)
        if flags.config_path and not flags.config_path.startswith(("/", "pkg://")):
            console.refuse(
                f"--config-path={flags.config_path}: Hydra looks for it beside curvexp's own files; expected an absolute folder that holds "
                f"a whole config. To add files of yours to curvexp's: --config-dir={flags.config_path}"
            )
            sys.exit(2)
        if not flags.passive and study.asked_for(flags.overrides):
            sys.exit(study.run(flags.overrides, config_dir=flags.config_dir))
        if not flags.passive and _keys(flags.overrides) & {"resume", "retry", "trust"}:
            try:
                if not flags.multirun:
                    sys.exit(_go_on(flags))
                flags.overrides = _resumed_sweep(flags.overrides)
                sys.argv = [sys.argv[0], *flags_first, *flags.overrides]
            except ConfigError as error:
                console.refuse(str(error))
                sys.exit(2)
        if not flags.passive:
            with _undisturbed():
                refused = _check(flags)
            if refused:
                console.refuse(refused)
                sys.exit(2)
        _launch(flags)
    except KeyboardInterrupt as signal:
        sys.exit(143 if str(signal) == "SIGTERM" else 130)


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """What a run changes of the process comes back: its arguments, environment and folder, the warnings that are shown, Hydra's own state,
    JAX's 64-bit mode. Hydra's logging stays, which configures all loggers anew."""
    argv, environment, folder = sys.argv, dict(os.environ), os.getcwd()
    hydra_before, config_before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    jax = sys.modules.get("jax")
    wide = jax.config.values["jax_enable_x64"] if jax else os.environ.get("JAX_ENABLE_X64", "").lower() in TRUE
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.argv = argv
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        with contextlib.suppress(OSError):  # it was removed meanwhile
            os.chdir(folder)
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra_before, config_before
        if "jax" in sys.modules:
            sys.modules["jax"].config.update("jax_enable_x64", wide)


def _after_crash(words: list[str], sweep: supervisor.Sweep, one_by_one: bool) -> list[str]:
    """The command line that goes on with a sweep after a crash; empty where none has the same jobs."""
    flags = _flags([_nested(word) for word in words])
    keys = _keys(flags.overrides)
    if not sweep.listed or "retry" in keys:
        return []
    kept = [word for word in flags.overrides if resume.key_of(word) != "hydra.sweep.dir"]
    if one_by_one:
        kept = [word for word in kept if not resume.key_of(word).startswith(("hydra/launcher", "hydra.launcher"))]
        kept.append("hydra/launcher=basic")
    further = [] if "resume" in keys else resume.again(sweep.folder)
    return [*(word for word in words if word not in flags.overrides), *kept, *further]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No search for garbage while most modules are imported, and one job is composed: it would take a tenth of the time to start."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _not_utf8(word: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in word)  # as sys.argv has bytes that are none


def _launch(flags: argparse.Namespace) -> None:
    @hydra.main(version_base="1.3", config_path=str(configs.conf_folder()), config_name="config")
    def task(config: DictConfig) -> float:
        from curvexp.job import execute

        return execute(config)

    job = sys.modules.get("curvexp.job")  # where an earlier call was in this process
    if job:
        job.ReportAtEnd.begun = None
    gc.freeze()  # none among what was imported, later on
    try:
        with _errors_raised(), contextlib.nullcontext() if "hydra.mode" in _keys(flags.overrides) else _mode_by_flags():
            task()
    except SystemExit as end:
        sys.exit(2 if flags.passive and end.code else end.code)
    except Exception as error:
        if os.environ.get(FULL_ERROR) == "1":
            raise
        sys.exit(_stopped(error))
    finally:
        gc.unfreeze()
    if not flags.passive and flags.multirun:
        from curvexp.job import ReportAtEnd

        sys.exit(1 if ReportAtEnd.failed + ReportAtEnd.refused else 0)


@contextlib.contextmanager
def _errors_raised() -> Iterator[None]:
    """Hydra raises what it would print with a traceback."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before


@contextlib.contextmanager
def _mode_by_flags() -> Iterator[None]:
    """Hydra does not compose the config once more to learn its hydra.mode, which was checked to be that of the flags."""
    before = Hydra.get_mode
    Hydra.get_mode = lambda self, *args, **options: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = before  # type: ignore[method-assign]


def _stopped(error: Exception) -> int:
    """Says in a sentence what stopped Hydra outside of a job, and records it where a job was to be; the exit code."""
    job = sys.modules.get("curvexp.job")  # without it no job began, and a flag such as --cfg needs no JAX
    reason = _first_line(error)
    recorded = job.stopped(reason) if job else False
    console.refuse(reason)
    return 1 if recorded else 2


def _keys(overrides: Sequence[str]) -> set[str]:
    """What is set, deletions aside."""
    return {resume.key_of(override) for override in overrides if not override.startswith("~")}


def _go_on(flags: argparse.Namespace) -> int:
    """Goes on with one run; the exit code. Nothing is written before all that was typed is checked.

    Raises:
        ConfigError: what was typed, or what the folder holds, cannot be gone on with.
    """
    from curvexp.job import go_on

    given, chosen = _parsed(flags.overrides), []
    for override in given:
        key = str(override.key_or_group)
        if key.split(".", 1)[0] not in (*resume.ALLOWED, *configs.CONTROLS) or key == "retry":
            raise ConfigError(
                f"{key}={override.value()}: a resumed run goes on under its own config; expected one of {', '.join(resume.ALLOWED)}, "
                f"trust. Leave {key} out."
            )
        if override.is_sweep_override():
            raise ConfigError(f"{key}: several values make a sweep; give one value.")
    values = {str(override.key_or_group): _value(override) for override in given}
    folder = _existing(values.pop("resume", None))
    trust = values.pop("trust", [])
    config = resume.complete(resume.recorded(folder))
    chosen = [str(o.input_line) for o in given if str(o.key_or_group) == "track"]
    if chosen:
        with initialize_config_dir(version_base="1.3", config_dir=str(configs.conf_folder())):
            try:
                config["track"] = OmegaConf.to_container(compose("config", overrides=chosen).track, resolve=True)
            except MissingConfigException as error:
                raise ConfigError(_missing(error)) from error
            except Exception as error:
                raise ConfigError(f"{', '.join(chosen)}: {_first_line(error)}") from error
        GlobalHydra.instance().clear()
    for key, value in values.items():
        if key != "track":
            _set(config, key, value)
    resume.check_targets(config, _texts("trust", trust))
    with contextlib.suppress(_Raised):
        _build(config)
    if resume.still_to_do(config, folder, ()) is None and resume.summary(folder).get("status") in (
        "completed",
        "diverged",
    ):
        ended = resume.summary(folder)
        raise ConfigError(
            f"resume={folder}: this run is {ended['status']} after {ended.get('steps')} steps; expected one that was interrupted, or "
            "steps= above that."
        )
    resume.check_steps(config, folder)
    go_on({**config, "trust": _texts("trust", trust)}, folder)
    return 0


def _set(config: Any, key: str, value: Any) -> None:
    *path, name = key.split(".")
    for part in path:
        config = config.get(part) if isinstance(config, dict) else None
    if not isinstance(config, dict) or (name not in config and not path):
        raise ConfigError(f"{key}={value}: unknown key.")
    config[name] = value


def _resumed_sweep(overrides: Sequence[str]) -> list[str]:
    """The overrides of the sweep to go on with: those typed or, where none of its own were, those that it was called with.

    Raises:
        ConfigError: there is no such sweep, or it would go elsewhere.
    """
    values = {str(o.key_or_group): _value(o) for o in _parsed(overrides)}
    folder = _existing(values.get("resume"))
    if "hydra.sweep.dir" in values:
        raise ConfigError(
            f"hydra.sweep.dir={values['hydra.sweep.dir']}: a resumed sweep goes on in {folder}. Leave it out."
        )
    for status in _texts("retry", values.get("retry", [])):
        if status not in resume.ENDED:
            raise ConfigError(f"retry={status}: expected some of {', '.join(resume.ENDED)}. Change retry.")
    _texts("trust", values.get("trust", []))
    rest = [o for o in overrides if resume.key_of(o) != "retry"]
    retry = [f"retry=[{','.join(_texts('retry', values['retry']))}]"] if "retry" in values else []
    own = {key for key in values if key.split(".")[0] not in (*resume.ALLOWED, *configs.CONTROLS, "hydra")}
    own = {key for key in own if not key.startswith("hydra/")}
    before = [] if own else [o for o in resume.sweep_overrides(folder) if resume.key_of(o) not in values]
    rest = [f"resume={resume.quoted(folder)}" if resume.key_of(o) == "resume" else o for o in rest]
    return [*before, *rest, *retry, f"hydra.sweep.dir={resume.quoted(folder)}"]


def _value(override: Override) -> Any:
    """Its value; a folder's name as text, such as that of job 0, which Hydra reads as a number."""
    value = override.value()
    named = override.key_or_group == "resume" and isinstance(value, int | float)
    return str(override.input_line).split("=", 1)[1] if named else value


def _existing(folder: Any) -> Path:
    if not isinstance(folder, str) or not folder or not os.path.isdir(folder):
        raise ConfigError(f"resume={folder}: no such folder; expected a run's, or with -m a sweep's. Change resume.")
    resume.check_files(Path(folder))
    return Path(folder).absolute()


def _texts(key: str, value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ConfigError(f"{key}={value}: expected a list of texts. Change {key}.")
    return found


def _parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them.

    Raises:
        ConfigError: naming the first that it cannot read.
    """
    parser, found = OverridesParser.create(), []
    for text in overrides:
        try:
            found.append(parser.parse_override(text))
        except Exception as error:  # Hydra's and ANTLR's, and Python's for too many digits or brackets
            raise ConfigError(
                f"{_short(text)}: cannot be read as KEY=VALUE: {_first_line(error)}. Change it, or put quotes around the value "
                "that the shell leaves: KEY=\\'VALUE\\'."
            ) from error
    return found


def _flags(typed: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags, as far as they decide what is to be checked before it takes over."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--experimental-rerun")
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all")
    for flag in (
        ("--help", "-h"),
        ("--hydra-help",),
        ("--version",),
        ("--run", "-r"),
        ("--resolve",),
        ("--shell-completion", "-sc"),
    ):
        parser.add_argument(*flag, action="store_true")
    flags, rest = parser.parse_known_args(list(typed))
    flags.overrides = [argument for argument in rest if not argument.startswith("--")]
    flags.passive = bool(
        flags.help or flags.hydra_help or flags.version or flags.cfg or flags.info or flags.shell_completion
        or flags.experimental_rerun or flags.config_path
    )  # fmt: skip
    return flags


def _check(flags: argparse.Namespace) -> str | None:
    """Why what was typed cannot run, or None. Nothing is written; a sweep's jobs are checked one by one when they run."""
    try:
        overrides = _parsed(flags.overrides)
    except ConfigError as error:
        return str(error)
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    if swept and not flags.multirun:
        return f"{', '.join(sorted(swept))}: several values make a sweep; add -m, or give one value."
    if flags.config_dir is not None and not Path(flags.config_dir).is_dir():
        return f"--config-dir={flags.config_dir}: no such folder; expected one with option files such as problem/mine.yaml."
    warnings.filterwarnings("ignore", message=_SAME_NAME)
    name = flags.config_name or "config"
    with _search_path(flags.config_dir) as loader:
        wrong = _check_name(name, loader, flags.config_dir)
        if wrong:
            return wrong
        for override in overrides:
            override.config_loader = loader
        try:
            wrong = _check_count(overrides) or _check_options(overrides)
            if wrong:
                return wrong
            single = [_first_value(override) for override in overrides]
            composed = compose(name, overrides=[s for s in single if s], return_hydra_config=True)
        except MissingConfigException as error:
            return _first_line(error) if error.options is None else _missing(error)
        except Exception as error:  # of some dozen kinds: what is composed is what was typed
            return _uncomposed(error, overrides, name)
        try:
            _check_intervals(overrides, composed.hydra.sweeper)
            _check_job(composed, sweep=flags.multirun, swept=swept)
        except ConfigError as error:
            return str(error)
        except (HydraException, OmegaConfBaseException) as error:
            return _first_line(error)
    return None


@contextlib.contextmanager
def _search_path(config_dir: str | None) -> Iterator[ConfigLoader]:
    """Hydra's loader of config files as `hydra.main` makes it: what --config-dir names comes before our own."""
    path = create_config_search_path(str(configs.conf_folder()))
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="curvexp", config_search_path=path)
    try:
        yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().clear()


def _check_name(name: str, loader: ConfigLoader, config_dir: str | None) -> str | None:
    """Why --config-name names no config that stands on ours, in words."""
    asked = name.removesuffix(".yaml")
    if asked == "config":
        return None
    group, _, last = asked.rpartition("/")
    if ".." in asked.split("/") or last not in loader.get_group_options(group):
        files = [file for file in loader.get_group_options("") if not file.startswith("_")]
        where = "curvexp's own folder; --config-dir names another" if config_dir is None else config_dir
        return (
            f"--config-name={_short(name)}: no such config; expected one of {', '.join(files)}, or a file {_short(last)}.yaml in {where}."
            f"{configs.nearest(last, files)}"
        )
    try:
        keys = {str(key) for key in compose(name)}
    except Exception as error:  # of YAML, Hydra and OmegaConf
        return f"--config-name={name}: {_first_line(error)}. Change {asked}.yaml."
    missing = [key for key in (*configs.defaults(), *configs.GROUPS) if key not in keys]
    if missing:
        return (
            f"--config-name={name}: it has no {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}; expected a config that stands on "
            f"curvexp's own. Begin {asked}.yaml with `defaults: [config, _self_]`."
        )
    return None


def _check_job(composed: DictConfig, *, sweep: bool, swept: set[str]) -> None:
    """Refuses a single run for all that is wrong with it, a sweep for what is wrong with every job."""
    hydra_config = composed.hydra
    HydraConfig.instance().set_config(composed)
    around.check(composed, sweep=sweep)
    plain = configs.plain(composed)
    if plain.get("resume"):  # before anything of a folder's overrides is imported or called
        resume.check_targets({**plain, "resume": None}, _texts("trust", plain.get("trust")))
    if sweep:
        configs.check_keys(plain)
        try:
            configs.check_numbers(plain)
            with contextlib.suppress(_Raised):
                _theirs(configs.build_parts, plain)
        except Unsupported:
            pass
        except ConfigError as error:
            key = str(error).split("=", 1)[0]
            if not any(key == name or key.startswith(f"{name}.") for name in swept):
                raise
        launcher.check(hydra_config.launcher)
    else:
        with contextlib.suppress(_Raised):
            _build(plain)
    around.check_folders(composed, sweep=sweep)


class _Raised(Exception):
    """A person's own code raised: no refusal, for the job will record it with its traceback."""


def _build(plain: dict[str, Any]) -> None:
    _theirs(configs.build, plain)


def _theirs(build: Callable[[dict[str, Any]], Any], plain: dict[str, Any]) -> None:
    try:
        build(plain)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise _Raised from error


def _check_count(overrides: list[Override]) -> str | None:
    """Why these values make no sweep, or one that is too large, in words."""
    jobs: float = 1
    for override in overrides:
        if not override.is_sweep_override() or not override.is_discrete_sweep():
            continue
        count = _count(override)
        shown = _short(str(override.input_line))
        if count == 0:
            return f"{shown}: there are no values in it; expected one or more. Change {override.key_or_group}."
        if not math.isfinite(count):
            return f"{shown}: it has no end; expected finite numbers, and a step that leads on. Change {override.key_or_group}."
        jobs *= count
        if jobs > MOST_JOBS:
            return f"{shown}: a sweep of {jobs:.3g} jobs; expected at most {MOST_JOBS}. Give {override.key_or_group} fewer values."
    return None


def _check_intervals(overrides: list[Override], sweeper: Any) -> None:
    target = str(sweeper.get("_target_")) if OmegaConf.is_dict(sweeper) else ""
    for override in overrides:
        if override.is_interval_sweep() and target.endswith(("OnceSweeper", "BasicSweeper")):
            raise ConfigError(
                f"{_short(str(override.input_line))}: an interval is for a sweeper that searches; expected values, such as 1,2 or "
                f"range(1,3). Change {override.key_or_group}."
            )


def _count(override: Override) -> float:
    """How many values it has, none of them listed; inf where they have no end."""
    value: Any = override.value()
    if isinstance(value, RangeSweep):
        start, stop, step = value.start, value.stop, value.step
        if start is None or stop is None or step == 0 or not all(abs(x) < math.inf for x in (start, stop, step)):
            return math.inf
        return max(0, math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step)))
    if isinstance(value, Glob):
        return len(list(override.sweep_string_iterator()))
    return len(value.list)


def _check_options(overrides: list[Override]) -> str | None:
    """The first override that names an option its group does not have, in words."""
    loader = GlobalHydra.instance().config_loader()
    for override in overrides:
        group = str(override.key_or_group)
        options = [] if override.is_delete() else loader.get_group_options(group)
        if not options:
            continue
        values: Any = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else override.value()
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and value.strip("'\"") in options:
                continue
            shown = value if isinstance(value, str) else str(override.input_line).split("=", 1)[-1]
            near = configs.nearest(str(value), options)
            return f"{group}={_short(shown)}: no such option; expected one of {', '.join(options)}.{near}"
    return None


def _first_value(override: Override) -> str | None:
    """The override with the first of its values, where it has several; None where they cannot be listed."""
    if not override.is_sweep_override():
        return override.input_line
    if not override.is_discrete_sweep():
        return None
    sign = {"ADD": "+", "FORCE_ADD": "++", "DEL": "~"}.get(override.type.name, "") if override.type else ""
    return f"{sign}{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def _missing(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or [])
    return f"{group}={option}: no such option; expected one of {', '.join(options)}.{configs.nearest(option, options)}"


def _uncomposed(error: Exception, overrides: list[Override], name: str) -> str:
    """A composition error in words: the override whose key exists nowhere, with the nearest that do."""
    found = re.search(r"Could not override '([^']+)'", str(error))
    if not isinstance(error, ConfigCompositionException) or not found:
        said = _first_line(error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error)
        named = any(str(override.key_or_group) in said for override in overrides)
        wrong = None if named else _culprit(overrides, name)
        if wrong is None:
            return said
        return f"{_short(str(wrong.input_line))}: {said}. Change {wrong.key_or_group}."
    key = found.group(1).lstrip("+~")
    loader = GlobalHydra.instance().config_loader()
    groups = [o for o in overrides if loader.get_group_options(str(o.key_or_group)) and not o.is_sweep_override()]
    try:
        composed = compose(name, overrides=[str(o.input_line) for o in groups if o.input_line])
    except Exception:
        composed = compose(name)
    keys = [*_leaves(OmegaConf.to_container(composed, resolve=False)), *configs.GROUPS]
    close = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
    last = key.rsplit(".", 1)[-1]
    close += [
        k for k in keys if k not in close and difflib.get_close_matches(last, [k.rsplit(".", 1)[-1]], cutoff=0.75)
    ]
    lines = (o.input_line for o in overrides if o.key_or_group == key and o.input_line and not o.is_delete())
    value = next((line.partition("=")[2] for line in lines), "")
    siblings = (
        [k for k in keys if k.rsplit(".", 1)[0] == key.rsplit(".", 1)[0]]
        if "." in key
        else [k for k in keys if "." not in k]
    )
    hint = f" Did you mean {' or '.join(close[:3])}?" if close else ""
    return f"{key}={value}: unknown key; expected one of {', '.join(siblings) or ', '.join(configs.GROUPS)}.{hint}"


def _culprit(overrides: list[Override], name: str) -> Override | None:
    """The first override that cannot be composed with those before it."""
    before: list[str] = []
    for override in overrides:
        text = _first_value(override)
        before += [text] if text else []
        try:
            compose(name, overrides=before)
        except Exception:
            return override
    return None


def _leaves(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    found = []
    for key, value in node.items():
        if not str(key).startswith("_"):
            found += [f"{prefix}{key}"] * (not isinstance(value, dict)) + _leaves(value, f"{prefix}{key}.")
    return found


def _nested(argument: str) -> str:
    for key in NESTED_GROUPS:
        if re.fullmatch(rf"\+{{0,2}}{re.escape(key)}=[A-Za-z_][\w,]*", argument):
            return argument.replace(key, key.replace(".", "/"), 1)
    return argument


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:150]}… ({len(text)} characters)"


def _first_line(error: BaseException) -> str:
    """What an error says, in a line: of what is neither Hydra's nor ours with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Error parsing override") and len(lines) > 1:
        lines[0] = f"{lines[0]}: {lines[1]}"
    known = isinstance(error, HydraException | OmegaConfBaseException | ConfigError | OSError)
    kind = "" if known and lines else type(error).__name__
    return _short(": ".join(part for part in (kind, lines[0] if lines else "") if part)).rstrip(".")


if __name__ == "__main__":
    command()
