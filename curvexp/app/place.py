"""Where a job stands: its folder, its title, the options chosen in each group, and the sweep that it belongs to."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from curvexp.app import keys, resume
from curvexp.errors import ConfigError


class Place(NamedTuple):
    """Where a job stands.

    Attributes:
        folder: its own. names: the option chosen in each group. title: on the screen.
        sweep: whether it is one of a sweep's jobs. group: the sweep's in W&B, or None. tags: of W&B.
    """

    folder: Path
    names: dict[str, str]
    title: str
    sweep: bool = False
    group: str | None = None
    tags: Sequence[str] = ()


def place_of_job() -> Place:
    """Where the job stands that Hydra's global config is now of."""
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    names = {group: str(hydra.runtime.choices.get(group)) for group in keys.GROUPS}
    title = _title(hydra) if sweep else "{problem} {preprocess} {optim}".format(**names)
    folder, group = Path(hydra.runtime.output_dir), _group(hydra) if sweep else None
    return Place(folder, names, title, sweep, group, _tags(hydra))


def place_of_folder(folder: Path) -> Place:
    """Where the run stands that a folder holds."""
    found = resume.summary(folder)
    names = {group: str(found.get(group)) for group in keys.GROUPS}
    tracked: Any = found.get("wandb")
    group = tracked.get("group") if isinstance(tracked, dict) else None
    return Place(folder, names, "{problem} {preprocess} {optim}".format(**names), group=group)


def _tags(hydra: Any) -> list[str]:
    """The study that the run belongs to, where it belongs to one."""
    study = hydra.runtime.choices.get("study")
    return [str(study)] if study not in (None, "null", "None") else []


def _title(hydra: Any) -> str:
    """A job of a sweep: its number, and those of its overrides that the sweep varies, all of them where it does not tell."""
    overrides, varied = list(hydra.overrides.task), _varied(str(hydra.sweep.dir))
    return " ".join([f"#{hydra.job.num}", *([o for o in overrides if resume.key_of(o) in varied] or overrides)])


@functools.lru_cache(maxsize=8)
def _varied(sweep: str) -> frozenset[str]:
    """The keys to which a sweep gives several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        parsed = OverridesParser.create().parse_overrides(resume.sweep_overrides(Path(sweep)))
    except ConfigError:
        return frozenset()
    return frozenset(resume.key_of(str(o.input_line)) for o in parsed if o.is_sweep_override())


def _group(hydra: Any) -> str:
    return "/".join(Path(str(hydra.sweep.dir)).parts[-2:])
