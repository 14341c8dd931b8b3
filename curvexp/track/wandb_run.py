"""One run in W&B: what it is told of each record, and what its failure does not end."""

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curvexp.console import visible
from curvexp.quantities import QUANTITIES, Quantity, section
from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart
from curvexp.store import files
from curvexp.track.tracker import Tracker
from curvexp.track.wandb_settings import first_line, mode_asked, settings_of

EXIT_CODES = {"failed": 1, "interrupted": 130}  # any other ending is a result, and W&B shows such a run as finished
SUMMARIES = {  # key: what of the scalar stands in W&B's summary besides the values of summary.json
    f"{quantity.section}/{quantity.name}": f"{quantity.extreme},last" for quantity in QUANTITIES if quantity.extreme
}
STABILITY = "curvature/sharpness_and_threshold"
SHARE = 0.03  # of the loop's time that W&B may take while it is not BEHIND records behind: what it does beside the loop costs as much again
BEHIND = 1000
ARTIFACT = files.ALL

log = logging.getLogger("curvexp.track")


class WandbRun(Tracker):
    """A W&B run.

    Attributes:
        identity: what a further part goes on by: id, mode, group. address: where the run can be looked at: a page, or a folder.
    """

    beside = False  # whether runs of this process go on while another starts
    unreachable = False  # the server was not reached: the process's later runs do not wait for it again

    def __init__(self, mode: str, names: dict[str, Any], timeout: float, artifact: bool = False) -> None:
        self.mode, self.names, self.timeout, self.artifact = mode, names, timeout, artifact
        self.run: Any = None
        self.identity: dict[str, Any] | None = None
        self.address: str | None = None
        self.own: Sequence[Quantity] = ()
        self.folder = Path()
        self.step = 0
        self.stability: dict[str, list[tuple[int, float]]] = {"sharpness": [], "threshold": []}
        self.waiting: deque[tuple[dict[str, Any], int]] = deque()  # (line, step) of records that W&B has not got yet
        self.begun, self.spent = time.perf_counter(), 0.0

    def check(self) -> None:
        self.mode = mode_asked(self.mode)

    def start(self, run: RunStart) -> None:
        """Online a run that goes on keeps its id; offline it is a second part that names the first, in the same group."""
        self.own = run.quantities
        self.remember(run.kept.get("tracker"))
        self.check()
        if self.mode != "disabled":
            self._begin(run)
        if self.identity:
            run.add(wandb=self.identity)
        if self.address:
            run.note(f"W&B: {self.address}")

    def _begin(self, start: RunStart) -> None:
        folder, group, name, before = start.folder, start.group, start.title, start.before.get("wandb")
        self.folder = folder
        names = {**self.names, "tags": list(dict.fromkeys([*self.names["tags"], *(tag[:64] for tag in start.tags)]))}
        run = {**names, "config": dict(start.config), "dir": str(folder), "group": group}
        run["job_type"] = start.names.get("problem") if group else None
        run["name"] = name[:128]
        before = before if isinstance(before, dict) and isinstance(before.get("id"), str) else None
        if before:
            run["group"] = group or before.get("group")
            if before.get("mode") == self.mode == "online":
                run |= {"id": before["id"], "resume": "allow"}
            else:
                run["config"] |= {"continues": before["id"]}
                run["name"] = f"{name[:117]} (continued)"
        elif self.mode == "offline" and run["group"] is None:
            run["group"] = f"{folder.parent.name}/{folder.name}"  # where a second part would stand beside it
        if self.mode == "online" and not WandbRun.unreachable:
            try:
                self._init(run, "online")
                return
            except Exception as error:
                WandbRun.unreachable = True
                log.warning(
                    "W&B cannot be reached, runs are kept offline in %s: %s",
                    visible(folder / "wandb"),
                    first_line(error),
                )
        try:
            self._init(run, "offline")
        except Exception as error:
            self._give_up(error)

    def memory(self) -> dict[str, Any]:
        self._log_all()  # a run that goes on from here repeats no record before
        return {"stability": self.stability}

    def remember(self, memory: Any) -> None:
        """Stands where the interrupted part of this run stood."""
        if isinstance(memory, dict) and isinstance(memory.get("stability"), dict):
            self.stability |= {key: [(int(a), float(b)) for a, b in line] for key, line in memory["stability"].items()}

    def append(self, record: Record) -> None:
        if self.run is None:
            return
        self.waiting.append((logged(record, self.own), record.step))
        while self.waiting and (len(self.waiting) > BEHIND or self.spent <= SHARE * (time.perf_counter() - self.begun)):
            self._log()
        self.step = record.step
        for key, line in self.stability.items():
            value = record.scalars.get(key)
            if value is not None and np.isfinite(value) and (key == "sharpness" or record.reading is not None):
                line.append((record.step, float(value)))

    def _log(self) -> None:
        """Hands W&B the record that waits longest."""
        (values, step), begun = self.waiting.popleft(), time.perf_counter()
        try:
            self.run.log(values, step=step, commit=True)  # now: W&B keeps a line back else
        except Exception as error:
            self._give_up(error)
        self.spent += time.perf_counter() - begun

    def _log_all(self) -> None:
        while self.waiting:
            self._log()

    def show(self, figures: Mapping[str, Any]) -> None:
        """Shows Plotly figures by key, such as curvature/spectrum, at the step of the last record."""
        self._log_all()
        if self.run is None:
            return
        import wandb as client

        try:
            panels: dict[str, Any] = {key: client.Plotly(figure) for key, figure in figures.items()}
            lines = {key: line for key, line in self.stability.items() if line}
            if len(lines) == 2:
                panels[STABILITY] = client.plot.line_series(
                    xs=[[step for step, _ in line] for line in lines.values()],
                    ys=[[value for _, value in line] for line in lines.values()],
                    keys=list(lines),
                    title="Sharpness and its threshold",
                    xname="step",
                )
            if panels:
                self.run.log({"step": self.step, **panels}, step=self.step + 1, commit=True)  # a line of its own
        except Exception as error:
            self._give_up(error)

    def finish(self, outcome: RunEnd) -> None:
        self._log_all()
        if self.run is None:
            return
        try:
            figures = outcome.figures()
        except Exception as error:  # of the report, which reads the run's folder
            log.warning("W&B gets no figures of this run: %s", first_line(error))
            figures = {}
        self.show(figures)
        if self.run is None:
            return
        try:
            self.run.summary.update(dict(outcome.summary))
            if outcome.status != "completed":
                self.run.tags = (*(self.run.tags or ()), outcome.status)
            if self.artifact:
                self._keep()
            self.run.finish(exit_code=EXIT_CODES.get(outcome.status, 0))
        except Exception as error:
            self._give_up(error)
        self.run = None

    def _init(self, run: dict[str, Any], mode: str) -> None:
        import wandb as client

        if (
            self.mode == "offline"
        ):  # W&B reports its own errors and timings to its server, also of a run that is offline
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        others = "create_new" if WandbRun.beside else "finish_previous"
        self.run = client.init(**run, mode=mode, reinit=others, settings=settings_of(self.timeout))  # type: ignore[arg-type]
        self.identity = {"id": self.run.id, "mode": mode, "group": self.run.group or None}
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        for key, kinds in SUMMARIES.items():
            self.run.define_metric(key, step_metric="step", summary=kinds)
        self.address = self.run.url if mode == "online" else str(Path(self.run.dir).parent)

    def _keep(self) -> None:
        """The run's files as an artifact."""
        import wandb as client

        kept = client.Artifact(f"run-{self.run.id}", type="run")
        for name in ARTIFACT:
            if (self.folder / name).is_file():
                kept.add_file(str(self.folder / name))
        self.run.log_artifact(kept)

    def _give_up(self, error: Exception) -> None:
        log.warning("W&B failed, the run goes on without it; its own files are whole: %s", first_line(error))
        run, self.run = self.run, None
        self.waiting.clear()
        leave(run)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within, a run that starts leaves those that go on as they are."""
    WandbRun.beside = True
    try:
        yield
    finally:
        WandbRun.beside = False


def leave(run: Any) -> None:
    """Ends W&B's service process, which may be what broke: the next run starts one of its own, and the exit of ours is quiet."""
    import wandb as client

    for end in (run.finish if run is not None else lambda: None, client.teardown):
        try:
            end()
        except Exception as error:
            log.debug("W&B did not end in order: %s", first_line(error))


def logged(record: Record, own: Sequence[Quantity] = ()) -> dict[str, Any]:
    """What W&B gets of a record, each in its section: seconds, its scalars, the eigenvalues as a histogram, and single numbers of what else
    was measured, such as curvature/trace.mean; the step has none, for all are drawn against it. Blocks have a section of their own.

    Of the ledger the scalars are there already; its columns stand in the run's files.
    """
    values: dict[str, Any] = {"seconds": record.seconds, **record.scalars}
    blocks: dict[str, float] = {}
    if record.reading is not None:
        import wandb as client

        if len(record.reading.eigenvalues):
            values["eigenvalues"] = client.Histogram(np_histogram=histogram(record.reading.eigenvalues))
        for key, value in record.reading.extra.items():
            if key in ("ledger", "operator"):  # the operator stands in the config
                continue
            if key == "blocks":
                blocks |= {f"blocks/{name}/lambda_max": block["eigenvalues"][-1] for name, block in value.items()}
                continue
            for name, item in value.items() if isinstance(value, Mapping) else [("", value)]:
                if np.ndim(item) == 0 and not (name and isinstance(item, str)):
                    values[f"{key}.{name}".rstrip(".")] = item
    named = {f"{section(key, own)}/{key}": value for key, value in values.items() if value is not None}
    return {"step": record.step, **named, **blocks}


def histogram(values: np.ndarray, bins: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges over the finite values; values that differ by rounding alone share a bin."""
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    margin = max(1e-9 * max(abs(low), abs(high)), np.finfo(np.float64).tiny * bins)
    if high - low < margin:
        low, high = low - margin, high + margin
    return np.histogram(values, bins=bins, range=(low, high))
