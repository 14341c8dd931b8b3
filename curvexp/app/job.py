"""One job: a composed config is run, and all that it yields goes to its folder, to W&B and to the screen."""

import contextlib
import functools
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from curvexp import __version__, console
from curvexp.app import build as configs
from curvexp.app import resume
from curvexp.app.keeper import GOING, TAKEN, Checkpoints
from curvexp.app.signals import Signals
from curvexp.app.trajectory import Trajectory
from curvexp.errors import ConfigError, Unsupported
from curvexp.quantities import QUANTITIES
from curvexp.store import MARKS, SUMMARY, RecordError, RunFolder, secrets

PACKAGES = ("jax", "optax", "flax", "numpy", "scipy")


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
        elif isinstance(error, Exception) or (isinstance(error, SystemExit) and not TAKEN):  # of a person's own code
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
        self.way = Trajectory(experiment, config["landscape"])
        self.keeper = Checkpoints(config["checkpoint"], self.store, self.display, self.way, experiment.tracker)
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
        GOING.append(self.keeper)

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
        if record.reading is not None:
            figures["operator"] = record.reading.extra.get("operator")
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
        GOING[:] = [keeper for keeper in GOING if keeper.store is not self.store]
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


@functools.cache
def _versions() -> dict[str, str]:
    return {"curvexp": __version__, **{name: version(name) for name in PACKAGES}}


def _tags() -> list[str]:
    """The study that the run belongs to, where it belongs to one."""
    study = HydraConfig.get().runtime.choices.get("study")
    return [str(study)] if study not in (None, "null", "None") else []


def _figures(folder: Path) -> dict[str, Any]:
    """The spectrum, the density, the blocks and the planes of a run, for a tracker; without those that have nothing to show."""
    from curvexp.report import charts
    from curvexp.store import load_block_densities, load_blocks, load_densities, load_planes, load_runs

    found, densities = load_runs(folder), load_densities(folder)
    figures = {"curvature/spectrum": charts.spectrum(found, densities), "curvature/density": charts.density(densities)}
    figures["blocks/spectrum"] = charts.blocks(load_blocks(folder), load_block_densities(folder))
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
