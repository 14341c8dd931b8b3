"""The way of a run through parameter space, for the planes that the report draws."""

import math
from typing import Any

from curvexp import console
from curvexp.app import build as configs
from curvexp.store import RunFolder


class Trajectory:
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
