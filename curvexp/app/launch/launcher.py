"""A sweep's jobs in this process: one after the other, `hydra/launcher=basic`, or in step, `hydra/launcher=vmap`.

Jobs whose overrides differ in numbers alone are composed once and varied. In step each leaves its own folder, records, summary and W&B run,
by the same code as alone, while `training.run_many` trains all that share functions and shapes as rows of one program. A number that
changes a shape parts them into further programs, one after the other; a job that has no like goes by itself. Beside a person's callback
with an on_job_start the jobs go one after the other: such a callback keeps, or sets, something for the one job that runs.
"""

import copy
import functools
import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import is_float, yaml_is_bool  # what OmegaConf quotes in YAML

from curvexp import console
from curvexp.app import build as configs
from curvexp.app.launch import cluster
from curvexp.errors import ConfigError

if TYPE_CHECKING:
    from curvexp.app.job import Job as Running

EXTRAS = (  # extra of curvexp, module, what its launcher's target holds
    ("parallel", "hydra_plugins.hydra_joblib_launcher", "ProcessLauncher"),
    ("slurm", "hydra_plugins.hydra_submitit_launcher", "ArrayLauncher"),
    ("ray", "ray", "RayLauncher"),
)
COMPOSED = 16  # configs kept of jobs that go one after the other
CHANGING = {  # what of Hydra's config is a job's own
    ("overrides", "task"),
    ("runtime", "output_dir"),
    *(("job", key) for key in ("id", "num", "override_dirname")),
}
MOST = 256  # jobs that go in step where nothing else is said: each holds its records' state


class Job(NamedTuple):
    """One job of a sweep: its number in it, its overrides as typed and as Hydra reads them."""

    number: int
    overrides: tuple[str, ...]
    parsed: tuple[Override, ...]

    @property
    def varied(self) -> dict[str, Any]:
        """The overrides that set a number of an option, by key."""
        return {str(o.key_or_group): o.value() for o in self.parsed if _is_number(o)}

    @property
    def overruled(self) -> bool:
        """Whether a later override sets one of these numbers too, itself or the part that it lies in; an option of a group does not."""
        keys = [str(o.key_or_group) for o in self.parsed]
        return any(
            key == later or (key.startswith(f"{later}.") and not isinstance(other.value(), str))
            for at, (key, number) in enumerate(zip(keys, self.parsed, strict=True))
            if _is_number(number)
            for later, other in zip(keys[at + 1 :], self.parsed[at + 1 :], strict=True)
        )

    @property
    def like(self) -> tuple[str, ...]:
        """What jobs that are composed together have in common: all other overrides, and which numbers are set."""
        return tuple(
            str(o.key_or_group) if _is_number(o) else text for o, text in zip(self.parsed, self.overrides, strict=True)
        )


def read(batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    """A sweep's jobs from their overrides; the first has the number `first`."""
    return [
        Job(number, tuple(overrides), tuple(_parsed(text) for text in overrides))
        for number, overrides in enumerate(batch, first)
    ]


def distinct(batch: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """One of the jobs for each way to compose them: numbers aside, what is legal for one is legal for all."""
    found: dict[tuple[str, ...], Sequence[str]] = {}
    for job, overrides in zip(read(batch), batch, strict=True):
        found.setdefault(job.like, overrides)
    return list(found.values())


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


def in_turn(jobs: Sequence[Job], *, config: DictConfig, context: Any, task: Callable[..., Any]) -> list[JobReturn]:
    """Runs the jobs one after the other; what each came to, in their order.

    Args:
        config: of the sweep. context: Hydra's. task: what runs a job.
    """
    _begin(config)
    groups: dict[tuple[str, ...], _Group] = {}
    found = []
    for job in jobs:
        if job.like not in groups:
            if len(groups) == COMPOSED:
                del groups[next(iter(groups))]
            groups[job.like] = _Group(job, config, context)
        group = groups[job.like]
        found.append(group.run(job, task) if group.ordinary else _alone(job, config, context, task))
    return found


def launch(
    jobs: Sequence[Job], *, config: DictConfig, context: Any, task: Callable[..., Any], max_batch: int | None
) -> list[JobReturn]:
    """Runs the jobs; what each came to, in their order.

    Args:
        config: of the sweep. context: Hydra's. task: what runs a job that goes by itself.
        max_batch: most jobs in step; None: MOST, in parts that fit the memory.

    Raises:
        KeyboardInterrupt: once the interrupted jobs are recorded.
    """
    _begin(config)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.like, []).append(job)
    most = max_batch or MOST
    found: dict[int, JobReturn] = {}
    for part in (group[begin : begin + most] for group in groups.values() for begin in range(0, len(group), most)):
        first = _Group(part[0], config, context)
        if first.ordinary and len(part) > 1 and not first.begins:
            found |= _together(part, first)
        elif first.ordinary:
            found |= {job.number: first.run(job, task) for job in part}
            if len(part) > 1:
                console.err().print(
                    f"one after the other, for on_job_start of {console.printable(', '.join(first.begins))}"
                )
        else:
            found |= {job.number: _alone(job, config, context, task) for job in part}
            if len(part) > 1:
                console.err().print(
                    "one after the other, for hydra.job.chdir, hydra.job.env_set, hydra.job_logging, hydra.verbose, or an override "
                    "that sets what another one set"
                )
    return [found[job.number] for job in jobs]


def check(node: Any) -> None:
    """Refuses a launcher that is not installed, or a wrong number of jobs in step.

    Args:
        node: the config under hydra.launcher.

    Raises:
        ConfigError: naming the key.
    """
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise ConfigError(f"hydra.launcher={node}: expected a launcher with its _target_. Set hydra/launcher=OPTION.")
    target = str(node.get("_target_"))
    for extra, package, name in EXTRAS:
        if name in target and find_spec(package) is None:
            raise ConfigError(f"hydra.launcher._target_={target}: not installed. pip install 'curvexp[{extra}]'")
    if "RayLauncher" in target:
        cluster.check(node)
    most = node.get("max_batch")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(
            f"hydra.launcher.max_batch={most}: expected a positive integer, or null. Change hydra.launcher.max_batch."
        )


def _begin(config: DictConfig) -> None:
    """What Hydra's own launcher does first."""
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)


def _alone(job: Job, config: DictConfig, context: Any, task: Callable[..., Any]) -> JobReturn:
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


def _together(jobs: list[Job], group: "_Group") -> dict[int, JobReturn]:
    """Jobs that are composed together, in step; {number: what it came to}."""
    from curvexp import track
    from curvexp.app.job import Job as Running
    from curvexp.app.job import execute, place_of_job
    from curvexp.app.signals import Signals

    before = HydraConfig.instance().cfg
    begun: list[tuple[DictConfig, JobReturn]] = []
    results: list[Any] = [None] * len(jobs)
    displays, together = Together(len(jobs), steps=len(jobs) * _steps(group.ours)), []
    running: list[Running] = []

    def conclude(number: int) -> None:
        """Ends a job that is over, and keeps what it came to."""
        if results[number] is None:
            try:
                running[number].end()
                results[number] = running[number].result()
            except (Exception, KeyboardInterrupt) as error:
                results[number] = error

    with Signals() as signals, track.together(), displays:
        for number, job in enumerate(jobs):
            begun.append(group.begin(job, execute))
            typed = functools.partial(configs.plain, group.ours)  # this job's own until the next one begins
            running.append(Running(typed, place_of_job(), signals, displays.one))
            with running[number].guard():
                running[number].begin()
            if running[number].over:
                conclude(number)
        for numbers in _like(running):
            if _carry({number: running[number] for number in numbers}, conclude):
                together.append(len(numbers))
    HydraConfig.instance().cfg = before
    for (config, found), result in zip(begun, results, strict=True):
        group.end(config, found, result)
    console.err().print(_told(jobs, together))
    stopped = [result for result in results if isinstance(result, KeyboardInterrupt)]
    if stopped:
        raise stopped[-1]
    return {job.number: found for job, (_, found) in zip(jobs, begun, strict=True)}


def _like(running: "list[Running]") -> list[list[int]]:
    """Numbers of the jobs that have begun, those together that one program can carry."""
    from curvexp.training import by_structure

    found: dict[tuple[Any, ...], list[int]] = {}
    for number, job in enumerate(running):
        if not job.over:
            found.setdefault(tuple(job.settings.items()), []).append(number)
    return [
        [numbers[row] for row in rows]
        for numbers in found.values()
        for rows in by_structure(
            [running[number].run for number in numbers], batch_size=running[numbers[0]].settings["batch_size"]
        )
    ]


def _carry(jobs: "dict[int, Running]", conclude: Callable[[int], None]) -> bool:
    """Trains jobs of equal structure to their ends; whether one program carried them."""
    from curvexp.training import run_many

    numbers, settings = list(jobs), next(iter(jobs.values())).settings

    def failed(row: int, error: BaseException) -> None:
        jobs[numbers[row]].fail(error)
        conclude(numbers[row])

    for job in jobs.values():
        job.begun = time.perf_counter() - job.spent  # the jobs before are no part of its time
    rows = run_many([job.run for job in jobs.values()], **settings, clock=time.perf_counter, failed=failed)
    try:
        for records in rows:
            for record in records:
                job = jobs[numbers[record.row]]
                with job.guard():
                    job.append(record)
                if job.over:
                    rows.stop(record.row)
                    conclude(numbers[record.row])
    except KeyboardInterrupt as error:  # a second one: at once
        for number, job in jobs.items():
            if not job.over:
                job.fail(error)
                conclude(number)
    if rows.alone:
        console.err().print(console.printable(f"not vmapped, run by run: {rows.alone}"))
    return len(jobs) > 1 and not rows.alone


def _told(jobs: list[Job], together: list[int]) -> str:
    alone = len(jobs) - sum(together)
    parts = [f"{rows} in one program" for rows in sorted(together, reverse=True)] + [f"{alone} by themselves"] * (
        alone > 0
    )
    return f"[bold]#{jobs[0].number} to #{jobs[-1].number}[/] {len(jobs)} jobs: {', '.join(parts)}"


# ---- composition ----------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _is_number(override: Override) -> bool:
    """Whether it sets a key of ours to a number, which changes nothing else in the composition."""
    value = override.value()
    return (
        override.type == OverrideType.CHANGE
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and override.package is None
        and not str(override.key_or_group).startswith("hydra")
    )


# the last configs that a sweeper composed, by overrides, each after the sweep's own; a launcher takes up each once
_composed: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}


def _compose(overrides: Sequence[str], config: DictConfig, context: Any) -> DictConfig:
    if len(_composed) == COMPOSED:
        del _composed[next(iter(_composed))]
    composed: DictConfig = context.config_loader.load_sweep_config(config, list(overrides))
    _composed[tuple(overrides)] = config, composed
    return composed


class _Group:
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
        self.fixed = {path: self._line(*path) for path in self._paths() if path not in CHANGING}
        whole: Any = OmegaConf.to_container(self.ours)
        self.parts = {key: _yaml({key: value}) for key, value in whole.items()}  # of ours, as they stand in the file
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
                name = key.split(".")[0]
                part = self.ours[name]
                self.parts[name] = _yaml({name: OmegaConf.to_container(part) if OmegaConf.is_config(part) else part})
        state: Any = HydraConfig.instance()
        state.cfg = self.composed
        hydra, style = self.composed.hydra, self.plain["job"]["config"]["override_dirname"]
        tasks = [o for o in job.parsed if not o.is_hydra_override()]
        lines = [str(o.input_line) for o in tasks]
        number = {"id": str(job.number), "num": job.number}
        number["override_dirname"] = get_overrides_dirname(
            overrides=tasks, kv_sep=style["kv_sep"], item_sep=style["item_sep"], exclude_keys=style["exclude_keys"]
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

    def _paths(self) -> list[tuple[str, ...]]:
        """The parts that Hydra's config is written in, by their keys: whole, or those of which one is a job's own by the keys inside."""
        parted = {part for part, _ in CHANGING}
        return [
            path
            for key, value in self.plain.items()
            for path in ([(key, inner) for inner in value] if key in parted else [(key,)])
        ]

    def _line(self, *path: str) -> str:
        """Such a part as it stands in the file."""
        value: Any = functools.reduce(lambda node, key: node[key], path, self.plain)
        text = _yaml(functools.reduce(lambda inner, key: {key: inner}, reversed(("hydra", *path)), value))
        return "".join(text.splitlines(keepends=True)[len(path) :])

    def _write(self, folder: Path, overrides: list[str]) -> None:
        """Config, Hydra's config and overrides, by libyaml."""
        folder.mkdir(exist_ok=True)
        written, mine = "", "hydra:\n"
        for path in self._paths():
            mine += f"  {path[0]}:\n" if len(path) == 2 and path[0] != written else ""
            mine += self.fixed[path] if path in self.fixed else self._line(*path)
            written = path[0]
        parts = {"config": "".join(self.parts.values()), "hydra": mine, "overrides": _yaml(overrides)}
        for name, text in parts.items():
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML as OmegaConf writes it: texts that would be read as numbers stand in quotes; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    quoted = "'" if is_float(text) or yaml_is_bool(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quoted)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def _steps(composed: DictConfig) -> int:
    value = composed.get("steps")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


# ---- what is shown ----------------------------------------------------------------------------------------------------------------


class Together:
    """One bar for jobs in step: how many steps all of them have made, and how many jobs still go."""

    def __init__(self, jobs: int, *, steps: int) -> None:
        self.jobs, self.steps = jobs, steps
        self.shown, self.done, self.going = time.monotonic(), 0, 0
        self.bar: console.Bar | None = None

    def __enter__(self) -> "Together":
        if console.err().is_terminal:
            self.bar = console.Bar()
            self.task = self.bar.add_task(f"{self.jobs} jobs", total=self.steps, figures="compiling")
            self.bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.bar:
            self.bar.stop()

    def one(self, *, title: str, steps: int) -> "Share":
        """A job's display."""
        self.going += 1
        return Share(self, title, steps)

    def advance(self, steps: int) -> None:
        """Shows that a job has made so many steps more."""
        self.done += steps
        if self.bar:
            self.bar.update(self.task, completed=self.done, figures=f"{self.going} go on")
        elif time.monotonic() - self.shown > console.QUIET_SECONDS:
            self.shown = time.monotonic()
            console.err().print(f"{self.jobs} jobs: step {self.done}/{self.steps} of all, {self.going} go on")


class Share:
    """One job's part of the bar: what `console.Display` is to a job alone."""

    def __init__(self, whole: Together, title: str, steps: int) -> None:
        self.whole, self.title, self.steps, self.done = whole, title, steps, 0

    def note(self, text: str) -> None:
        """A line that stays."""
        console.err().print(f"{console.printable(self.title)}: {console.printable(text)}")

    def update(self, step: int, scalars: dict[str, Any]) -> None:
        """Adds the steps since the last update to the bar."""
        self.whole.advance(step - self.done)
        self.done = step

    def close(self) -> None:
        """Counts the steps that the job will not make as done."""
        self.whole.going -= 1
        self.whole.advance(self.steps - self.done)
