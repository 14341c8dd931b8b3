"""The sink that keeps the parameters with which a run ends."""

from collections.abc import Callable
from typing import Any

from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart
from curvexp.store import RunFolder, files, params


class FinalParams:
    """Writes params.npz with the last record, or with what was recorded last where the run was stopped."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.step = folder, 0
        # of the last record, brought from the device when called; None once written
        self.params: Callable[[], Any] | None = None
        self.failure: str | None = None

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
        """Writes what is not written, and says what could not be; of a full disk a run that failed for it has told."""
        self._write()
        if self.failure and outcome.status != "failed":
            self.note(f"{files.PARAMS} was not written: {self.failure}")

    def _write(self) -> None:
        if not self.wanted or self.params is None:
            return
        import jax
        import numpy as np

        current, self.params = self.params, None
        try:
            leaves = {params.leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(current())}
            params.save_params(self.folder.path, leaves, step=self.step)
        except Exception as error:  # of the disk, or of a device that is gone: the run is worth more than this file
            self.failure = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
