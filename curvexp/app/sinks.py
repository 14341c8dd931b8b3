"""The sinks of a run, in the order in which each takes a record:

    store        the run's own files, first: what is shown is on the disk
    display      the screen
    track        W&B, or what else the group `track` names
    own          those of the config's `sinks`
    checkpoint   what the run goes on from, when all of these have the record: on resuming none of them lacks one
    trajectory   the way through parameter space; with the last record it draws the planes, when the last checkpoint is on the disk
    params       the parameters that the run ends with

They start and finish in this order too. An error of the store ends the run. The others see to their own errors, and what a person's sink
raises is told once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from curvexp.app.build import Experiment
from curvexp.app.final_params import FinalParams
from curvexp.app.keeper import TAKEN, Checkpoints
from curvexp.app.trajectory import Trajectory
from curvexp.quantities import QUANTITIES
from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart, Sink
from curvexp.store import RunFolder, secrets

AT_START = [q.name for q in QUANTITIES if q.start]  # of these the summary has the first values too, as NAME_start


def of_run(
    store: "Store", display: Sink, experiment: Experiment, *, checkpoint_asked: Callable[[], bool]
) -> list[Sink]:
    """The sinks of a run, in their order.

    Args:
        checkpoint_asked: whether a checkpoint is to be made now.
    """
    trajectory = Trajectory(store.folder, experiment.problem)
    checkpoints = Checkpoints(store.folder, trajectory, experiment.tracker, asked=checkpoint_asked)
    own = [Guarded(sink, f"sinks.{number}") for number, sink in enumerate(experiment.sinks)]
    return [
        store,
        display,
        Guarded(experiment.tracker, "track"),
        *own,
        checkpoints,
        trajectory,
        FinalParams(store.folder),
    ]


class Store:
    """The run's own files.

    Attributes:
        folder: of the run; it is begun before the parts of the run are built, so that a failure there is recorded too.
        figures: the last value of every scalar. ending: what the whole run amounts to, once that is known.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.figures: dict[str, Any] = {}
        self.ending: dict[str, Any] = {}

    def start(self, run: RunStart) -> None:
        """Adds to the summary what is known before the first record."""
        self.folder.update(parameters=run.parameters, examples=run.examples)
        if run.quantities:
            self.folder.update(quantities={quantity.name: quantity.meaning for quantity in run.quantities})
        self.figures |= run.kept.get("figures", {})
        if run.ended:
            self._ends(run.kept["outcome"])

    def append(self, record: Record) -> None:
        """Writes a record; on return it survives the death of this process."""
        self.folder.append(record)
        if record.note:
            self.folder.update(choice=record.note)
        if record.step == 0:
            self.figures |= {f"{name}_start": record.scalars.get(name) for name in AT_START}
        self.figures |= {**record.scalars, "steps": record.step}
        if record.reading is not None:
            self.figures["operator"] = record.reading.extra.get("operator")
        if record.outcome:
            self._ends(record.outcome._asdict())

    def finish(self, outcome: RunEnd) -> None:
        """Writes the summary for good.

        Raises:
            OSError: the disk is full, or gone.
        """
        self.folder.finish(**outcome.summary)

    def _ends(self, outcome: dict[str, Any]) -> None:
        self.ending = {key: value for key, value in outcome.items() if key != "status"}


class Guarded:
    """A sink that a person's config names: what it raises is told once, and ends neither the run nor another sink.

    After that it gets no more records, but still `finish`, to close what it opened.
    """

    def __init__(self, sink: Sink, key: str) -> None:
        self.sink, self.key, self.broken = sink, key, False

    def start(self, run: RunStart) -> None:
        """Begins it."""
        self.note = run.note
        self._call(self.sink.start, run)

    def append(self, record: Record) -> None:
        """Gives it a record."""
        if not self.broken:
            self._call(self.sink.append, record)

    def finish(self, outcome: RunEnd) -> None:
        """Ends it."""
        self._call(self.sink.finish, outcome)

    def _call(self, method: Callable[[Any], None], argument: Any) -> None:
        try:
            method(argument)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and TAKEN:  # a queue's, which takes this process away
                raise
            if not self.broken:
                first = (str(error).strip().splitlines() or [""])[0]
                kind = type(self.sink)
                self.note(
                    secrets.hidden(
                        f"{self.key} ({kind.__module__}.{kind.__qualname__}) failed, the run goes on without it: "
                        f"{type(error).__name__}: {first}"
                    )
                )
            self.broken = True


def figures(folder: Path) -> dict[str, Any]:
    """The spectrum, the density, the blocks and the planes of a run as Plotly figures by key; without those that have nothing to show."""
    from curvexp.report import charts
    from curvexp.store import load_block_densities, load_blocks, load_densities, load_planes, load_runs

    found, densities = load_runs(folder), load_densities(folder)
    made = {"curvature/spectrum": charts.spectrum(found, densities), "curvature/density": charts.density(densities)}
    made["blocks/spectrum"] = charts.blocks(load_blocks(folder), load_block_densities(folder))
    for plane in load_planes(folder):
        key = {"parameters": "way", "eigenvectors": "along_eigenvectors", "random": "along_random_directions"}.get(
            plane["name"]
        )
        if key:
            made[f"loss/{key}"] = charts.contour(plane)
        if plane["name"] == "parameters":
            made["loss/surface"] = charts.surface(plane)
    return {key: figure for key, figure in made.items() if not (figure.layout.meta or {}).get("empty")}
