"""One job: a composed config is run, and all that it yields goes to its folder, to W&B and to the screen."""

import contextlib
import functools
import math
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from curvexp import __version__, console
from curvexp import config as configs
from curvexp.errors import ConfigError, Unsupported
from curvexp.store import RunFolder

PACKAGES = ("jax", "optax", "flax", "numpy", "scipy")
SPECTRAL = (  # what the summary has twice: at the last reading, and at the first as NAME_start
    "lambda_max",
    "lambda_min",
    "sharpness",
    "stability_margin",
    "condition_number",
    "condition_number_positive",
    "condition_number_bound",
)


def execute(config: DictConfig, *, signals: "Signals | None" = None, display: Any = None) -> float:
    """Runs one job under Hydra; the final loss, nan where the job failed, so that the other jobs of a sweep go on.

    Args:
        signals, display: where several jobs share them: those caught for all, and what makes a job's display in place of console.Display.

    Raises:
        SystemExit: 1 where a single run failed. KeyboardInterrupt: once the interrupted run is recorded.
    """
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    names = {group: str(hydra.runtime.choices.get(group)) for group in configs.GROUPS}
    folder = Path(hydra.runtime.output_dir)
    overrides = str(hydra.job.override_dirname) if sweep else ""
    title = f"#{hydra.job.num} {overrides}" if sweep else "{problem} {preprocess} {optim}".format(**names)
    with contextlib.nullcontext(signals) if signals else Signals() as caught:
        summary = _run(
            config,
            caught,
            names=names,
            folder=folder,
            title=title,
            group=_group(hydra) if sweep else None,
            display_of=display or console.Display,
        )
    if sweep:
        console.err().print(console.line(title, summary))
    elif summary["status"] == "failed":
        trace = folder / "traceback.txt"
        console.refuse(f"{summary['reason']}" + (f"\nThe traceback is in {trace}." if trace.exists() else ""))
        sys.exit(1)
    else:
        console.out().print(console.result(title, summary, _short(folder)))
    if summary["status"] == "interrupted":
        raise KeyboardInterrupt(summary["reason"])
    loss = summary.get("loss")
    return math.nan if loss is None or summary["status"] == "failed" else float(loss)


def _run(
    config: DictConfig,
    signals: "Signals",
    *,
    names: dict[str, str],
    folder: Path,
    title: str,
    group: str | None,
    display_of: Any,
) -> dict[str, Any]:
    """The job's summary as it was written: its status says how it went; no exception but those of a broken folder leaves."""
    begun = time.perf_counter()
    store = RunFolder(folder)
    head = {
        "problem": names["problem"],
        "preprocess": names["preprocess"],
        "optim": names["optim"],
        "probe": names["probe"],
    }
    experiment, display, status = None, None, "failed"
    tail: dict[str, Any] = {}
    try:
        resolved = configs.plain(config)
        store.start(resolved, {**head, "seed": resolved.get("seed"), "versions": _versions()})
        experiment = configs.build(resolved, names=names)
        store.update(parameters=experiment.parameters, examples=experiment.problem.examples)
        experiment.tracker.start(
            config=resolved,
            folder=folder,
            group=group,
            job_type=names["problem"] if group else None,
            name=title,
            tags=_tags(),
        )
        display = display_of(title=title, steps=resolved["steps"])
        if experiment.tracker.address:
            display.note(f"W&B: {experiment.tracker.address}")
        status = _train(experiment, resolved, store, display, begun, signals, tail)
    except Unsupported as error:
        status, tail["reason"] = "skipped", str(error)
    except ConfigError as error:
        status, tail["reason"] = "failed", str(error)
    except KeyboardInterrupt as error:
        status, tail["reason"] = "interrupted", str(error) or "Ctrl-C"
    except Exception as error:
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        status, tail["reason"] = "failed", f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    finally:
        if display:
            display.close()
    summary = store.finish(status=status, seconds=round(time.perf_counter() - begun, 3), **tail)
    if experiment:
        if experiment.tracker.address:
            experiment.tracker.show(_figures(folder))
        experiment.tracker.finish(summary=summary, status=status)
    return summary


def _train(
    experiment: configs.Experiment,
    config: dict[str, Any],
    store: RunFolder,
    display: console.Display,
    begun: float,
    signals: "Signals",
    figures: dict[str, Any],
) -> str:
    """The status that the run ended with; `figures` holds the summary's numbers at every moment, so that an interruption keeps them.

    A record is on the disk before it is shown.
    """
    import jax

    from curvexp.runner import run

    status, way = "failed", _Way(experiment, config["landscape"])
    key = jax.random.key(config["seed"])
    settings = {**configs.settings(config), "clock": time.perf_counter}
    for record in run(experiment.problem, experiment.optimizer, experiment.probe, key=key, **settings):
        record = record._replace(seconds=round(time.perf_counter() - begun, 6))
        store.append(record)
        way.append(record)
        experiment.tracker.append(record)
        if record.note:
            display.note(record.note)
            store.update(choice=record.note)
        if record.step == 0:
            figures |= {f"{name}_start": record.scalars.get(name) for name in ("loss", *SPECTRAL)}
        figures |= {**record.scalars, "steps": record.step}
        display.update(record.step, figures)
        if record.outcome:
            ending = record.outcome._asdict()
            status = ending.pop("status")
            figures |= ending
            way.keep(store, display, key)
        elif signals.caught:
            raise KeyboardInterrupt(signals.caught)
    return status


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
        from curvexp.runner import over_all_data

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
    """Ctrl-C or SIGTERM lets the step finish and be recorded, a second one stops at once; only the main thread may say so."""

    def __init__(self) -> None:
        self.caught: str | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        again, self.caught = self.caught is not None, "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        if again:
            raise KeyboardInterrupt(self.caught)


class ReportAtEnd(Callback):
    """Hydra's callback: a sweep ends in the table over its jobs, and in the exit code 1 if one of them failed."""

    failed = 0

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints and writes the report of the sweep's folder."""
        report(Path(str(config.hydra.sweep.dir)))


def report(folder: Path) -> None:
    """The sweep's table, on the screen and in its folder; counts its failed jobs."""
    from curvexp.report import summarize

    if folder.is_dir():
        runs = summarize(folder, console.out(), page=True)
        ReportAtEnd.failed = int((runs["status"] == "failed").sum())


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


def _group(hydra: Any) -> str:
    return "/".join(Path(str(hydra.sweep.dir)).parts[-2:])


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
