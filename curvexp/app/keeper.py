"""Checkpoints of the runs that go on in this process, made when they are due."""

import time
from collections.abc import Callable
from typing import Any

from curvexp.app import resume
from curvexp.app.trajectory import Trajectory
from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart
from curvexp.store import RunFolder, jsonable

GOING: "list[Checkpoints]" = []  # of the runs that go on in this process


TAKEN: list[bool] = []  # not empty: a queue takes this process away, and its exit is no failure of the run


def keep_now() -> None:
    """Makes a checkpoint of every run that goes on in this process, as of its last record; for the handler of a signal by which a queue
    takes the process away."""
    import jax

    TAKEN.append(True)
    with jax.ensure_compile_time_eval():  # the signal may have come while a function was traced
        for keeper in list(GOING):
            keeper.keep()


class Checkpoints:
    """The sink that makes a checkpoint when it is due: by steps, by time, when asked, at the end of a run that makes them.

    It keeps the trajectory up to the record before; the parameters of the record itself are in the checkpoint.
    """

    def __init__(
        self, folder: RunFolder, trajectory: Trajectory, tracker: Any, *, asked: Callable[[], bool] = lambda: False
    ) -> None:
        self.folder, self.trajectory, self.asked = folder, trajectory, asked
        self.memory: Callable[[], Any] = getattr(tracker, "memory", lambda: None)
        self.step, self.made, self.time, self.failed = 0, False, time.monotonic(), False
        self.last: tuple[Any, dict[str, Any]] | None = None  # record and facts of what can be kept at any moment
        self.busy = False

    def start(self, run: RunStart) -> None:
        """Begins, or stands where the checkpoint was made."""
        wish = run.config["checkpoint"]
        self.every, self.seconds, self.most = wish["every"], wish["seconds"], wish["keep"]
        self.note, self.figures = run.note, run.figures
        self.step, self.made, self.time = run.step, bool(run.kept), time.monotonic()
        if not run.ended:
            GOING.append(self)

    def append(self, record: Record) -> None:
        """Makes one after this record where it is due."""
        by_steps = self.every is not None and record.step // self.every > self.step // self.every
        by_time = self.seconds is not None and time.monotonic() - self.time >= self.seconds
        end = record.outcome is not None and record.outcome.status == "completed" and (self.made or bool(self.every))
        outcome = record.outcome._asdict() if record.outcome else None
        facts = {"sizes": self.folder.sizes(), "seconds": record.seconds, "figures": dict(self.figures)}
        self.last = (record, {**facts, "outcome": outcome, "way": len(self.trajectory.steps)})
        now = self.asked()
        if by_steps or by_time or end or (now and not record.outcome):
            self.keep()

    def finish(self, outcome: RunEnd) -> None:
        """The run goes on no more."""
        if self in GOING:
            GOING.remove(self)

    def keep(self) -> None:
        """Makes a checkpoint after the last record; one that fails is said once."""
        if self.last is None or self.busy or self.last[0].step == self.step:
            return
        self.busy, (record, facts) = True, self.last
        way = facts["way"]
        try:
            facts = {**facts, **{key: jsonable(facts[key]) for key in ("figures", "outcome")}}
            facts = {**facts, "tracker": self.memory(), "way": self.trajectory.steps[:way]}
            arrays = {"points": self.trajectory.points[:way]}
            resume.keep(self.folder.path, record.snapshot, arrays, facts, most=self.most)
            self.step, self.made = record.step, True
        except Exception as error:  # the run is worth more than its checkpoint
            if not self.failed:
                first = (str(error).strip().splitlines() or [""])[0]
                self.note(f"no checkpoint at step {record.step}, the run goes on: {type(error).__name__}: {first}")
            self.failed = True
        self.busy, self.time = False, time.monotonic()
