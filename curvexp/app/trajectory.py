"""The way of a run through parameter space, for the planes that the report draws."""

import math
from typing import Any

from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart
from curvexp.store import RunFolder, files


class Trajectory:
    """The sink that follows the parameters; with the last record it writes landscape.json, without which a run is whole.

    Attributes:
        steps: at which the parameters were followed. points: the parameters there, where they are two numbers.
    """

    def __init__(self, folder: RunFolder, problem: Any) -> None:
        self.folder, self.problem = folder, problem
        self.flat = self.around = False
        self.steps: list[int] = []
        self.points: list[Any] = []
        self.params: Any = None

    def start(self, run: RunStart) -> None:
        """Begins, or stands where the checkpoint was made; of a run that lacks its end alone, draws."""
        wish = run.config["landscape"]
        self.flat = run.parameters == 2 and wish in ("auto", "all")
        self.around = wish == "all" and not self.flat
        self.note, self.seed = run.note, run.config["seed"]
        if run.kept:
            self.steps, self.points = [int(step) for step in run.kept["way"]], list(run.kept["points"])
            if run.step in self.steps:
                self.params = run.kept["params"]
            elif math.isfinite(run.kept["figures"].get("loss", math.nan)):
                self._follow(run.step, run.kept["params"])
        if run.ended:
            self._draw()

    def append(self, record: Record) -> None:
        """Follows a record whose parameters are finite."""
        if math.isfinite(record.scalars["loss"]):  # type: ignore[arg-type]
            self._follow(record.step, record.state.params)
        if record.outcome:
            self._draw()

    def finish(self, outcome: RunEnd) -> None:
        """Nothing is left to do."""

    def _follow(self, step: int, params: Any) -> None:
        if not (self.flat or self.around):
            return
        self.params = params
        self.steps.append(step)
        if self.flat:
            from jax.flatten_util import ravel_pytree

            self.points.append(ravel_pytree(params)[0])

    def _draw(self) -> None:
        """Writes landscape.json; where it fails it says so."""
        if self.params is None:
            return
        import jax
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
                planes = landscape.around(whole, self.params, step=self.steps[-1], key=jax.random.key(self.seed))
            self.folder.keep(files.LANDSCAPE, {"planes": planes})
        except Exception as error:
            self.note(f"landscape.json was not written: {type(error).__name__}: {error}")
