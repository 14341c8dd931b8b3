"""One job: a composed config is run, and all that it yields goes to its folder, to W&B and to the screen."""

import contextlib
import functools
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from curvexp import __version__, console
from curvexp.app import build as configs
from curvexp.app import resume, supervisor
from curvexp.errors import ConfigError, Unsupported
from curvexp.quantities import QUANTITIES
from curvexp.store import MARKS, SUMMARY, RecordError, RunFolder, ending, jsonable, secrets

PACKAGES = ("jax", "optax", "flax", "numpy", "scipy")
ONE_SIGNAL = 0.5  # seconds within which a signal is the same: one that goes to all processes of a sweep comes twice, see supervisor
AT_START = [q.name for q in QUANTITIES if q.start]  # of these the summary has the first values too, as NAME_start


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


class Refused(float):
    """What a sweep's job comes to, nan, that left no trace, because its folder holds another run or is written by another process."""


def execute(config: DictConfig) -> float:
    """Runs one job under Hydra; the final loss, nan where the job failed, so that the other jobs of a sweep go on.

    Raises:
        SystemExit: 1 where a single run failed. KeyboardInterrupt: once the interrupted run is recorded.
    """
    return _job(lambda: configs.plain(config), place_of_job())


def place_of_job() -> Place:
    """Where the job stands that Hydra's global config is now of."""
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    names = {group: str(hydra.runtime.choices.get(group)) for group in configs.GROUPS}
    title = _title(hydra) if sweep else "{problem} {preprocess} {optim}".format(**names)
    folder, group = Path(hydra.runtime.output_dir), _group(hydra) if sweep else None
    return Place(folder, names, title, sweep, group, _tags())


def go_on(config: dict[str, Any], folder: Path) -> float:
    """Goes on with the run of a folder, under this config, as `resume.recorded` gave it; returns and raises as `execute` does."""
    found = resume.summary(folder)
    names = {group: str(found.get(group)) for group in configs.GROUPS}
    tracked: Any = found.get("wandb")
    group = tracked.get("group") if isinstance(tracked, dict) else None
    place = Place(folder, names, "{problem} {preprocess} {optim}".format(**names), group=group)
    return _job(lambda: {**config, "resume": str(folder)}, place)


def _job(config: Callable[[], dict[str, Any]], place: Place) -> float:
    with Signals() as signals:
        job = Job(config, place, signals)
        with job.guard():
            job.begin()
            for record in job.records():
                job.append(record)
        job.end()
    return job.result()


class Job:
    """One job: `begin`, then `append` every record of its run, then `end` and `result`.

    What is raised in the first two, within `guard`, ends this job alone, and is recorded in its folder.

    Attributes:
        place: where it stands. over: whether no record is to come. experiment: its objects, once it has begun. settings: of its run, those
            that are no part of a `training.Run`. summary: as it was written at the end.
    """

    def __init__(
        self, config: Callable[[], dict[str, Any]], place: Place, signals: "Signals", display: Any = None
    ) -> None:
        self.config_of, self.place, self.signals, self.display_of = config, place, signals, display or console.Display
        self.begun, self.spent, self.over = time.perf_counter(), 0.0, False
        self.store = RunFolder(place.folder)
        self.experiment: configs.Experiment | None = None
        self.display: Any = None
        self.status, self.refused = "failed", False
        self.figures: dict[str, Any] = {}  # of the summary, at every moment, so that an interruption keeps them
        self.summary: dict[str, Any] = {}

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Within, what is raised ends the job, but for an exit that a queue wishes."""
        try:
            yield
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Ends the job for what was raised; raises what is no matter of the job's."""
        self.over, folder = True, self.place.folder
        if isinstance(error, Unsupported):
            self.status, self.figures["reason"] = "skipped", str(error)
        elif isinstance(error, ConfigError):
            self.status, self.figures["reason"], self.refused = "failed", str(error), self.store.left
        elif isinstance(error, KeyboardInterrupt):
            self.status, self.figures["reason"] = "interrupted", str(error) or "Ctrl-C"
        elif isinstance(error, RecordError):
            self.status, self.figures["reason"] = "failed", _unwritten(folder, error)
        elif isinstance(error, Exception) or (isinstance(error, SystemExit) and not _taken):  # of a person's own code
            with contextlib.suppress(OSError):  # a full disk
                trace = "".join(traceback.format_exception(error))
                (folder / "traceback.txt").write_text(secrets.hidden(trace), encoding="utf-8")
            first = (str(error).strip().splitlines() or [""])[0]
            self.status, self.figures["reason"] = "failed", f"{type(error).__name__}: {first}"
        else:
            self._close()
            raise error

    def begin(self) -> None:
        """Makes or takes up the folder, builds the objects, starts the tracker."""
        place, store = self.place, self.store
        config = self.config_of()
        control = {key: config.pop(key, None) for key in configs.CONTROLS}
        todo = _todo(config, control, place, store)
        if todo == "nothing":
            self.summary = {**dict.fromkeys(SUMMARY), **resume.summary(place.folder), "before": True}
            self.over = True
            return
        head: dict[str, Any] = {key: place.names[key] for key in ("problem", "preprocess", "optim", "probe")}
        head |= {"seed": config.get("seed"), "versions": _versions()}
        if todo == "new":
            store.start(config, head)
        else:
            store.take_up(config)
        self.config, self.experiment = config, configs.build(config, names=place.names)
        self.display = self.display_of(title=place.title, steps=config["steps"])
        kept = None
        if todo != "new":
            kept = _taken_up(self.experiment, config, store, self.display, anew=todo == "anew")
            store.update(**head)
        self._start_tracker(self.experiment, before=store.summary.get("wandb") if kept else None)
        self.spent = kept.facts["seconds"] if kept else 0.0
        self._prepare(self.experiment, kept)

    def _start_tracker(self, experiment: configs.Experiment, *, before: Any) -> None:
        place, store = self.place, self.store
        store.update(parameters=experiment.parameters, examples=experiment.problem.examples)
        if own := experiment.probe.quantities:
            store.update(quantities={quantity.name: quantity.meaning for quantity in own})
        experiment.tracker.start(
            config=self.config,
            folder=place.folder,
            group=place.group,
            job_type=place.names["problem"] if place.group else None,
            name=place.title,
            tags=place.tags,
            own=experiment.probe.quantities,
            before=before,
        )
        if experiment.tracker.identity:
            store.update(wandb=experiment.tracker.identity)
        if experiment.tracker.address:
            self.display.note(f"W&B: {experiment.tracker.address}")

    def _prepare(self, experiment: configs.Experiment, kept: resume.Kept | None) -> None:
        """What the records go to, and the run that gives them."""
        import jax

        from curvexp.training import Run

        config = self.config
        self.way = _Way(experiment, config["landscape"])
        self.keeper = _Keeper(config["checkpoint"], self.store, self.display, self.way, experiment.tracker)
        self.key, self.settings = jax.random.key(config["seed"]), configs.settings(config)
        own = {name: self.settings.pop(name) for name in ("target", "diverge_at")}
        snapshot = kept.snapshot if kept else None
        self.run = Run(experiment.problem, experiment.optimizer, self.key, experiment.probe, **own, resume=snapshot)
        self.begun = time.perf_counter() - self.spent
        if kept:
            self.figures |= kept.facts["figures"]
            self.keeper.take_up(kept)
            ending = dict(kept.facts.get("outcome") or {})
            if ending and (ending["reason"] is not None or ending["steps"] >= config["steps"]):
                self._ends(ending)  # all was done but the summary
                return
        _going.append(self.keeper)

    def records(self) -> Iterator[Any]:
        """Of this job's run alone."""
        from curvexp.training import run_many

        if not self.over:
            for records in run_many([self.run], **self.settings, clock=time.perf_counter):
                yield from records

    def append(self, record: Any) -> None:
        """Takes a record: it is on the disk before it is shown."""
        assert self.experiment is not None
        record = record._replace(seconds=round(time.perf_counter() - self.begun, 6))
        figures = self.figures
        self.store.append(record)
        self.way.append(record)
        self.experiment.tracker.append(record)
        if record.note:
            self.display.note(record.note)
            self.store.update(choice=record.note)
        if record.step == 0:
            figures |= {f"{name}_start": record.scalars.get(name) for name in AT_START}
        figures |= {**record.scalars, "steps": record.step}
        self.display.update(record.step, figures)
        self.keeper.append(record, figures, now=self.signals.asked())
        if record.outcome:
            self._ends(record.outcome._asdict())
        elif self.signals.caught:
            raise KeyboardInterrupt(self.signals.caught)

    def _ends(self, outcome: dict[str, Any]) -> None:
        self.over, self.status = True, outcome.pop("status")
        self.figures |= outcome
        self.way.keep(self.store, self.display, self.key)

    def _close(self) -> None:
        _going[:] = [keeper for keeper in _going if keeper.store is not self.store]
        if self.display:
            self.display.close()

    def end(self) -> None:
        """Writes the summary, whose status says how the job went, and ends its tracker; raises where the folder is broken alone."""
        self._close()
        if self.summary:  # of a job that had ended before
            return
        tail, folder = self.figures, self.place.folder
        if tail.get("reason"):
            tail["reason"] = secrets.hidden(tail["reason"])
        tail |= {"status": self.status, "seconds": round(time.perf_counter() - self.begun, 3)}
        try:
            summary = self.store.finish(**tail)
        except OSError as error:  # the disk is full or gone: what was recorded before stays
            self.store.leave()
            reason = tail.get("reason") or _unwritten(folder, error)
            summary = self.store.finish(**{**tail, "status": "failed", "reason": reason})
        if self.experiment:
            if self.experiment.tracker.address:
                self.experiment.tracker.show(_figures(folder))
            self.experiment.tracker.finish(summary=summary, status=self.status)
        self.summary = {**summary, "refused": self.refused}

    def result(self) -> float:
        """What Hydra is given for the job, which is shown in a line.

        Raises:
            SystemExit: 1 where a single run failed. KeyboardInterrupt: the job was interrupted.
        """
        place, summary = self.place, self.summary
        if place.sweep:
            console.err().print(console.line(place.title, summary))
        elif summary["status"] == "failed":
            trace = place.folder / "traceback.txt"
            console.refuse(f"{summary['reason']}" + (f"\nThe traceback is in {trace}." if trace.exists() else ""))
            sys.exit(1)
        else:
            console.out().print(console.result(place.title, summary, _short(place.folder)))
        if summary["status"] == "interrupted":
            if not place.sweep:
                recorded = resume.recorded(place.folder)
                line = resume.command(_short(place.folder), sweep=False, trust=resume.packages(recorded))
                console.err().print(f"Go on with it: {console.printable(line)}")
            raise KeyboardInterrupt(summary["reason"])
        if summary.get("refused"):
            return Refused("nan")
        loss: Any = summary.get("loss")
        return float(loss) if console.is_number(loss) and summary["status"] != "failed" else math.nan


def _unwritten(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be written: {error.strerror or error}. What was recorded before is whole; make room, then resume={folder}"


def _todo(config: dict[str, Any], control: dict[str, Any], place: Place, store: RunFolder) -> str:
    """What is to be done in this job's folder: `new`, `on` from its last checkpoint, `anew` from the start, or `nothing`."""
    queued_again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if control["resume"]:
        if any((place.folder / name).exists() for name in MARKS):  # what a refusal finds stays as it is
            store.leave()
        resume.check_targets(config, control["trust"] or ())
    if (control["resume"] is None and not queued_again) or not (place.folder / "config.json").exists():
        return "new" if not (control["resume"] and (place.folder / "metrics.jsonl").exists()) else "anew"
    store.leave()
    resume.check_same(config, place.folder)
    todo = "on" if not place.sweep else resume.still_to_do(config, place.folder, control["retry"] or ()) or "nothing"
    if todo == "on":
        resume.check_steps(config, place.folder)
    return todo


def _taken_up(
    experiment: configs.Experiment, config: dict[str, Any], store: RunFolder, display: Any, *, anew: bool
) -> resume.Kept | None:
    """The checkpoint that the run goes on from, its files cut to what it counts on; None: it begins again."""
    folder, kept = store.path, None
    if anew:
        from curvexp.app import checkpoint

        checkpoint.remove(folder)
    else:
        kept = resume.last(
            folder, experiment.problem, experiment.optimizer, batch_size=config["batch_size"], note=display.note
        )
    store.cut(kept.facts["sizes"] if kept else {})
    if kept:
        made = store.summary.get("versions")
        if isinstance(made, dict) and made != _versions():
            changed = [
                f"{name} {made.get(name)} -> {now}" for name, now in _versions().items() if made.get(name) != now
            ]
            display.note(f"{', '.join(changed)} since it was begun: what follows may differ by rounding")
        display.note(f"goes on from step {int(kept.snapshot.state.step)}")
    else:
        display.note("begins anew" if anew else "there is no checkpoint: it begins anew")
    return kept


_going: "list[_Keeper]" = []  # of the runs that go on in this process
_taken: list[bool] = []  # not empty: a queue takes this process away, and its exit is no failure of the run


def keep_now() -> None:
    """Makes a checkpoint of every run that goes on in this process, as of its last record; for the handler of a signal by which a queue
    takes the process away."""
    import jax

    _taken.append(True)
    with jax.ensure_compile_time_eval():  # the signal may have come while a function was traced
        for keeper in list(_going):
            keeper.keep()


class _Keeper:
    """Makes checkpoints when they are due."""

    def __init__(self, config: dict[str, Any], store: RunFolder, display: Any, way: "_Way", tracker: Any) -> None:
        self.every, self.seconds, self.most = config["every"], config["seconds"], config["keep"]
        self.store, self.display, self.way, self.tracker = store, display, way, tracker
        self.step, self.made, self.time, self.failed = 0, False, time.monotonic(), False
        self.last: tuple[Any, dict[str, Any]] | None = None  # record and facts of what can be kept at any moment
        self.busy = False

    def take_up(self, kept: resume.Kept) -> None:
        """Stands where the checkpoint was made."""
        self.step, self.made = int(kept.snapshot.state.step), True
        self.way.steps = [int(step) for step in kept.facts["way"]]
        self.way.points = list(kept.arrays["points"])
        self.way.params = kept.snapshot.state.params if self.way.steps else None
        self.tracker.remember(kept.facts["tracker"])

    def append(self, record: Any, figures: dict[str, Any], *, now: bool) -> None:
        """Makes one after this record where it is due: by steps, by time, at the end of a run that makes them, or now."""
        by_steps = self.every is not None and record.step // self.every > self.step // self.every
        by_time = self.seconds is not None and time.monotonic() - self.time >= self.seconds
        end = record.outcome is not None and record.outcome.status == "completed" and (self.made or bool(self.every))
        outcome = record.outcome._asdict() if record.outcome else None
        facts = {"sizes": self.store.sizes(), "seconds": record.seconds, "figures": dict(figures), "outcome": outcome}
        self.last = (record, {**facts, "way": len(self.way.steps)})
        if by_steps or by_time or end or (now and not record.outcome):
            self.keep()

    def keep(self) -> None:
        """Makes a checkpoint after the last record; one that fails is said once."""
        if self.last is None or self.busy or self.last[0].step == self.step:
            return
        self.busy, (record, facts) = True, self.last
        way = facts["way"]
        facts |= {key: jsonable(facts[key]) for key in ("figures", "outcome")}
        facts = {**facts, "tracker": self.tracker.memory()}
        facts["way"], points = self.way.steps[:way], self.way.points[:way]
        try:
            resume.keep(self.store.path, record.snapshot, {"points": points}, facts, most=self.most)
            self.step, self.made = record.step, True
        except Exception as error:  # the run is worth more than its checkpoint
            if not self.failed:
                first = (str(error).strip().splitlines() or [""])[0]
                self.display.note(
                    f"no checkpoint at step {record.step}, the run goes on: {type(error).__name__}: {first}"
                )
            self.failed = True
        self.busy, self.time = False, time.monotonic()


class _Way:
    """The way of a run through parameter space, for the planes that the report draws."""

    def __init__(self, experiment: configs.Experiment, wish: Any) -> None:
        flat = experiment.parameters == 2 and wish in ("auto", "all")
        self.problem, self.flat, self.around = experiment.problem, flat, wish == "all" and not flat
        self.steps: list[int] = []
        self.points: list[Any] = []
        self.params: Any = None

    def append(self, record: Any) -> None:
        """Follows a record whose parameters are finite."""
        if not (self.flat or self.around) or not math.isfinite(record.scalars["loss"]):
            return
        self.params = record.state.params
        self.steps.append(record.step)
        if self.flat:
            from jax.flatten_util import ravel_pytree

            self.points.append(ravel_pytree(self.params)[0])

    def keep(self, store: RunFolder, display: console.Display, key: Any) -> None:
        """Writes landscape.json; a run is whole without it, and where it fails it says so."""
        if self.params is None:
            return
        import numpy as np

        from curvexp import landscape
        from curvexp.training import over_all_data

        whole = over_all_data(self.problem)
        try:
            if self.flat:
                path = np.array(self.points, np.float64)
                near = np.isfinite(path).all(axis=1) & (
                    np.abs(path).max(axis=1) <= 10 * max(1.0, np.abs(path[0]).max())
                )
                steps = [step for step, chosen in zip(self.steps, near, strict=True) if chosen]
                optimum = self.problem.known.optimum
                planes = [landscape.parameter_plane(whole, self.params, path[near], steps, optimum)]
            else:
                planes = landscape.around(whole, self.params, step=self.steps[-1], key=key)
            store.keep("landscape.json", {"planes": planes})
        except Exception as error:
            display.note(f"landscape.json was not written: {type(error).__name__}: {error}")


class Signals:
    """Ctrl-C or SIGTERM lets the step finish and be recorded, a second one stops at once; only the main thread may say so.

    A SIGTERM that a queue's worker has a handler for, as submitit does for the one that goes with a preemption, asks for a checkpoint
    alone: it is the queue that ends the job, and starts it again.
    """

    def __init__(self) -> None:
        self.caught: str | None = None
        self.time = 0.0
        self.before: dict[int, Any] = {}
        self.keep = False

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            signal.signal(signal.SIGINT, self._note)
            signal.signal(signal.SIGTERM, self._pass_on if callable(self.before[signal.SIGTERM]) else self._note)
        return self

    def asked(self) -> bool:
        """Whether a checkpoint is to be made now; a queue's wish is told once."""
        wish, self.keep = self.keep or self.caught is not None, False
        return wish

    def _pass_on(self, number: int, frame: Any) -> None:
        self.keep = True
        try:
            self.before[number](number, frame)
        except SystemExit:
            _taken.append(True)
            raise

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        again = self.caught is not None and time.monotonic() - self.time > ONE_SIGNAL
        if self.caught is None:
            self.caught, self.time = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C", time.monotonic()
        if again:
            raise KeyboardInterrupt(self.caught)


class Begun(NamedTuple):
    """What Hydra runs: its config, when it began, and whether its sweep's folder was made for it."""

    config: DictConfig
    since: float
    new: bool = True


class ReportAtEnd(Callback):
    """Hydra's callback: a sweep ends in the table over its jobs, and in the exit code 1 if one of them failed."""

    failed = 0
    refused = 0  # jobs that left no trace, as the sweeper counts them
    begun: Begun | None = None
    line: str | None = None  # the command that goes on with the sweep, where its sweeper has the same jobs again

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Knows where the job will be."""
        ReportAtEnd.begun = Begun(config, time.time())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Counts anew."""
        ReportAtEnd.failed, ReportAtEnd.refused, ReportAtEnd.line = 0, 0, None
        folder = Path(str(config.hydra.sweep.dir))
        ReportAtEnd.begun = Begun(config, time.time(), not folder.exists())
        sweeper, launcher = (str(config.hydra[part].get("_target_")) for part in ("sweeper", "launcher"))
        supervisor.began(folder, sweeper=sweeper, launcher=launcher, line=resume.of_sweep(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints and writes the report of the sweep's folder."""
        report(Path(str(config.hydra.sweep.dir)))
        supervisor.note(code=int(ReportAtEnd.failed + ReportAtEnd.refused > 0))


def stopped(reason: str) -> bool:
    """Records the end of every job that what stopped Hydra left without one, and reports on a sweep; whether a job was begun.

    A sweep's folder without a job is taken away again.
    """
    if ReportAtEnd.begun is None:
        return False
    (config, since, new), ReportAtEnd.begun = ReportAtEnd.begun, None
    sweep = config.hydra.mode == RunMode.MULTIRUN
    folder = Path(str(config.hydra.sweep.dir if sweep else config.hydra.run.dir))
    made = [folder] if folder.is_dir() else []
    if sweep:
        beside = str(config.hydra.output_subdir)
        inside = [Path(path) for path, _, _ in os.walk(folder)]
        made = [path for path in inside if (path / beside).is_dir() or not any(path.iterdir())]
    made = [path for path in made if not any((path / name).exists() for name in MARKS)]
    for path in made:
        store = RunFolder(path)
        chosen = config.hydra.runtime.choices
        store.start(_plain(config), {key: str(chosen.get(key)) for key in ("problem", "preprocess", "optim", "probe")})
        store.finish(status="failed", reason=reason)
    if not sweep:
        return bool(made)
    left = ending.unfinished(folder, since)
    ending.end(left, reason)
    if made or left or _recorded(folder, since):
        report(folder)
        if ReportAtEnd.line:
            retry = " retry=failed" * bool(made or left)
            console.err().print(f"Go on with it: {console.printable(ReportAtEnd.line)}{retry}")
        return True
    if new and folder.is_dir() and [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
        (folder / "multirun.yaml").unlink()
        with contextlib.suppress(OSError):  # its parents as far as nothing else is in them
            os.removedirs(folder)
    return False


def _recorded(folder: Path, since: float) -> bool:
    """Whether a job under the folder was recorded since then."""
    summaries = (Path(path) / "summary.json" for path, _, names in os.walk(folder) if "summary.json" in names)
    return any(path.stat().st_mtime >= since - 1 for path in summaries)


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        return configs.plain(config)
    except ConfigError:
        return {}


def report(folder: Path) -> None:
    """The sweep's table, on the screen and in its folder; counts its failed jobs, and as one more a table that cannot be made."""
    from curvexp.report import summarize
    from curvexp.store import load_runs

    if not folder.is_dir():
        return
    try:
        found = load_runs(folder)
        ReportAtEnd.failed = int((found.runs["status"] == "failed").sum())
        summarize(folder, console.out(), page=True, found=found)
    except Exception as error:
        ReportAtEnd.failed += 1
        console.refuse(
            f"the report was not made: {type(error).__name__}: {error}. Try python -m curvexp.report {folder}"
        )


@functools.cache
def _versions() -> dict[str, str]:
    return {"curvexp": __version__, **{name: version(name) for name in PACKAGES}}


def _tags() -> list[str]:
    """The study that the run belongs to, where it belongs to one."""
    study = HydraConfig.get().runtime.choices.get("study")
    return [str(study)] if study not in (None, "null", "None") else []


def _figures(folder: Path) -> dict[str, Any]:
    """The spectrum, the density and the planes of a run, for a tracker; without those that have nothing to show."""
    from curvexp.report import charts
    from curvexp.store import load_densities, load_planes, load_runs

    found, densities = load_runs(folder), load_densities(folder)
    figures = {"curvature/spectrum": charts.spectrum(found, densities), "curvature/density": charts.density(densities)}
    for plane in load_planes(folder):
        key = {"parameters": "way", "eigenvectors": "along_eigenvectors", "random": "along_random_directions"}.get(
            plane["name"]
        )
        if key:
            figures[f"loss/{key}"] = charts.contour(plane)
        if plane["name"] == "parameters":
            figures["loss/surface"] = charts.surface(plane)
    return {key: figure for key, figure in figures.items() if not (figure.layout.meta or {}).get("empty")}


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


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
