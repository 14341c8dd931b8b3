"""Where the records of a run go: the interface of every sink, the project's own and a person's.

A sink has three methods and serves one run:

    start(run)       once, before the first record; `run` is a `RunStart`
    append(record)   for each record, in the order of the steps
    finish(outcome)  once, however the run ended; `outcome` is a `RunEnd`

An object may have a `check()` besides. It is called before any compute, and may raise ConfigError where the sink cannot do what it is
asked to do. A sink opens nothing before `start`: a command line that is only checked makes the object too.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from curvexp.quantities import Quantity
from curvexp.record import Record

NOTHING: Mapping[str, Any] = MappingProxyType({})


class RunStart(NamedTuple):
    """A run as it begins, or as it goes on.

    Attributes:
        folder: of the run. config: what the run was asked for, in plain Python. title: a line that names the run.
        names: the option chosen in each group of the config, such as {"problem": "mlp", "optim": "sgd"}.
        group: the sweep that the run belongs to, or None. tags: such as the study that the run belongs to.
        parameters, examples: how many the problem has; examples is None where it has none.
        quantities: descriptions of scalars that a person's own probe adds.
        step: the step that the run goes on from; 0 for a new run.
        before: summary of the part of the run before; empty for a new run.
        kept: what the checkpoint holds that the run goes on from, by key; empty for a new run.
        ended: whether all steps were made before, and the summary alone is missing.
        figures: the last value of every scalar, kept up with the records by the store.
        note: shows the person a sentence. add: writes keys of its own into summary.json.
    """

    folder: Path
    config: Mapping[str, Any]
    title: str
    names: Mapping[str, str] = NOTHING
    group: str | None = None
    tags: Sequence[str] = ()
    parameters: int = 0
    examples: int | None = None
    quantities: Sequence[Quantity] = ()
    step: int = 0
    before: Mapping[str, Any] = NOTHING
    kept: Mapping[str, Any] = NOTHING
    ended: bool = False
    figures: Mapping[str, Any] = NOTHING
    note: Callable[[str], object] = print
    add: Callable[..., object] = dict


class RunEnd(NamedTuple):
    """How a run ended.

    Attributes:
        status: `completed`, `diverged`, `interrupted`, `failed` or `skipped`. reason: in a sentence, or None.
        summary: as summary.json has it.
        figures: Plotly figures of the run by key, such as curvature/spectrum; made from the run's folder when this is called.
    """

    status: str
    reason: str | None
    summary: Mapping[str, Any]
    figures: Callable[[], dict[str, Any]] = dict


class Sink(Protocol):
    """Takes the records of one run; any object with these three methods is one.

    >>> class Losses:
    ...     def start(self, run):
    ...         self.losses = []
    ...
    ...     def append(self, record):
    ...         self.losses.append(record.scalars["loss"])
    ...
    ...     def finish(self, outcome):
    ...         print(outcome.status, self.losses)
    """

    def start(self, run: RunStart) -> None:
        """Begins."""

    def append(self, record: Record) -> None:
        """Takes a record."""

    def finish(self, outcome: RunEnd) -> None:
        """Ends."""
