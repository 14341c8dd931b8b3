"""The progress of a run: a live bar on a terminal, else quiet lines."""

import time

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from curvexp.console.formats import figures
from curvexp.console.streams import err, live, note, printable
from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart

QUIET_SECONDS = 10.0  # between two lines where there is no terminal


class Bar(Progress):
    """A live bar on standard error, gone when it stops."""

    def __init__(self) -> None:
        columns = (
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
        )
        super().__init__(*columns, console=err(), transient=True)

    def start(self) -> None:
        """Shows it."""
        super().start()
        live.append(self.console)

    def stop(self) -> None:
        """Takes it away."""
        super().stop()
        if self.console in live:
            live.remove(self.console)


class Display:
    """The sink that shows one run's progress: a live bar on a terminal, else a line every few seconds."""

    bar: Bar | None = None

    def start(self, run: RunStart) -> None:
        """Shows the bar."""
        self.title, self.steps, self.figures = run.title, run.config["steps"], run.figures
        self.shown = time.monotonic()
        if err().is_terminal:
            self.bar = Bar()
            self.task = self.bar.add_task(printable(self.title), total=self.steps, figures="compiling")
            self.bar.start()

    def append(self, record: Record) -> None:
        """Shows where the run stands; a quiet display prints at most every few seconds."""
        if record.note:
            note(self.title, record.note)
        if self.bar:
            self.bar.update(self.task, completed=record.step, figures=figures(self.figures))
        elif time.monotonic() - self.shown > QUIET_SECONDS:
            self.shown = time.monotonic()
            err().print(f"{printable(self.title)}: step {record.step}/{self.steps}  {figures(self.figures)}")

    def finish(self, outcome: RunEnd) -> None:
        """Takes the bar away."""
        self.close()

    def close(self) -> None:
        """Takes the bar away, also of a run that goes on elsewhere."""
        if self.bar:
            self.bar.stop()
