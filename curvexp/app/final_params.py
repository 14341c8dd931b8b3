"""The sink that keeps the parameters with which a run ends."""

from collections.abc import Callable
from typing import Any

from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart
from curvexp.store import RunFolder, files, params


class FinalParams:
    """Writes params.npz with the last record, or with what was recorded last where the run was stopped."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.params: Callable[[], Any] | None = (
            None  # of the last record, brought from the device when asked for; None once written
        )
        self.step = 0

    def start(self, run: RunStart) -> None:
        """Begins; of a run that lacks its end alone, writes."""
        self.wanted, self.note = run.config["keep_params"], run.note
        if run.ended:
            self.step, self.params = run.step, lambda: run.kept["params"]
            self._write()

    def append(self, record: Record) -> None:
        """Takes a record's parameters."""
        self.step, self.params = record.step, lambda: record.state.params
        if record.outcome:
            self._write()

    def finish(self, outcome: RunEnd) -> None:
        """Writes what is not written."""
        self._write(told=outcome.status == "failed")  # of a disk that is full the run's own reason tells

    def _write(self, *, told: bool = False) -> None:
        if not self.wanted or self.params is None:
            return
        import jax
        import numpy as np

        found, self.params = self.params(), None
        leaves = {params.leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(found)}
        try:
            params.save_params(self.folder.path, leaves, step=self.step)
        except OSError as error:
            if told:
                return
            self.note(f"{files.PARAMS} was not written: {error.strerror or error}")
