"""What was typed, checked before anything is written: each refusal names the override, and what comes nearest to what was meant."""

import argparse
import contextlib
import difflib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from curvexp.app import build as configs
from curvexp.app import hydra_private, hydra_settings, keys, resume
from curvexp.app.launch import options
from curvexp.errors import ConfigError, Unsupported

# our options of launchers bear the names of their plugins' own, whose keys they are held to
_SAME_NAME = r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
MOST_JOBS = 100_000  # of a sweep: Hydra lists them all before the first starts


def check(flags: argparse.Namespace) -> str | None:
    """Why what was typed cannot run, or None. Nothing is written; a sweep's jobs are checked one by one when they run."""
    try:
        overrides = parsed(flags.overrides)
    except ConfigError as error:
        return str(error)
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    if swept and not flags.multirun:
        return f"{', '.join(sorted(swept))}: several values make a sweep; add -m, or give one value."
    if flags.config_dir is not None and not Path(flags.config_dir).is_dir():
        return f"--config-dir={flags.config_dir}: no such folder; expected one with option files such as problem/mine.yaml."
    warnings.filterwarnings("ignore", message=_SAME_NAME)
    name = flags.config_name or "config"
    with hydra_private.config_loader(keys.conf_folder(), flags.config_dir) as loader:
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
            return first_line(error) if error.options is None else missing(error)
        except Exception as error:  # of some dozen kinds: what is composed is what was typed
            return _uncomposed(error, overrides, name)
        try:
            _check_intervals(overrides, composed.hydra.sweeper)
            _check_job(composed, sweep=flags.multirun, swept=swept)
        except ConfigError as error:
            return str(error)
        except (HydraException, OmegaConfBaseException) as error:
            return first_line(error)
    return None


def parsed(overrides: Sequence[str]) -> list[Override]:
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
                f"{short(text)}: cannot be read as KEY=VALUE: {first_line(error)}. Change it, or put quotes around the value "
                "that the shell leaves: KEY=\\'VALUE\\'."
            ) from error
    return found


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
            f"--config-name={short(name)}: no such config; expected one of {', '.join(files)}, or a file {short(last)}.yaml in {where}."
            f"{keys.nearest(last, files)}"
        )
    try:
        found = {str(key) for key in compose(name)}
    except Exception as error:  # of YAML, Hydra and OmegaConf
        return f"--config-name={name}: {first_line(error)}. Change {asked}.yaml."
    missing = [key for key in (*keys.defaults(), *keys.GROUPS) if key not in found]
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
    hydra_settings.check(composed, sweep=sweep)
    plain = keys.plain(composed)
    if plain.get("resume"):  # before anything of a folder's overrides is imported or called
        resume.check_targets({**plain, "resume": None}, texts("trust", plain.get("trust")))
    if sweep:
        keys.check_keys(plain)
        try:
            keys.check_numbers(plain)
            with contextlib.suppress(Raised):
                _theirs(configs.build_parts, plain)
        except Unsupported:
            pass
        except ConfigError as error:
            key = str(error).split("=", 1)[0]
            if not any(key == name or key.startswith(f"{name}.") for name in swept):
                raise
        options.check(hydra_config.launcher)
    else:
        with contextlib.suppress(Raised):
            build(plain)
    hydra_settings.check_folders(composed, sweep=sweep)


class Raised(Exception):
    """A person's own code raised: no refusal, for the job will record it with its traceback."""


def build(plain: dict[str, Any]) -> None:
    """Builds all parts of a run, to refuse what is wrong with them.

    Raises:
        ConfigError: naming the key. Raised: a person's own code raised.
    """
    _theirs(configs.build, plain)


def _theirs(build: Callable[[dict[str, Any]], Any], plain: dict[str, Any]) -> None:
    try:
        build(plain)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise Raised from error


def _check_count(overrides: list[Override]) -> str | None:
    """Why these values make no sweep, or one that is too large, in words."""
    jobs: float = 1
    for override in overrides:
        if not override.is_sweep_override() or not override.is_discrete_sweep():
            continue
        count = _count(override)
        shown = short(str(override.input_line))
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
                f"{short(str(override.input_line))}: an interval is for a sweeper that searches; expected values, such as 1,2 or "
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
            near = keys.nearest(str(value), options)
            return f"{group}={short(shown)}: no such option; expected one of {', '.join(options)}.{near}"
    return None


def _first_value(override: Override) -> str | None:
    """The override with the first of its values, where it has several; None where they cannot be listed."""
    if not override.is_sweep_override():
        return override.input_line
    if not override.is_discrete_sweep():
        return None
    sign = {"ADD": "+", "FORCE_ADD": "++", "DEL": "~"}.get(override.type.name, "") if override.type else ""
    return f"{sign}{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def texts(key: str, value: Any) -> list[str]:
    """The value as a list of texts, which may be given as one.

    Raises:
        ConfigError: it is none.
    """
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ConfigError(f"{key}={value}: expected a list of texts. Change {key}.")
    return found


def missing(error: MissingConfigException) -> str:
    """An option that its group does not have, in words."""
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = list(error.options or [])
    return f"{group}={option}: no such option; expected one of {', '.join(options)}.{keys.nearest(option, options)}"


def _uncomposed(error: Exception, overrides: list[Override], name: str) -> str:
    """A composition error in words: the override whose key exists nowhere, with the nearest that do."""
    found = re.search(r"Could not override '([^']+)'", str(error))
    if not isinstance(error, ConfigCompositionException) or not found:
        said = first_line(error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error)
        named = any(str(override.key_or_group) in said for override in overrides)
        wrong = None if named else _culprit(overrides, name)
        if wrong is None:
            return said
        return f"{short(str(wrong.input_line))}: {said}. Change {wrong.key_or_group}."
    key = found.group(1).lstrip("+~")
    loader = GlobalHydra.instance().config_loader()
    groups = [o for o in overrides if loader.get_group_options(str(o.key_or_group)) and not o.is_sweep_override()]
    try:
        composed = compose(name, overrides=[str(o.input_line) for o in groups if o.input_line])
    except Exception:
        composed = compose(name)
    known = [*_leaves(OmegaConf.to_container(composed, resolve=False)), *keys.GROUPS]
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    last = key.rsplit(".", 1)[-1]
    close += [
        k for k in known if k not in close and difflib.get_close_matches(last, [k.rsplit(".", 1)[-1]], cutoff=0.75)
    ]
    lines = (o.input_line for o in overrides if o.key_or_group == key and o.input_line and not o.is_delete())
    value = next((line.partition("=")[2] for line in lines), "")
    siblings = (
        [k for k in known if k.rsplit(".", 1)[0] == key.rsplit(".", 1)[0]]
        if "." in key
        else [k for k in known if "." not in k]
    )
    hint = f" Did you mean {' or '.join(close[:3])}?" if close else ""
    return f"{key}={value}: unknown key; expected one of {', '.join(siblings) or ', '.join(keys.GROUPS)}.{hint}"


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


def short(text: str) -> str:
    """The text, of which the beginning where it is long."""
    return text if len(text) <= 200 else f"{text[:150]}… ({len(text)} characters)"


def first_line(error: BaseException) -> str:
    """What an error says, in a line: of what is neither Hydra's nor ours with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Error parsing override") and len(lines) > 1:
        lines[0] = f"{lines[0]}: {lines[1]}"
    known = isinstance(error, HydraException | OmegaConfBaseException | ConfigError | OSError)
    kind = "" if known and lines else type(error).__name__
    return short(": ".join(part for part in (kind, lines[0] if lines else "") if part)).rstrip(".")
