"""A sweep's jobs as rows of one program: `hydra/launcher=vmap`.

Jobs whose overrides differ in numbers alone are composed once and varied. In step each leaves its own folder, records, summary and W&B run,
by the same code as alone, while `training.run_many` trains all that share functions and shapes as rows of one program. A number that
changes a shape parts them into further programs, one after the other; a job that has no like goes by itself. Beside a person's callback
with an on_job_start the jobs go one after the other: such a callback keeps, or sets, something for the one job that runs.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from curvexp import console
from curvexp.app import keys
from curvexp.app.launch.composing import Group
from curvexp.app.launch.in_turn import alone, begin_sweep
from curvexp.app.launch.jobs import Job
from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart

if TYPE_CHECKING:
    from curvexp.app.job import Job as Running
    from curvexp.app.place import Place

MOST = 256  # jobs that go in step where nothing else is said: each holds its records' state


def launch(
    jobs: Sequence[Job], *, config: DictConfig, context: Any, task: Callable[..., Any], max_batch: int | None
) -> list[JobReturn]:
    """Runs the jobs; what each came to, in their order.

    Args:
        config: of the sweep. context: Hydra's. task: what runs a job that goes by itself.
        max_batch: most jobs in step; None: MOST, in parts that fit the memory.

    Raises:
        KeyboardInterrupt: once the interrupted jobs are recorded.
    """
    begin_sweep(config)
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.like, []).append(job)
    most = max_batch or MOST
    found: dict[int, JobReturn] = {}
    for part in (group[begin : begin + most] for group in groups.values() for begin in range(0, len(group), most)):
        first = Group(part[0], config, context)
        if first.ordinary and len(part) > 1 and not first.begins:
            found |= _together(part, first)
        elif first.ordinary:
            found |= {job.number: first.run(job, task) for job in part}
            if len(part) > 1:
                console.err().print(
                    f"one after the other, for on_job_start of {console.printable(', '.join(first.begins))}"
                )
        else:
            found |= {job.number: alone(job, config, context, task) for job in part}
            if len(part) > 1:
                console.err().print(
                    "one after the other, for hydra.job.chdir, hydra.job.env_set, hydra.job_logging, hydra.verbose, or an override "
                    "that sets what another one set"
                )
    return [found[job.number] for job in jobs]


def _together(jobs: list[Job], group: "Group") -> dict[int, JobReturn]:
    """Jobs that are composed together, in step; {number: what it came to}."""
    from curvexp.app.job import execute
    from curvexp.app.place import place_of_job

    before = HydraConfig.instance().cfg
    begun: list[tuple[DictConfig, JobReturn]] = []

    def each() -> Iterator[tuple[Callable[[], dict[str, Any]], "Place"]]:
        for job in jobs:
            begun.append(group.begin(job, execute))
            yield functools.partial(keys.plain, group.ours), place_of_job()  # its own until the next one begins

    results, together = in_step(each(), number=len(jobs), steps=len(jobs) * steps_of(group.ours))
    HydraConfig.instance().cfg = before
    for (config, found), result in zip(begun, results, strict=True):
        group.end(config, found, result)
    console.err().print(_told(jobs, together))
    stopped = [result for result in results if isinstance(result, KeyboardInterrupt)]
    if stopped:
        raise stopped[-1]
    return {job.number: found for job, (_, found) in zip(jobs, begun, strict=True)}


def in_step(
    jobs: "Iterable[tuple[Callable[[], dict[str, Any]], Place]]", *, number: int, steps: int
) -> tuple[list[Any], list[int]]:
    """Runs jobs together: those of equal structure as rows of one program.

    Args:
        jobs: what gives the config of each, asked for once, before the next job is taken; and where it stands.
        number: of the jobs. steps: that all of them make together, for the bar.

    Returns:
        what each job came to, in their order: its final loss, or the KeyboardInterrupt or the exception that ended it; and the number of
        rows of each program that carried several.
    """
    from curvexp import track
    from curvexp.app.job import Job as Running
    from curvexp.app.signals import Signals

    results: list[Any] = [None] * number
    displays, together = Together(number, steps=steps), []
    running: list[Running] = []

    def conclude(number: int) -> None:
        """Ends a job that is over, and keeps what it came to."""
        if results[number] is None:
            try:
                running[number].end()
                results[number] = running[number].result()
            except (Exception, KeyboardInterrupt) as error:
                results[number] = error

    with Signals() as signals, track.together(), displays:
        for at, (config, place) in enumerate(jobs):
            running.append(Running(config, place, signals, displays.one))
            with running[at].guard():
                running[at].begin()
            if running[at].over:
                conclude(at)
        for numbers in _like(running):
            if _carry({number: running[number] for number in numbers}, conclude):
                together.append(len(numbers))
    return results, together


def _like(running: "list[Running]") -> list[list[int]]:
    """Numbers of the jobs that have begun, those together that one program can carry."""
    from curvexp.training import by_structure

    found: dict[tuple[Any, ...], list[int]] = {}
    for number, job in enumerate(running):
        if not job.over:
            found.setdefault(tuple(job.settings.items()), []).append(number)
    return [
        [numbers[row] for row in rows]
        for numbers in found.values()
        for rows in by_structure(
            [running[number].run for number in numbers], batch_size=running[numbers[0]].settings["batch_size"]
        )
    ]


def _carry(jobs: "dict[int, Running]", conclude: Callable[[int], None]) -> bool:
    """Trains jobs of equal structure to their ends; whether one program carried them."""
    from curvexp.training import run_many

    numbers, settings = list(jobs), next(iter(jobs.values())).settings

    def failed(row: int, error: BaseException) -> None:
        jobs[numbers[row]].fail(error)
        conclude(numbers[row])

    for job in jobs.values():
        job.begun = time.perf_counter() - job.spent  # the jobs before are no part of its time
    rows = run_many([job.run for job in jobs.values()], **settings, clock=time.perf_counter, failed=failed)
    try:
        for records in rows:
            for record in records:
                job = jobs[numbers[record.row]]
                with job.guard():
                    job.append(record)
                if job.over:
                    rows.stop(record.row)
                    conclude(numbers[record.row])
    except KeyboardInterrupt as error:  # a second one: at once
        for number, job in jobs.items():
            if not job.over:
                job.fail(error)
                conclude(number)
    if rows.alone:
        console.err().print(console.printable(f"not vmapped, run by run: {rows.alone}"))
    return len(jobs) > 1 and not rows.alone


def _told(jobs: list[Job], together: list[int]) -> str:
    alone = len(jobs) - sum(together)
    parts = [f"{rows} in one program" for rows in sorted(together, reverse=True)] + [f"{alone} by themselves"] * (
        alone > 0
    )
    return f"[bold]#{jobs[0].number} to #{jobs[-1].number}[/] {len(jobs)} jobs: {', '.join(parts)}"


def steps_of(composed: DictConfig) -> int:
    value = composed.get("steps")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


class Together:
    """One bar for jobs in step: how many steps all of them have made, and how many jobs still go."""

    def __init__(self, jobs: int, *, steps: int) -> None:
        self.jobs, self.steps = jobs, steps
        self.shown, self.done, self.going = time.monotonic(), 0, 0
        self.bar: console.Bar | None = None

    def __enter__(self) -> "Together":
        if console.err().is_terminal:
            self.bar = console.Bar()
            self.task = self.bar.add_task(f"{self.jobs} jobs", total=self.steps, figures="compiling")
            self.bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.bar:
            self.bar.stop()

    def one(self) -> "Share":
        """A job's display."""
        return Share(self)

    def advance(self, steps: int) -> None:
        """Shows that a job has made so many steps more."""
        self.done += steps
        if self.bar:
            self.bar.update(self.task, completed=self.done, figures=f"{self.going} go on")
        elif time.monotonic() - self.shown > console.QUIET_SECONDS:
            self.shown = time.monotonic()
            console.err().print(f"{self.jobs} jobs: step {self.done}/{self.steps} of all, {self.going} go on")


class Share:
    """One job's part of the bar: what `console.Display` is to a job alone."""

    def __init__(self, whole: Together) -> None:
        self.whole, self.steps, self.done, self.going = whole, 0, 0, False

    def start(self, run: RunStart) -> None:
        """Counts the job among those that go on."""
        self.title, self.steps, self.going = run.title, run.config["steps"], True
        self.whole.going += 1

    def append(self, record: Record) -> None:
        """Adds the steps since the last record to the bar."""
        if record.note:
            console.note(self.title, record.note)
        self.whole.advance(record.step - self.done)
        self.done = record.step

    def finish(self, outcome: RunEnd) -> None:
        """Counts the steps that the job will not make as done."""
        self.close()

    def close(self) -> None:
        """The same, also of a job that goes on elsewhere."""
        if self.going:
            self.going = False
            self.whole.going -= 1
            self.whole.advance(self.steps - self.done)
