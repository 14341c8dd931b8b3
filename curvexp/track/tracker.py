"""The interface of a tracker: a sink that a resumed run goes on in."""

from typing import Any

from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart


class Tracker:
    """A sink that shows a run elsewhere. This one tracks nothing.

    `RunStart.kept["tracker"]` has what `memory` gave when the checkpoint was made that a run goes on from, and `RunStart.before["wandb"]`
    what the part before wrote into its summary.
    """

    def check(self) -> None:
        """Raises ConfigError where the run could not be tracked as asked; touches no network."""

    def start(self, run: RunStart) -> None:
        """Begins the run, or a further part of it."""

    def append(self, record: Record) -> None:
        """Shows a record."""

    def finish(self, outcome: RunEnd) -> None:
        """Ends the run."""

    def memory(self) -> Any:
        """What a further part of this run needs of this one, in plain JSON; asked for at each checkpoint."""
