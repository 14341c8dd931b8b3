"""One job: a composed config is run, and all that it yields goes to its folder, to W&B and to the screen."""

import math
import signal
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

from curvexp import config as configs
from curvexp import console
from curvexp.errors import ConfigError, Unsupported
from curvexp.store import RunFolder

PACKAGES = ("curvexp", "jax", "optax", "flax", "numpy", "scipy")
SPECTRAL = (  # what the summary has twice: at the last reading, and at the first as NAME_start
    "lambda_max",
    "lambda_min",
    "sharpness",
    "condition_number",
    "condition_number_positive",
    "condition_number_bound",
)


class Failed(Exception):
    """A job failed and said so; the process is to end with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def execute(config: DictConfig) -> float:
    """Runs one job under Hydra; the final loss, nan where the job failed, so that the other jobs of a sweep go on.

    Raises:
        Failed: in a single run, with the exit code.
    """
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    names = {group: str(hydra.runtime.choices.get(group)) for group in configs.GROUPS}
    folder = Path(hydra.runtime.output_dir)
    overrides = str(hydra.job.override_dirname) if sweep else ""
    title = f"#{hydra.job.num} {overrides}" if sweep else "{problem} {preprocess} {optim}".format(**names)
    with _sigterm_as_interrupt():
        summary = _run(config, names=names, folder=folder, title=title, group=_group(hydra) if sweep else None)
    if sweep:
        console.err().print(console.line(title, summary))
    elif summary["status"] == "failed":
        console.refuse(f"{summary['reason']}\nThe traceback is in {folder / 'traceback.txt'}.")
        raise Failed(1)
    else:
        console.out().print(console.result(title, summary, _short(folder)))
    if summary["status"] == "interrupted":
        raise KeyboardInterrupt(summary["reason"])
    loss = summary.get("loss")
    return math.nan if loss is None or summary["status"] == "failed" else float(loss)


def _run(config: DictConfig, *, names: dict[str, str], folder: Path, title: str, group: str | None) -> dict[str, Any]:
    """The job's summary as it was written: its status says how it went; no exception but those of a broken folder leaves."""
    begun = time.perf_counter()
    store = RunFolder(folder)
    head = {
        "problem": names["problem"],
        "preprocess": names["preprocess"],
        "optim": names["optim"],
        "probe": names["probe"],
    }
    experiment, display, status, tail = None, None, "failed", {}
    try:
        resolved = configs.plain(config)
        store.start(
            resolved, {**head, "seed": resolved.get("seed"), "versions": {name: version(name) for name in PACKAGES}}
        )
        experiment = configs.build(resolved, names=names)
        store.update(parameters=experiment.parameters, examples=experiment.problem.examples)
        experiment.tracker.start(
            config=resolved, folder=folder, group=group, job_type=names["problem"] if group else None, name=title
        )
        display = console.Display(title=title, steps=resolved["steps"])
        status, tail = _train(experiment, resolved, store, display, begun)
    except Unsupported as error:
        status, tail = "skipped", {"reason": str(error)}
    except ConfigError as error:
        status, tail = "failed", {"reason": str(error)}
    except KeyboardInterrupt as error:
        status, tail = "interrupted", {"reason": str(error) or "Ctrl-C"}
    except Exception as error:
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        status, tail = (
            "failed",
            {"reason": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"},
        )
    finally:
        if display:
            display.close()
    summary = store.finish(status=status, seconds=round(time.perf_counter() - begun, 3), **tail)
    if experiment:
        experiment.tracker.finish(summary=summary, status=status)
    return summary


def _train(
    experiment: configs.Experiment, config: dict[str, Any], store: RunFolder, display: console.Display, begun: float
) -> tuple[str, dict[str, Any]]:
    """Status and final figures of the run; each record is on the disk before it is shown."""
    import jax

    from curvexp.runner import run

    first: dict[str, Any] = {}
    latest: dict[str, Any] = {}
    outcome = None
    records = run(
        experiment.problem,
        experiment.optimizer,
        experiment.probe,
        key=jax.random.key(config["seed"]),
        **configs.settings(config),
    )
    for record in records:
        record = record._replace(seconds=round(time.perf_counter() - begun, 6))
        store.append(record)
        experiment.tracker.append(record)
        if record.note:
            display.note(record.note)
            store.update(choice=record.note)
        first = first or record.scalars
        latest = {**latest, **record.scalars}
        display.update(record.step, latest)
        outcome = record.outcome or outcome
    assert outcome is not None
    figures = {**latest, **{f"{name}_start": first.get(name) for name in SPECTRAL}}
    ending = outcome._asdict()
    return ending.pop("status"), {**figures, **ending, "target_loss": ending.pop("target")}


class _sigterm_as_interrupt:
    """SIGTERM ends a run as Ctrl-C does; only the main thread may say so."""

    def __enter__(self) -> None:
        def interrupt(number: int, frame: Any) -> None:
            raise KeyboardInterrupt("SIGTERM")

        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, interrupt)

    def __exit__(self, *exception: Any) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


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
        runs = summarize(folder, console.out())
        ReportAtEnd.failed = int((runs["status"] == "failed").sum())


def _group(hydra: Any) -> str:
    return "/".join(Path(str(hydra.sweep.dir)).parts[-2:])


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
