"""One job: a composed config is run, and each record of the run goes to every sink."""

import contextlib
import functools
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from curvexp import __version__, console
from curvexp.app import build as configs
from curvexp.app import keys, resume, sinks
from curvexp.app.keeper import TAKEN
from curvexp.app.place import Place, place_of_folder
from curvexp.app.place import place_of_job as place_of_job
from curvexp.app.signals import Signals
from curvexp.errors import ConfigError, Unsupported
from curvexp.sink import RunEnd, RunStart, Sink
from curvexp.store import SUMMARY, RecordError, RunFolder, files, jsonable, secrets

PACKAGES = ("jax", "optax", "flax", "numpy", "scipy")


class Refused(float):
    """Result of a job that was refused: its folder belongs to another run, or is written by another process. NaN, for Hydra's sake."""


def execute(config: DictConfig) -> float:
    """Runs one job under Hydra; the final loss, nan where the job failed, so that the other jobs of a sweep go on.

    Raises:
        SystemExit: 1 where a single run failed. KeyboardInterrupt: once the interrupted run is recorded.
    """
    return _job(lambda: keys.plain(config), place_of_job())


def go_on(config: dict[str, Any], folder: Path) -> float:
    """Goes on with the run of a folder, under this config, as `resume.recorded` gave it; returns and raises as `execute` does."""
    return _job(lambda: {**config, "resume": str(folder)}, place_of_folder(folder))


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
        place: where it stands. over: whether no record is to come. run: the training's, once it has begun. settings: of the run, those
            that are no part of a `training.Run`. sinks: that take each record. summary: as it was written at the end.
    """

    def __init__(
        self,
        config: Callable[[], dict[str, Any]],
        place: Place,
        signals: Signals,
        display: Callable[[], Any] = console.Display,
    ) -> None:
        self.config_of, self.place, self.signals, self.display = config, place, signals, display()
        self.begun, self.spent, self.over = time.perf_counter(), 0.0, False
        self.folder = RunFolder(place.folder)
        self.store = sinks.Store(self.folder)
        self.sinks: list[Sink] = [self.store]
        self.status, self.refused = "failed", False
        self.reason: str | None = None
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
        self.over, self.status, self.reason = True, "failed", str(error)
        if isinstance(error, Unsupported):
            self.status = "skipped"
        elif isinstance(error, ConfigError):
            self.refused = self.folder.left
        elif isinstance(error, KeyboardInterrupt):
            self.status, self.reason = "interrupted", str(error) or "Ctrl-C"
        elif isinstance(error, RecordError):
            self.reason = _unwritten(self.place.folder, error)
        elif isinstance(error, Exception) or (isinstance(error, SystemExit) and not TAKEN):  # of a person's own code
            with contextlib.suppress(OSError):  # a full disk
                trace = "".join(traceback.format_exception(error))
                (self.place.folder / files.TRACEBACK).write_text(secrets.hidden(trace), encoding="utf-8")
            first = (str(error).strip().splitlines() or [""])[0]
            self.reason = f"{type(error).__name__}: {first}"
        else:  # the process is taken away: the run goes on elsewhere
            self.display.close()
            raise error

    def begin(self) -> None:
        """Makes or takes up the folder, builds the objects, starts the sinks."""
        place, folder = self.place, self.folder
        config = self.config_of()
        control = {key: config.pop(key, None) for key in keys.CONTROLS}
        todo = _todo(config, control, place, folder)
        if todo == "nothing":
            self.summary = {**dict.fromkeys(SUMMARY), **resume.summary(place.folder), "before": True}
            self.over = True
            return
        head: dict[str, Any] = {key: place.names[key] for key in ("problem", "preprocess", "optim", "probe")}
        head |= {"seed": config.get("seed"), "versions": _versions()}
        if todo == "new":
            folder.start(config, head)
        else:
            folder.take_up(config)
        experiment = configs.build(config, names=place.names)
        note = functools.partial(console.note, place.title)
        kept = None
        if todo != "new":
            kept = _taken_up(experiment, config, folder, note, anew=todo == "anew")
            folder.update(**head)
        self._prepare(experiment, config, kept)
        self._start(experiment, config, kept)
        self.begun = time.perf_counter() - self.spent

    def _prepare(self, experiment: configs.Experiment, config: dict[str, Any], kept: resume.Kept | None) -> None:
        """The run that gives the records."""
        import jax

        from curvexp.training import Run

        self.settings = configs.settings(config)
        own = {name: self.settings.pop(name) for name in ("target", "diverge_at")}
        key, snapshot = jax.random.key(config["seed"]), kept.snapshot if kept else None
        self.run = Run(experiment.problem, experiment.optimizer, key, experiment.probe, **own, resume=snapshot)
        if kept:
            self.spent, ending = kept.facts["seconds"], kept.facts.get("outcome")
            if ending and (ending["reason"] is not None or ending["steps"] >= config["steps"]):
                self.over, self.status = True, ending["status"]  # all was done but the summary

    def _start(self, experiment: configs.Experiment, config: dict[str, Any], kept: resume.Kept | None) -> None:
        place, folder = self.place, self.folder
        run = RunStart(
            folder=place.folder,
            config=config,
            title=place.title,
            names=place.names,
            group=place.group,
            tags=place.tags,
            parameters=experiment.parameters,
            examples=experiment.problem.examples,
            quantities=experiment.probe.quantities,
            step=int(kept.snapshot.state.step) if kept else 0,
            before=dict(folder.summary) if kept else {},
            kept={**kept.facts, **kept.arrays, "params": kept.snapshot.state.params} if kept else {},
            ended=self.over,
            figures=self.store.figures,
            note=functools.partial(console.note, place.title),
            add=folder.update,
        )
        asked = self.signals.asked
        for sink in sinks.of_run(self.store, self.display, experiment, checkpoint_asked=asked):
            if sink is not self.store:
                self.sinks.append(sink)  # before it starts: what it began is finished
            sink.start(run)

    def records(self) -> Iterator[Any]:
        """Of this job's run alone."""
        from curvexp.training import run_many

        if not self.over:
            for records in run_many([self.run], **self.settings, clock=time.perf_counter):
                yield from records

    def append(self, record: Any) -> None:
        """Gives a record to every sink: it is on the disk before it is shown."""
        record = record._replace(seconds=round(time.perf_counter() - self.begun, 6))
        for sink in self.sinks:
            sink.append(record)
        if record.outcome:
            self.over, self.status = True, record.outcome.status
        elif self.signals.caught:
            raise KeyboardInterrupt(self.signals.caught)

    def end(self) -> None:
        """Finishes the sinks with how the job went; raises where the folder is broken alone."""
        if self.summary:  # of a job that had ended before
            return
        outcome = self._outcome()
        try:
            self.store.finish(outcome)
        except OSError as error:  # the disk is full or gone: what was recorded before stays
            self.folder.leave()
            self.status, self.reason = "failed", outcome.reason or _unwritten(self.place.folder, error)
            outcome = self._outcome()
            self.store.finish(outcome)
        with contextlib.ExitStack() as others:  # all of them, also where Ctrl-C stops one
            for sink in reversed(self.sinks[1:]):
                others.callback(sink.finish, outcome)
        self.summary = {**outcome.summary, "refused": self.refused}

    def _outcome(self) -> RunEnd:
        tail = {**self.store.figures, **self.store.ending, "status": self.status}
        tail |= {"seconds": round(time.perf_counter() - self.begun, 3)}
        if self.reason is not None:
            tail["reason"] = self.reason
        if tail.get("reason"):
            tail["reason"] = secrets.hidden(tail["reason"])
        summary = {**self.folder.summary, **jsonable(tail)}
        figures = functools.partial(sinks.figures, self.place.folder)
        return RunEnd(self.status, summary["reason"], summary, figures)

    def result(self) -> float:
        """What Hydra is given for the job, which is shown in a line.

        Raises:
            SystemExit: 1 where a single run failed. KeyboardInterrupt: the job was interrupted.
        """
        place, summary = self.place, self.summary
        if place.sweep:
            console.err().print(console.line(place.title, summary))
        elif summary["status"] == "failed":
            trace = place.folder / files.TRACEBACK
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
        if any((place.folder / name).exists() for name in files.MARKS):  # what a refusal finds stays as it is
            store.leave()
        resume.check_targets(config, control["trust"] or ())
    if (control["resume"] is None and not queued_again) or not (place.folder / files.CONFIG).exists():
        return "new" if not (control["resume"] and (place.folder / files.METRICS).exists()) else "anew"
    store.leave()
    resume.check_same(config, place.folder)
    todo = "on" if not place.sweep else resume.still_to_do(config, place.folder, control["retry"] or ()) or "nothing"
    if todo == "on":
        resume.check_steps(config, place.folder)
    return todo


def _taken_up(
    experiment: configs.Experiment, config: dict[str, Any], store: RunFolder, note: Callable[[str], None], *, anew: bool
) -> resume.Kept | None:
    """The checkpoint that the run goes on from, its files cut to what it counts on; None: it begins again."""
    folder, kept = store.path, None
    if anew:
        from curvexp.app import checkpoint

        checkpoint.remove(folder)
    else:
        kept = resume.last(folder, experiment.problem, experiment.optimizer, batch_size=config["batch_size"], note=note)
    store.cut(kept.facts["sizes"] if kept else {})
    if kept:
        made = store.summary.get("versions")
        if isinstance(made, dict) and made != _versions():
            changed = [
                f"{name} {made.get(name)} -> {now}" for name, now in _versions().items() if made.get(name) != now
            ]
            note(f"{', '.join(changed)} since it was begun: what follows may differ by rounding")
        note(f"goes on from step {int(kept.snapshot.state.step)}")
    else:
        note("begins anew" if anew else "there is no checkpoint: it begins anew")
    return kept


@functools.cache
def _versions() -> dict[str, str]:
    return {"curvexp": __version__, **{name: version(name) for name in PACKAGES}}


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
