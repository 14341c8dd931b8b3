"""A sweep's jobs one after the other in this process: `hydra/launcher=basic`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from omegaconf import DictConfig, open_dict

from curvexp.app.launch.composing import COMPOSED, Group
from curvexp.app.launch.jobs import Job


def in_turn(jobs: Sequence[Job], *, config: DictConfig, context: Any, task: Callable[..., Any]) -> list[JobReturn]:
    """Runs the jobs one after the other; what each came to, in their order.

    Args:
        config: of the sweep. context: Hydra's. task: what runs a job.
    """
    begin_sweep(config)
    groups: dict[tuple[str, ...], Group] = {}
    found = []
    for job in jobs:
        if job.like not in groups:
            if len(groups) == COMPOSED:
                del groups[next(iter(groups))]
            groups[job.like] = Group(job, config, context)
        group = groups[job.like]
        found.append(group.run(job, task) if group.ordinary else alone(job, config, context, task))
    return found


def begin_sweep(config: DictConfig) -> None:
    """What Hydra's own launcher does first."""
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)


def alone(job: Job, config: DictConfig, context: Any, task: Callable[..., Any]) -> JobReturn:
    """As Hydra's basic launcher has it."""
    composed = context.config_loader.load_sweep_config(config, list(job.overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = job.number
    found = run_job(
        hydra_context=context,
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    return found
