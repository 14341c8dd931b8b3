"""The contract of a sink."""

import copy
import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import jax

from curvexp import optim
from curvexp.probe import exact
from curvexp.problem import bowl
from curvexp.record import Record
from curvexp.sink import RunEnd, RunStart, Sink
from curvexp.testing.promises import ContractError, holds
from curvexp.training import run


def check_sink(sink: Sink, *, status: str = "completed", folder: str | Path | None = None) -> None:
    """Checks that a sink does what `Sink` promises, over one run.

    The promises: it takes the start, every record and the end without raising, also records with a reading, with a note, and with scalars
    that are absent or not finite; it leaves config, summary and records as they are, which other sinks get too; what it adds to the
    summary JSON can hold.

    Args:
        sink: a new one, for it serves one run. status: how the run ends; `failed` and `skipped` end it before its first record.
        folder: of the run; None: a temporary one.

    Raises:
        ContractError: naming the promise that is broken.
    """
    with tempfile.TemporaryDirectory() as own:
        where = Path(own if folder is None else folder)
        added: dict[str, Any] = {}
        records = [] if status in ("failed", "skipped") else _records(diverged=status == "diverged")
        if status == "interrupted":
            records = records[:-1]
        start = RunStart(
            where,
            copy.deepcopy(RUN_CONFIG),
            "contract check",
            names={"problem": "bowl", "preprocess": "raw", "optim": "sgd", "probe": "exact", "track": "off"},
            parameters=2,
            figures={"loss": 1.0},
            note=lambda text: None,
            add=added.update,
        )
        summary = {"status": status, "reason": None, "loss": 0.5, "condition_number": math.inf, "accuracy": None}
        outcome = RunEnd(status, None, summary, dict)
        for name, arguments in (("start", [start]), ("append", records), ("finish", [outcome])):
            for argument in arguments:
                _gives(sink, name, argument)
        try:
            json.dumps(added)
        except (TypeError, ValueError) as error:
            raise ContractError(f"broken promise: JSON holds what it adds to the summary; {error}") from error


RUN_CONFIG: dict[str, Any] = {  # of the run that a sink is given
    **{"seed": 0, "steps": 4, "record_every": 2, "landscape": "auto", "keep_params": True, "precision": "float32"},
    "checkpoint": {"every": 2, "seconds": None, "keep": 2},
}


def _gives(sink: Sink, name: str, argument: object) -> None:
    """Calls a method of a sink as a run does."""
    method = getattr(sink, name, None)
    holds(callable(method), f"a sink has the method {name}")
    parts = [getattr(argument, part, None) for part in ("config", "scalars", "summary")]
    before = [copy.deepcopy(part) for part in parts]
    try:
        method(argument)  # type: ignore[misc]
    except Exception as error:
        raise ContractError(f"broken promise: {name} raises nothing; {type(error).__name__}: {error}.") from error
    # by their texts: NaN is no equal of itself
    holds(repr(parts) == repr(before), f"{name} leaves what it is given as it is")


def _records(*, diverged: bool) -> list[Record]:
    """Records of a small run; a note, a scalar that is absent and one that is not finite are added."""
    found = [
        record._replace(seconds=0.1 * record.step, scalars=dict(record.scalars)) for record in _small_run(diverged)
    ]
    found[0].scalars.update({"absent": None, "infinite": math.inf, "undefined": math.nan})
    return [found[0]._replace(note="a note"), *found[1:]]


@functools.cache
def _small_run(diverged: bool) -> list[Record]:
    optimizer, settings = optim.sgd(lr=1.0 if diverged else 0.1), {"steps": 4, "record_every": 2, "diverge_at": 1e3}
    return list(run(bowl(), optimizer, exact(every=2), key=jax.random.key(0), **settings))  # type: ignore[arg-type]
