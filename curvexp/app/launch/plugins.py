"""What curvexp adds to Hydra: `hydra/launcher=basic`, `vmap`, `ray`, `joblib` on Hydra's own, and `hydra/sweeper=once`.

Hydra takes a plugin only by a name that begins with hydra_plugins; `register` hands it these under such names.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from curvexp.app import hydra_private
from curvexp.app.hydra_private import BasicSweeper

PACKAGE = "hydra_plugins.curvexp"  # as conf/hydra has it


class _Ours(Launcher):
    """Keeps what Hydra gives a launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra gives."""
        self.context, self.task, self.config = hydra_context, task_function, config


class BasicLauncher(_Ours):
    """A sweep's jobs one after the other in this process, as Hydra's own has it; those that differ in numbers alone are composed once."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; what each came to."""
        from curvexp.app.launch.in_turn import in_turn
        from curvexp.app.launch.jobs import read

        jobs = read(job_overrides, initial_job_idx)
        return in_turn(jobs, config=self.config, context=self.context, task=self.task)


class VmapLauncher(_Ours):
    """A sweep's jobs together, as rows of one program where they share functions and shapes: see curvexp.app.launch.rows."""

    def __init__(self, max_batch: int | None = None) -> None:
        self.max_batch = max_batch

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; what each came to."""
        from curvexp.app.launch import rows
        from curvexp.app.launch.jobs import read

        jobs = read(job_overrides, initial_job_idx)
        return rows.launch(jobs, config=self.config, context=self.context, task=self.task, max_batch=self.max_batch)


class OnceSweeper(BasicSweeper):
    """Hydra's own sweeper, which composes every job once more before the first starts; this one composes those that differ in more than
    numbers, and counts the jobs that were refused, in whatever process."""

    def __init__(self, max_batch_size: int | None = None, params: dict[str, Any] | None = None) -> None:
        super().__init__(max_batch_size, params)

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the jobs, where all of them can be composed: else it raises, and nothing is written. What each came to, by batch."""
        from curvexp import console
        from curvexp.app import resume, supervisor
        from curvexp.app.job import Refused
        from curvexp.app.launch.composing import check_batch
        from curvexp.app.sweep_end import ReportAtEnd

        assert self.config is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*hydra_private.params_of(self), *arguments])
        trust: dict[str, None] = {}
        for batch in self.split_arguments(overrides, self.max_batch_size):
            composed = check_batch(batch, config=self.config, context=self.hydra_context)
            trust |= dict.fromkeys(package for config in composed for package in resume.packages(config))
        ReportAtEnd.line = line = resume.of_sweep(self.config, [*trust])
        supervisor.note(line=line)
        try:
            found = super().sweep(arguments)
        except KeyboardInterrupt:
            console.err().print(f"Go on with it: {console.printable(line)}")
            raise
        ReportAtEnd.refused += sum(isinstance(job.return_value, Refused) for batch in found or () for job in batch)
        return found

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """All jobs were, before the first started."""


class ProcessLauncher(Launcher):
    """Hydra's joblib launcher, the machine's cores parted between its processes, without live bars drawn over each other.

    A process reads these variables before it computes: NPROC is XLA's number of threads, the others those of the BLAS and OpenMP libraries.
    What is set already stays.
    """

    def __init__(self, **options: Any) -> None:
        try:
            from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
        except ImportError as error:
            raise ImportError("hydra/launcher=joblib: pip install 'curvexp[parallel]'") from error
        self.options, self.inner = options, JoblibLauncher(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra gives."""
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; what each came to."""
        from joblib import effective_n_jobs

        processes = min(effective_n_jobs(self.options.get("n_jobs", -1)), len(job_overrides))
        each = str(max(1, len(os.sched_getaffinity(0)) // processes))
        threads = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        given = {name: os.environ.get(name) for name in (*threads, "TTY_COMPATIBLE", "PYTHONWARNINGS")}
        try:
            for name in threads:
                os.environ.setdefault(name, each)
            os.environ["TTY_COMPATIBLE"] = "0"  # to Rich no terminal: a line a job
            os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.process")  # that of __main__
            return self.inner.launch(job_overrides, initial_job_idx)
        finally:
            for name, value in given.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class RayLauncher(_Ours):
    """A sweep's jobs as tasks of a Ray cluster: see curvexp.app.launch.cluster."""

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        max_retries: int = 2,
        runtime_env: Any = None,
    ) -> None:
        from curvexp.app.launch.cluster import Options

        plain: Any = OmegaConf.to_container(runtime_env) if OmegaConf.is_config(runtime_env) else runtime_env
        self.options = Options(address, num_cpus, num_gpus, max_retries, plain)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; what each came to."""
        from curvexp import console
        from curvexp.app.launch import cluster
        from curvexp.errors import ConfigError

        try:
            return cluster.launch(
                job_overrides,
                initial_job_idx,
                options=self.options,
                config=self.config,
                context=self.context,
                task=self.task,
                register=register,
            )
        except ConfigError as error:
            console.refuse(str(error))
            sys.exit(2)


try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
except ImportError:  # the extra `slurm` is not installed
    _QUEUES: tuple[type[Launcher], ...] = ()
else:

    class _Preempted:
        """A job that submitit tells of its preemption keeps a checkpoint, and goes on from it when it is queued again."""

        def checkpoint(self, overrides: list[str], *args: Any) -> Any:
            """The job as it is queued again."""
            from curvexp.app import keeper, keys, resume

            keeper.keep_now()
            sweep = Path(str(self.config.hydra.sweep.dir)).absolute()  # type: ignore[attr-defined]
            kept = [text for text in overrides if resume.key_of(text) not in keys.CONTROLS]
            return super().checkpoint([*kept, *resume.again(sweep)], *args)  # type: ignore[misc]

    class ArrayLauncher(_Preempted, SlurmLauncher):
        """Hydra's Slurm launcher, whose preempted jobs go on where they were."""

    class LocalArrayLauncher(_Preempted, LocalLauncher):
        """The same through processes of this machine."""

    _QUEUES = (ArrayLauncher, LocalArrayLauncher)


def register() -> None:
    """Makes these known to Hydra in this process."""
    plugins: tuple[type[Plugin], ...] = (
        BasicLauncher,
        VmapLauncher,
        ProcessLauncher,
        RayLauncher,
        OnceSweeper,
        *_QUEUES,
    )
    hydra_private.register(plugins, PACKAGE)
    # in the place of Hydra's own, which is its default: a file of that name in conf would be warned of at every start
    ConfigStore.instance().store(
        "basic", {"_target_": f"{PACKAGE}.BasicLauncher"}, "hydra/launcher", provider="curvexp"
    )
