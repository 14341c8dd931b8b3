"""The runs that a study's file names: composed as from a command line, trained, and left in folders below the study's own."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from curvexp.app import build, keys, resume
from curvexp.app.launch import jobs
from curvexp.errors import ConfigError
from curvexp.store import files

if TYPE_CHECKING:
    from curvexp.store import Runs

FREE = ("track", "checkpoint", "keep_params", *keys.CONTROLS)  # keys that a run which is there may have had otherwise


class StudyRun(NamedTuple):
    """One run of a study.

    Attributes:
        name: its folder below the study's runs: the name in the study's file, and the number in its sweep. title: on the screen.
        config: in plain Python. names: the option chosen in each group.
    """

    name: str
    title: str
    config: dict[str, Any]
    names: dict[str, str]


def _values(values: Any) -> str:
    """The values of a list as a sweep has them; empty, so that there is no run, where there are none."""
    if values is None:
        return ""
    return ",".join(str(value) for value in values) if OmegaConf.is_list(values) else str(values)


OmegaConf.register_new_resolver("sweep", _values, replace=True)  # optim.lr=${sweep:${study.lrs}}


def compose_runs(
    study: str, common: Sequence[str], runs: Mapping[str, Sequence[str]], *, given: Sequence[str]
) -> list[StudyRun]:
    """The runs of a study, each built once, so that what is wrong in one is refused before any compute.

    Args:
        common: overrides of all runs. runs: those of each name; several values make a sweep, and none at all make no run.
        given: overrides that each is composed with besides, such as a search path.

    Raises:
        ConfigError: naming the run.
    """
    import jax

    before, found = jax.config.values["jax_enable_x64"], []
    composed: dict[tuple[str, ...], DictConfig] = {}  # of overrides that differ in numbers alone, once
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(keys.conf_folder())):
            for name, overrides in runs.items():
                for number, (swept, words) in enumerate(_expanded(study, name, [*common, *overrides])):
                    folder = f"{name}/{number}"
                    try:
                        config, names = _built([*given, *words], composed)
                    except (
                        Exception
                    ) as error:  # of some dozen kinds: what is composed is what the file has, and what was typed
                        raise ConfigError(f"study={study}: runs.{folder}: {_line(error)}") from error
                    found.append(StudyRun(folder, " ".join([folder, *swept]), config, names))
    finally:
        jax.config.update("jax_enable_x64", before)
    return found


def _expanded(study: str, name: str, overrides: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """For each run of a sweep: the overrides that vary, and all of them; nothing where one has no value."""
    if any(text.endswith("=") for text in overrides):
        return
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except Exception as error:  # of Hydra's grammar
        raise ConfigError(f"study={study}: runs.{name}: {_line(error)}. Mend its overrides.") from error
    columns = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in parsed
    ]
    for words in itertools.product(*columns):
        yield [word for word, column in zip(words, columns, strict=True) if len(column) > 1], list(words)


def _built(words: list[str], composed: dict[tuple[str, ...], DictConfig]) -> tuple[dict[str, Any], dict[str, str]]:
    """The config that these overrides make, from which a run can be built, and the option chosen in each group."""
    (job,) = jobs.read([words])
    whole = composed.get(job.like)
    if whole is None or job.overruled:
        whole = composed[job.like] = hydra.compose("config", overrides=words, return_hydra_config=True)
    for key, value in job.varied.items():
        OmegaConf.update(whole, key, value)
    config = keys.plain(whole)
    names = {group: str(whole.hydra.runtime.choices.get(group)) for group in keys.GROUPS}
    build.build({key: value for key, value in config.items() if key not in keys.CONTROLS}, names=names)
    return config, names


def trained(runs: Sequence[StudyRun], folder: Path, *, study: str) -> "Runs":
    """The runs as their folders have them, trained now where they have not ended, those of equal structure in one program.

    Raises:
        ConfigError: a folder holds a run of other numbers. RuntimeError: one failed. KeyboardInterrupt: once the runs are recorded.
    """
    from curvexp.app.launch.rows import in_step
    from curvexp.app.place import Place
    from curvexp.store import Runs, load_runs

    for run in runs:
        _check_same(run, folder / run.name)

    def each() -> Iterator[tuple[Any, Place]]:
        for run in runs:
            config = functools.partial(_to_go_on, run.config, folder / run.name)
            yield config, Place(folder / run.name, run.names, run.title, sweep=True, group=study, tags=[study])

    results, _ = in_step(each(), number=len(runs), steps=sum(run.config["steps"] for run in runs))
    stopped = [result for result in results if isinstance(result, KeyboardInterrupt)]
    if stopped:
        raise stopped[-1]
    ours = [run.name for run in runs]
    found = Runs(*(frame[frame["run"].isin(ours)] for frame in load_runs(folder)))
    for row in found.runs.to_dict("records"):
        if row["status"] not in ("completed", "diverged"):
            raise RuntimeError(f"its run {row['run']} ended as {row['status']}: {row['reason']}")
    return found


def _check_same(run: StudyRun, folder: Path) -> None:
    """Refuses a folder that holds a run of another config.

    Raises:
        ConfigError: naming the folder and the first key that differs.
    """
    if not (folder / files.CONFIG).exists():
        return
    before = resume.recorded(folder)
    for key in dict.fromkeys([*before, *run.config]):
        if key not in FREE and before.get(key) != run.config.get(key):
            raise ConfigError(
                f"hydra.run.dir: {folder} holds a run with {key}={before.get(key)}, and the study now asks for {run.config.get(key)}. "
                "Choose another hydra.run.dir, or remove that folder."
            )


def _to_go_on(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config with which a run begins or, where its folder has it, goes on; one that failed is begun anew."""
    there = str(folder) if (folder / files.CONFIG).exists() else None
    return {**config, "resume": there, "retry": ["failed"], "trust": [resume.ALL]}


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
