"""Figures of a bench: a value beside its goal, as text, as a row of a table, and in a file."""

import json
import statistics
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of the table. goal: as text; None: there is none. more: what stands beside it."""

    row: str
    what: str
    value: float
    goal: str | None = None
    more: str = ""


class Setting(NamedTuple):
    """How much is measured. repeats: rounds. networks: of bench_spectrum. gpu: whether the goals are those of a GPU."""

    repeats: int
    networks: tuple[str, ...]
    quick: bool
    gpu: bool

    def goal(self, gpu: str, cpu: str) -> str:
        return gpu if self.gpu else cpu


def described(figure: Figure) -> str:
    """A figure in words."""
    goal = f" (goal {figure.goal})" if figure.goal else ""
    return f"{figure.what}: {figure.value:.4g}{goal}{'; ' if figure.more else ''}{figure.more}"


def as_row(figure: Figure) -> str:
    """A figure as a row of the table."""
    return f"| {figure.row}: {figure.what} | {figure.value:.3g} | {figure.goal or ''} | {figure.more} |"


def keep(file: Path | None, head: str, figures: list[Figure], took: dict[str, float]) -> None:
    """Write what is known, whole at once."""
    if file:
        text = json.dumps(
            {"head": head, "seconds": took, "figures": [figure._asdict() for figure in figures]}, indent=1
        )
        partial = file.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(file)


def ms(times: list[float]) -> str:
    """The median in words."""
    return f"{1e3 * statistics.median(times):.2f} ms"
