"""Checkpoints of the runs that go on in this process, made when they are due."""

import time
from typing import Any

from curvexp.app import resume
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
    """Makes checkpoints when they are due."""

    def __init__(self, config: dict[str, Any], store: RunFolder, display: Any, way: Any, tracker: Any) -> None:
        self.every, self.seconds, self.most = config["every"], config["seconds"], config["keep"]
        self.store, self.display, self.way, self.tracker = store, display, way, tracker
        self.step, self.made, self.time, self.failed = 0, False, time.monotonic(), False
        self.last: tuple[Any, dict[str, Any]] | None = None  # record and facts of what can be kept at any moment
        self.busy = False

    def take_up(self, kept: resume.Kept) -> None:
        """Stands where the checkpoint was made."""
        self.step, self.made = int(kept.snapshot.state.step), True
        self.way.steps = [int(step) for step in kept.facts["way"]]
        self.way.points = list(kept.arrays["points"])
        self.way.params = kept.snapshot.state.params if self.way.steps else None
        self.tracker.remember(kept.facts["tracker"])

    def append(self, record: Any, figures: dict[str, Any], *, now: bool) -> None:
        """Makes one after this record where it is due: by steps, by time, at the end of a run that makes them, or now."""
        by_steps = self.every is not None and record.step // self.every > self.step // self.every
        by_time = self.seconds is not None and time.monotonic() - self.time >= self.seconds
        end = record.outcome is not None and record.outcome.status == "completed" and (self.made or bool(self.every))
        outcome = record.outcome._asdict() if record.outcome else None
        facts = {"sizes": self.store.sizes(), "seconds": record.seconds, "figures": dict(figures), "outcome": outcome}
        self.last = (record, {**facts, "way": len(self.way.steps)})
        if by_steps or by_time or end or (now and not record.outcome):
            self.keep()

    def keep(self) -> None:
        """Makes a checkpoint after the last record; one that fails is said once."""
        if self.last is None or self.busy or self.last[0].step == self.step:
            return
        self.busy, (record, facts) = True, self.last
        way = facts["way"]
        facts |= {key: jsonable(facts[key]) for key in ("figures", "outcome")}
        facts = {**facts, "tracker": self.tracker.memory()}
        facts["way"], points = self.way.steps[:way], self.way.points[:way]
        try:
            resume.keep(self.store.path, record.snapshot, {"points": points}, facts, most=self.most)
            self.step, self.made = record.step, True
        except Exception as error:  # the run is worth more than its checkpoint
            if not self.failed:
                first = (str(error).strip().splitlines() or [""])[0]
                self.display.note(
                    f"no checkpoint at step {record.step}, the run goes on: {type(error).__name__}: {first}"
                )
            self.failed = True
        self.busy, self.time = False, time.monotonic()
