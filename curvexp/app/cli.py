"""`python -m curvexp`: what the person typed is checked as a whole, then Hydra composes it and runs the jobs."""

import argparse
import contextlib
import gc
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from curvexp import console, home
from curvexp.app import checks, keys, resume, supervisor
from curvexp.app.launch import plugins
from curvexp.app.studies import command as study
from curvexp.errors import ConfigError

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's variable: 1 for tracebacks
TRUE = ("y", "yes", "t", "true", "on", "1")  # as JAX reads its variables
NESTED_GROUPS = ("problem.data", "optim.schedule")  # `problem.data=wine` is read as Hydra's `problem/data=wine`


def command() -> None:
    """`python -m curvexp` and `curvexp`: `main` on what was typed, a sweep under a supervisor, see `curvexp.app.supervisor`."""
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
                console.refuse(f"{checks.short(word)}: expected text in UTF-8, without a null character. Change it.")
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
                refused = checks.check(flags)
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
    given = _keys(flags.overrides)
    if not sweep.listed or "retry" in given:
        return []
    kept = [word for word in flags.overrides if resume.key_of(word) != "hydra.sweep.dir"]
    if one_by_one:
        kept = [word for word in kept if not resume.key_of(word).startswith(("hydra/launcher", "hydra.launcher"))]
        kept.append("hydra/launcher=basic")
    further = [] if "resume" in given else resume.again(sweep.folder)
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
    @hydra.main(version_base="1.3", config_path=str(keys.conf_folder()), config_name="config")
    def task(config: DictConfig) -> float:
        from curvexp.app.job import execute

        return execute(config)

    sweep_end = sys.modules.get("curvexp.app.sweep_end")  # where an earlier call was in this process
    if sweep_end:
        sweep_end.ReportAtEnd.begun = None
    gc.freeze()  # none among what was imported, later on
    try:
        with _errors_raised():
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
        from curvexp.app.sweep_end import ReportAtEnd

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


def _stopped(error: Exception) -> int:
    """Says in a sentence what stopped Hydra outside of a job, and records it where a job was to be; the exit code."""
    sweep_end = sys.modules.get("curvexp.app.sweep_end")  # without it no job began
    reason = checks.first_line(error)
    recorded = sweep_end.stopped(reason) if sweep_end else False
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
    from curvexp.app.job import go_on

    given, chosen = checks.parsed(flags.overrides), []
    for override in given:
        key = str(override.key_or_group)
        if key.split(".", 1)[0] not in (*resume.ALLOWED, *keys.CONTROLS) or key == "retry":
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
        with initialize_config_dir(version_base="1.3", config_dir=str(keys.conf_folder())):
            try:
                config["track"] = OmegaConf.to_container(compose("config", overrides=chosen).track, resolve=True)
            except MissingConfigException as error:
                raise ConfigError(checks.missing(error)) from error
            except Exception as error:
                raise ConfigError(f"{', '.join(chosen)}: {checks.first_line(error)}") from error
        GlobalHydra.instance().clear()
    for key, value in values.items():
        if key != "track":
            _set(config, key, value)
    resume.check_targets(config, checks.texts("trust", trust))
    with contextlib.suppress(checks.Raised):
        checks.build(config)
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
    go_on({**config, "trust": checks.texts("trust", trust)}, folder)
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
    values = {str(o.key_or_group): _value(o) for o in checks.parsed(overrides)}
    folder = _existing(values.get("resume"))
    if "hydra.sweep.dir" in values:
        raise ConfigError(
            f"hydra.sweep.dir={values['hydra.sweep.dir']}: a resumed sweep goes on in {folder}. Leave it out."
        )
    for status in checks.texts("retry", values.get("retry", [])):
        if status not in resume.ENDED:
            raise ConfigError(f"retry={status}: expected some of {', '.join(resume.ENDED)}. Change retry.")
    checks.texts("trust", values.get("trust", []))
    rest = [o for o in overrides if resume.key_of(o) != "retry"]
    retry = [f"retry=[{','.join(checks.texts('retry', values['retry']))}]"] if "retry" in values else []
    own = {key for key in values if key.split(".")[0] not in (*resume.ALLOWED, *keys.CONTROLS, "hydra")}
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


def _nested(argument: str) -> str:
    """A word as Hydra has it: an option of a nested group by its path, and `sinks` as the key that it is."""
    if re.match(r"\+{1,2}sinks=", argument):  # as one adds to a list; it is empty by default
        return argument.lstrip("+")
    for key in NESTED_GROUPS:
        if re.fullmatch(rf"\+{{0,2}}{re.escape(key)}=[A-Za-z_][\w,]*", argument):
            return argument.replace(key, key.replace(".", "/"), 1)
    return argument
