"""Configs of a sweep's jobs: those that differ in numbers alone are composed once, and varied.

Hydra composes a config in 50 to 95 ms on two cores; all else of a small job takes 20 to 30 ms.
"""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from curvexp.app import hydra_private
from curvexp.app.launch.jobs import Job, distinct

COMPOSED = 16  # configs kept of jobs that go one after the other


def check_batch(batch: Sequence[Sequence[str]], *, config: DictConfig, context: Any) -> list[dict[str, Any]]:
    """Composes the jobs, one for all that differ in numbers alone; it raises where one cannot be. The launcher takes up the last ones.

    Returns:
        The configs in plain Python, Hydra's part aside, interpolations as they stand.
    """
    _composed.clear()
    found = []
    for overrides in distinct(batch):
        composed = _compose(overrides, config, context)
        keys = [str(key) for key in composed if key != "hydra"]
        plain: Any = OmegaConf.to_container(OmegaConf.masked_copy(composed, keys))
        found.append(plain)
    return found


# the last configs that a sweeper composed, by overrides, each after the sweep's own; a launcher takes up each once
_composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}


def _compose(overrides: Sequence[str], config: DictConfig, context: Any) -> DictConfig:
    if len(_composed) == COMPOSED:
        del _composed[next(iter(_composed))]
    composed: DictConfig = context.config_loader.load_sweep_config(config, list(overrides))
    _composed[tuple(overrides)] = config, composed
    return composed


class Group:
    """Jobs that are composed together: one config, made that of each job in turn."""

    def __init__(self, first: Job, config: DictConfig, context: Any) -> None:
        self.callbacks = context.callbacks
        if _composed.get(first.overrides, (None,))[0] is not config:
            _compose(first.overrides, config, context)
        _, self.composed = _composed.pop(first.overrides)
        keys = [str(key) for key in self.composed if key != "hydra"]
        self.ours = OmegaConf.masked_copy(self.composed, keys)
        plain: Any = OmegaConf.to_container(self.composed.hydra, enum_to_str=True)
        self.plain: dict[str, Any] = plain
        self.lines = [str(line) for line in self.composed.hydra.overrides.task]
        self.dir: str | None = None
        self.varied, self.overruled = first.varied, first.overruled
        for part in (self.composed, self.composed.hydra, self.ours):
            OmegaConf.set_readonly(part, False)
            OmegaConf.set_struct(part, False)

    @property
    def ordinary(self) -> bool:
        """Whether Hydra does nothing around such a job but what is done here: no other folder, environment or logging."""
        job, logging = self.plain["job"], self.plain["job_logging"]
        quiet = logging is not None and logging.get("root", 0) is None
        return not (self.overruled or job["chdir"] or job["env_set"] or self.plain["verbose"]) and quiet

    @property
    def begins(self) -> list[str]:
        """Callbacks that do something when a job begins, by their class: it would be undone by the next job that begins in step."""
        kinds = [type(callback) for callback in self.callbacks.callbacks]
        return [kind.__name__ for kind in kinds if getattr(kind, "on_job_start", None) is not Callback.on_job_start]

    def run(self, job: Job, task: Callable[..., Any]) -> JobReturn:
        """Runs a job by itself; what it came to."""
        state: Any = HydraConfig.instance()
        before = state.cfg
        try:
            config, found = self.begin(job, task)
            try:
                result = task(self.ours)
            except Exception as error:
                result = error
            self.end(config, found, result)
            return found
        finally:
            state.cfg = before

    def begin(self, job: Job, task: Callable[..., Any]) -> tuple[DictConfig, JobReturn]:
        """What Hydra does before a job; the config that its callbacks get, and what the job will have come to."""
        self.vary(job)
        config, found = self.composed, JobReturn()
        found.overrides, found.working_dir = list(job.overrides), os.getcwd()
        if len(self.callbacks.callbacks) > 1:  # a person's own may keep the configs, which become those of the next job
            config, found.cfg = copy.deepcopy(self.composed), copy.deepcopy(self.ours)
            hydra: Any = OmegaConf.masked_copy(config, "hydra")
            found.hydra_cfg = hydra
        self.callbacks.on_job_start(config=config, task_function=task)
        return config, found

    def end(self, config: DictConfig, found: JobReturn, result: Any) -> None:
        """What Hydra does after a job, which returned the result or raised it."""
        found.status = JobStatus.FAILED if isinstance(result, BaseException) else JobStatus.COMPLETED
        found.return_value = result
        found.task_name = str(config.hydra.job.name)
        self.callbacks.on_job_end(config=config, job_return=found)

    def vary(self, job: Job) -> None:
        """Makes the config, and Hydra's global one, those of this job; makes its folder with what Hydra writes there."""
        for key, value in job.varied.items():
            if (type(value), value) != (type(self.varied[key]), self.varied[key]):
                self.varied[key] = value
                OmegaConf.update(self.composed, key, value)
                OmegaConf.update(self.ours, key, value)
        state: Any = HydraConfig.instance()
        state.cfg = self.composed
        hydra, style = self.composed.hydra, self.plain["job"]["config"]["override_dirname"]
        tasks = [o for o in job.parsed if not o.is_hydra_override()]
        lines = [str(o.input_line) for o in tasks]
        number = {"id": str(job.number), "num": job.number}
        number["override_dirname"] = hydra_private.overrides_dirname(
            tasks, kv_sep=style["kv_sep"], item_sep=style["item_sep"], exclude_keys=style["exclude_keys"]
        )
        for position, line in enumerate(lines):
            if line != self.lines[position]:
                hydra.overrides.task[position] = line
        self.lines = lines
        for key, value in number.items():
            hydra.job[key] = value
        folder = self._folder(job)
        hydra.runtime.output_dir = folder
        self.plain["overrides"]["task"], self.plain["runtime"]["output_dir"] = lines, folder
        self.plain["job"] |= number
        Path(folder).mkdir(parents=True, exist_ok=True)
        if self.plain["output_subdir"] is not None:
            self._write(Path(folder) / str(self.plain["output_subdir"]), lines)

    def _folder(self, job: Job) -> str:
        """The job's folder; by OmegaConf where its name depends on more than the job's number and the time of the sweep."""
        sweep = self.plain["sweep"]
        if self.dir is None or "${" in str(sweep["dir"]).replace("${now:", ""):
            self.dir = str(self.composed.hydra.sweep.dir)
        name = str(sweep["subdir"]).replace("${hydra.job.num}", str(job.number))
        return os.path.abspath(os.path.join(self.dir, str(self.composed.hydra.sweep.subdir) if "${" in name else name))

    def _write(self, folder: Path, overrides: list[str]) -> None:
        """Config, Hydra's config and overrides."""
        folder.mkdir(exist_ok=True)
        parts = {"config": OmegaConf.to_container(self.ours), "hydra": {"hydra": self.plain}, "overrides": overrides}
        for name, value in parts.items():
            (folder / f"{name}.yaml").write_text(_yaml(value), encoding="utf-8")


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML as OmegaConf writes it: texts that would be read as numbers stand in quotes; no anchors.

    By libyaml, in a fifth of the time of OmegaConf.save, which would double the time of a small job.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    quoted = "'" if hydra_private.quoted_in_yaml(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quoted)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
