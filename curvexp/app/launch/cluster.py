"""A sweep's jobs on a Ray cluster: `hydra/launcher=ray`, a task a job.

Where a worker sees the sweep's folder it writes there; where it does not, the job's folder comes home as a zip through the object store.
A job whose worker dies goes on from its last checkpoint, or from the start, on another; after `max_retries` starts more it is recorded as
failed.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from curvexp import console
from curvexp.app import resume
from curvexp.app.launch.shipping import pack, unpack
from curvexp.errors import ConfigError
from curvexp.store import RunFolder, files

MARK = ".ray"  # a file in the sweep's folder, by which a worker tells that it sees the same folder


class Options(NamedTuple):
    """The keys of conf/hydra/launcher/ray.yaml."""

    address: str | None
    num_cpus: float
    num_gpus: float
    max_retries: int
    runtime_env: dict[str, Any] | None


class Home(NamedTuple):
    """What a job came to, the node it ran on, and its folder as a zip where the worker does not see the sweep's folder."""

    found: JobReturn
    node: str
    shipped: bytes | None


def check(node: Any) -> None:
    """Refuses wrong numbers under hydra.launcher.

    Raises:
        ConfigError: naming the key.
    """
    for key, least, kind in (("num_cpus", 0, int | float), ("num_gpus", 0, int | float), ("max_retries", 0, int)):
        value = node.get(key)
        if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
            what = "an integer" if kind is int else "a number"
            raise ConfigError(
                f"hydra.launcher.{key}={value}: expected {what} of at least {least}. Change hydra.launcher.{key}."
            )


def launch(
    batch: Sequence[Sequence[str]],
    first: int,
    *,
    options: Options,
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    register: Callable[[], None],
) -> list[JobReturn]:
    """Runs the jobs, the first of which has the number `first`; what each came to, in their order.

    Args:
        register: makes the plugins known to Hydra in a worker.

    Raises:
        KeyboardInterrupt: once the jobs are cancelled. ConfigError: no cluster answers at the address.
    """
    import ray

    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    sweep = Path(str(config.hydra.sweep.dir)).absolute()
    sweep.mkdir(parents=True, exist_ok=True)
    token = uuid4().hex
    (sweep / MARK).write_text(token, encoding="utf-8")
    ours = not ray.is_initialized()
    if ours:
        _join(ray, options)
    state = Singleton.get_state()
    remote = ray.remote(_work).options(
        num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_retries=0, runtime_env=options.runtime_env
    )

    def start(number: int) -> Any:
        overrides = list(batch[number - first])
        if tries[number]:  # what the dead worker recorded is gone on with
            overrides += resume.again(sweep)
        return remote.remote(number, overrides, config, context, task, state, str(sweep), token, register)

    tries = dict.fromkeys(range(first, first + len(batch)), 0)
    found: dict[int, JobReturn] = {}
    going: dict[Any, int] = {}
    try:
        going = {start(number): number for number in tries}
        while going:
            (done,), _ = ray.wait(list(going), num_returns=1)
            number = going.pop(done)
            job = _Composed(batch[number - first], number, config, context, str(sweep))
            result = _result(ray, done, job, starts=tries[number] + 1, again=tries[number] < options.max_retries)
            if result is not None:
                found[number] = result
            else:
                tries[number] += 1
                going[start(number)] = number
    except KeyboardInterrupt:
        for reference in going:
            ray.cancel(reference, force=False)
        if going:
            ray.wait(list(going), num_returns=len(going), timeout=10)
        raise
    finally:
        (sweep / MARK).unlink(missing_ok=True)
        if ours:
            ray.shutdown()
    return [found[number] for number in tries]


def _result(ray: Any, done: Any, job: "_Composed", *, starts: int, again: bool) -> JobReturn | None:
    """What a job came to; None where its worker died and it is to be started again.

    Args:
        starts: of the job so far. again: whether one more is allowed.
    """
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
    try:
        home = ray.get(done)
    except died as error:
        if again:
            console.err().print(f"#{job.number} its worker died; start {starts + 1}")
            return None
        return job.lost(f"{type(error).__name__}: its worker died, {starts} starts")
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        return job.lost(f"{type(error).__name__}: {reason}")
    if home.shipped is not None:
        try:
            unpack(home.shipped, job.folder)
        except ValueError as error:
            return job.lost(str(error))
    job.show(home.node)
    return home.found


def _join(ray: Any, options: Options) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="os.fork", category=RuntimeWarning
            )  # JAX's; Ray's child executes at once
            ray.init(address=options.address or "local", log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"hydra.launcher.address={options.address}: no cluster ({error}). Expected null, auto or host:port. "
            "Change hydra.launcher.address."
        ) from error


def _work(
    number: int,
    overrides: list[str],
    config: DictConfig,
    context: HydraContext,
    task: Callable[..., Any],
    state: dict[Any, Any],
    sweep: str,
    token: str,
    register: Callable[[], None],
) -> Home:
    """One job, on a worker."""
    import ray

    os.environ["TTY_COMPATIBLE"] = "0"  # to Rich no terminal: a line a job
    register()
    setup_globals()
    Singleton.set_state(state)
    mark = Path(sweep) / MARK
    seen = mark.is_file() and mark.read_text(encoding="utf-8") == token
    with tempfile.TemporaryDirectory(prefix="curvexp-") as own:
        job = _Composed(overrides, number, config, context, sweep if seen else own)
        HydraConfig.instance().set_config(job.composed)
        found = run_job(
            hydra_context=context,
            task_function=task,
            config=job.composed,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        node = ray.get_runtime_context().get_node_id()
        return Home(found, node, None if seen else pack(job.folder))


class _Composed:
    """A job's config, and where its folder is."""

    def __init__(
        self, overrides: Sequence[str], number: int, config: DictConfig, context: HydraContext, sweep: str
    ) -> None:
        self.overrides, self.number = list(overrides), number
        self.composed = context.config_loader.load_sweep_config(config, self.overrides)
        with open_dict(self.composed):
            self.composed.hydra.job.id = f"{self.composed.hydra.job.name}_{number}"
            self.composed.hydra.job.num = number
            self.composed.hydra.sweep.dir = sweep

    @property
    def folder(self) -> Path:
        hydra = self.composed.hydra
        return Path(str(hydra.sweep.dir)).absolute() / str(hydra.sweep.subdir)

    @property
    def title(self) -> str:
        return f"#{self.number} {self.composed.hydra.job.override_dirname}"

    def show(self, node: str) -> None:
        """A line on how the job ended, and on which node."""
        try:
            summary = json.loads((self.folder / files.SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        console.err().print(console.line(self.title, summary))
        console.err().print(f"  node {node[:12]}")

    def lost(self, reason: str) -> JobReturn:
        """Records the job as failed, in its folder and on the screen."""
        from curvexp.app import keys

        ours = OmegaConf.masked_copy(self.composed, [str(key) for key in self.composed if key != "hydra"])
        choices = self.composed.hydra.runtime.choices
        store = RunFolder(self.folder)
        names = {group: str(choices.get(group)) for group in ("problem", "preprocess", "optim", "probe")}
        plain = {key: value for key, value in keys.plain(ours).items() if key not in keys.CONTROLS}
        if (self.folder / files.METRICS).exists():  # what it recorded stays
            store.take_up(plain)
        else:
            store.start(plain, {**names, "seed": plain.get("seed")})
        summary = store.finish(status="failed", reason=reason)
        console.err().print(console.line(self.title, summary))
        found = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        found.return_value = float("nan")
        return found
