"""What a person sees of a run: a progress bar, or quiet lines where there is no terminal, and a small table at its end."""

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

QUIET_SECONDS = 10.0  # between two lines where there is no terminal


def out() -> Console:
    """The console for results, standard output."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


def err() -> Console:
    """The console for progress and errors, standard error."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def refuse(message: str) -> None:
    """Prints an error of the person's making: what came, what was expected, the key to change."""
    err().print(f"[bold red]error:[/] {printable(message)}")


def printable(text: Any) -> str:
    """Text from a config, safe for a terminal: Rich's markup escaped, control characters shown as such."""
    return escape(
        "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))
    )


class Display:
    """One run's progress: a live bar on a terminal, else a line every few seconds."""

    def __init__(self, *, title: str, steps: int) -> None:
        self.console, self.title, self.steps = err(), title, steps
        self.shown = time.monotonic()
        self.bar: Progress | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}[/]"),
                BarColumn(bar_width=20),
                TaskProgressColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(printable(title), total=steps, figures="compiling")
            self.bar.start()

    def note(self, text: str) -> None:
        """A line that stays."""
        (self.bar.console if self.bar else self.console).print(f"{printable(self.title)}: {printable(text)}")

    def update(self, step: int, scalars: dict[str, Any]) -> None:
        """Shows where the run stands; a quiet display prints at most every few seconds."""
        if self.bar:
            self.bar.update(self.task, completed=step, figures=figures(scalars))
        elif time.monotonic() - self.shown > QUIET_SECONDS:
            self.shown = time.monotonic()
            self.console.print(f"{printable(self.title)}: step {step}/{self.steps}  {figures(scalars)}")

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar:
            self.bar.stop()


def figures(scalars: dict[str, Any]) -> str:
    """Loss, sharpness beside its threshold, condition number: as far as they were measured."""
    parts = [f"loss {number(scalars.get('loss'))}"]
    if scalars.get("sharpness") is not None:
        parts.append(f"sharpness {ratio(scalars)}")
    condition = condition_number(scalars)
    return "  ".join([*parts, f"κ {condition}"] if condition else parts)


def ratio(scalars: dict[str, Any]) -> str:
    """sharpness/threshold as the two numbers."""
    return f"{number(scalars.get('sharpness'))}/{number(scalars.get('threshold'))}"


def condition_number(scalars: dict[str, Any]) -> str:
    """The condition number as it is known: exact, infinite with that of the positive part, or a lower bound named as one."""
    value, positive, bound = (scalars.get(f"condition_number{suffix}") for suffix in ("", "_positive", "_bound"))
    if value is not None:
        infinite = math.isinf(value) and positive is not None and math.isfinite(positive)
        return f"∞ ({number(positive)} above rounding)" if infinite else number(value)
    return f"≥ {number(bound)}" if bound is not None else ""


def result(title: str, summary: dict[str, Any], folder: Any) -> Table:
    """The small table at the end of a run."""
    table = Table(title=printable(title), show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    status = summary["status"] + (f": {summary['reason']}" if summary.get("reason") else "")
    rows = {
        "status": printable(status),
        "loss": f"{number(summary.get('loss_start'))} → {number(summary.get('loss'))} in {summary.get('steps')} steps",
        "steps to target": _steps_to_target(summary),
        "rate": _beside(summary.get("rate"), "theory", summary.get("rate_theory"), digits=6),
        "λmax": _span(summary, "lambda_max"),
        "λmin": _span(summary, "lambda_min"),
        "sharpness": _sharpness(summary),
        "condition number": condition_number(summary),
        "accuracy": _beside(summary.get("accuracy"), "test", summary.get("test_accuracy"), digits=4),
        "folder": printable(folder),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def line(title: str, summary: dict[str, Any]) -> str:
    """One job of a sweep in one line."""
    colour = {"completed": "green", "diverged": "yellow", "skipped": "dim"}.get(summary["status"], "red")
    text = f"[bold]{printable(title)}[/] [{colour}]{summary['status']}[/]"
    if summary["status"] in ("completed", "diverged", "interrupted"):
        return f"{text} in {summary.get('steps')} steps, {summary.get('seconds', 0):.1f} s: {figures(summary)}"
    return f"{text}: {printable(summary.get('reason'))}"


def number(value: Any, digits: int = 4) -> str:
    """A number in a few digits; – where there is none."""
    if value is None:
        return "–"
    return "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:.{digits}g}"


def _beside(value: Any, name: str, other: Any, *, digits: int) -> str:
    if value is None and other is None:
        return ""
    return number(value, digits) + (f"  ({name} {number(other, digits)})" if other is not None else "")


def _span(summary: dict[str, Any], name: str) -> str:
    if summary.get(name) is None:
        return ""
    return f"{number(summary.get(f'{name}_start'))} → {number(summary[name])}"


def _sharpness(summary: dict[str, Any]) -> str:
    if summary.get("sharpness") is None:
        return ""
    return _beside(summary["sharpness"], "threshold", summary.get("threshold"), digits=4)


def _steps_to_target(summary: dict[str, Any]) -> str:
    if summary.get("target_loss") is None:
        return ""
    found = summary.get("steps_to_target")
    return f"{'not reached' if found is None else found}  (loss ≤ {number(summary['target_loss'])})"
