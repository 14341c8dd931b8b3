"""What the folder of a run or a sweep says, read as data: a stranger may have made it."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curvexp.app import keys
from curvexp.errors import ConfigError
from curvexp.store import files, read_object

FORMS = (".yaml", ".json", ".jsonl", ".csv", ".html")  # how the files end that are written
LARGEST_SWEEP = 2**20  # bytes of a multirun.yaml that is still read
DEEPEST = 50  # levels of it


def recorded(run: Path) -> dict[str, Any]:
    """The config that a run was recorded under.

    Raises:
        ConfigError: there is none that can be read.
    """
    found = read_object(run / files.CONFIG)
    if found is None:
        what = "a sweep; add -m" if (run / "multirun.yaml").exists() else "a run's folder, with its config.json"
        raise ConfigError(
            f"resume={run}: expected {'a run; this is ' if 'sweep' in what else ''}{what}. Change resume."
        )
    return found


def summary(run: Path) -> dict[str, Any]:
    """What a run's summary says; empty where there is none that can be read."""
    return read_object(run / files.SUMMARY) or {}


def check_files(folder: Path) -> None:
    """Refuses a folder to go on in that holds a link to elsewhere, or what is neither file nor folder: all that is written stays in it.

    Raises:
        ConfigError: naming the file.
    """
    root, waiting = os.path.realpath(folder), [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = list(entries)
        except OSError as error:
            raise ConfigError(
                f"resume={folder}: {error.filename}: cannot be listed ({error.strerror}). Change resume."
            ) from error
        for entry in found:
            if entry.is_symlink():
                held = os.path.realpath(entry.path).startswith(root + os.sep)
            else:
                held = entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
                waiting += [entry.path] * entry.is_dir(follow_symlinks=False)
            job = entry.name.isdecimal() and os.path.dirname(entry.path) == str(folder)
            if entry.is_dir() == entry.name.endswith(FORMS) and (job or entry.name == ".hydra" or entry.is_dir()):
                what, wanted = ("folder", "file") if entry.is_dir() else ("file", "folder")
                name = os.path.relpath(entry.path, folder)
                raise ConfigError(f"resume={folder}: {name} is a {what}; expected a {wanted} of this name. Remove it.")
            if not held:
                what = "a link out of the folder" if entry.is_symlink() else "neither a file nor a folder"
                raise ConfigError(
                    f"resume={folder}: {os.path.relpath(entry.path, folder)} is {what}; a resumed run writes into its own folder alone. "
                    "Remove it, or copy the folder without it."
                )


def sweep_overrides(sweep: Path) -> list[str]:
    """The overrides that a sweep was called with, those of Hydra itself aside: a stranger's launcher or callback is not started.

    Raises:
        ConfigError: there are none that can be read, or one of them asks for something of this machine.
    """
    try:
        task = _plain_yaml(sweep / "multirun.yaml")["hydra"]["overrides"]["task"]
        if not isinstance(task, list) or not all(isinstance(text, str) for text in task):
            raise TypeError("its overrides are no texts")
        return _of_the_experiment(task)
    except Exception as error:  # of YAML and Hydra's grammar
        raise ConfigError(
            f"resume={sweep}: expected a sweep's folder, with its multirun.yaml ({type(error).__name__}: {_line(error)}). "
            "Change resume, or give the sweep's own overrides again."
        ) from error


def _of_the_experiment(task: Sequence[str]) -> list[str]:
    """Those of a folder's overrides that set our own keys.

    Raises:
        ValueError: a resolver, such as that of the environment, is called. HydraException: one is no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    kept = []
    for text in task:
        override = OverridesParser.create().parse_override(text)
        key = str(override.key_or_group)
        if key.startswith("hydra") or str(override.package or "").startswith("hydra") or key in keys.CONTROLS:
            continue
        if "${" in text and ":" in text.split("${", 1)[1]:
            raise ValueError(f"{text}: asks for something of this machine")
        kept.append(text)
    return kept


def _plain_yaml(path: Path) -> Any:
    """What a YAML file holds, without aliases, which can make gigabytes of a few lines, and without tags.

    Raises:
        ValueError: it is no such file. YAMLError: it is not YAML. OSError: it cannot be read.
    """
    import yaml

    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST_SWEEP:
        raise ValueError("no plain file of a config's size")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data, deep = path.read_bytes(), 0
    for event in yaml.parse(data, Loader=loader):
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or deep > DEEPEST:
            raise ValueError("it has aliases, tags or too many levels")
    return yaml.load(data, Loader=loader)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
