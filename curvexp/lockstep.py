"""Runs in step: what each of several runs would compute by itself is computed once for all of them, vmapped.

Each run is a greenlet that computes as if it were alone; only one of them moves at a time. Where it calls a `program` it waits until all
others wait too. Calls of one function on arrays of equal shapes are then stacked, made at once, and each run goes on with its own row. An
array that all runs share (the same object) is not stacked. The row of a run that has ended stays in the program, whose shape it keeps, as
it was; its results go nowhere. Calls that differ in shapes or structure form programs of their own. Where a run calls a `hosted` function
it waits likewise, and the host's cores share the calls. On a CPU they share the rows of a program too, each with a program of some of
the rows: XLA's loops and small products have one core each.
"""

import contextvars
import functools
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from greenlet import getcurrent, greenlet

from curvexp.host import one_thread, x64
from curvexp.programs import compiled, kept

NUMBERS = (bool, int, float)  # of Python: arguments that are alike where their values are; numpy's are arrays
LEAST_ROWS = 4  # of a program that a core has for itself: fewer are not worth its call


class program:  # noqa: N801: a decorator
    """A jitted function of arrays; runs in step make one vmapped call of it.

    Args:
        static: names of arguments that are no arrays, given by keyword.
        many: (present, axes, *args, **static) -> results for all rows at once, where plain vmap would do worse. present: (rows,) bool,
            those that are called for; axes: of each argument, 0 or None at every leaf.
        apart: arguments -> value; calls with different values are made one after the other.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static: tuple[str, ...] = (),
        many: Callable[..., Any] | None = None,
        apart: Callable[..., Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__name__ = function.__name__
        self.function, self.many, self.apart = function, many, apart
        self.alone = compiled(function, static=static)

    def __call__(self, *args: Any, **static: Any) -> Any:
        """The function's results: those of this run alone."""
        run = getcurrent()
        if isinstance(run, _Run):
            leaves, structure = jax.tree.flatten(args)
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                return run.call(_Call(self, args, static, leaves, structure))
        return self.alone(*args, **static)


class hosted:  # noqa: N801: a decorator
    """A function that the host goes through, such as LAPACK's or a solver's loop; of runs in step each core takes some of the calls.

    What it does without Python's lock, which is all that LAPACK and XLA do, is done side by side.

    Args:
        whole: arguments -> whether a call is so large that it has all cores, and the memory, for itself.
    """

    def __init__(self, function: Callable[..., Any], *, whole: Callable[..., bool]) -> None:
        functools.update_wrapper(self, function)
        self.__name__ = function.__name__
        self.function, self.whole = function, whole

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The function's results: those of this run alone."""
        run = getcurrent()
        if isinstance(run, _Run):
            return run.call(_Call(self, args, options, context=contextvars.copy_context()))
        with one_thread(not self.whole(*args, **options)):
            return self.function(*args, **options)


def active() -> bool:
    """Whether the caller is a run in step with others."""
    return isinstance(getcurrent(), _Run)


class Report(NamedTuple):
    """What a lockstep did.

    Attributes:
        programs: (function's name, rows, calls) of each vmapped program.
        alone: {function's name: why} of what could not be vmapped and was called run by run.
    """

    programs: list[tuple[str, int, int]]
    alone: dict[str, str]


def go(tasks: Sequence[Callable[[], Any]], *, memory: float = math.inf) -> tuple[list[Any], Report]:
    """Runs the tasks in step.

    Args:
        tasks: each is called in a greenlet of its own, one moving at a time.
        memory: bytes that a program may take; what needs more is made in parts.

    Returns:
        for each task what it returned, or the exception that it raised; and the report.
    """
    scheduler = _Scheduler(tasks, memory)
    results = scheduler.go()
    return results, Report(
        [(kind[0].__name__, rows, calls) for (kind, rows), calls in scheduler.calls.items()], scheduler.alone
    )


class _Call(NamedTuple):
    program: program | hosted
    args: tuple[Any, ...]
    static: dict[str, Any]
    leaves: Sequence[Any] = ()  # of a program's arguments
    structure: Any = None
    context: contextvars.Context | None = None  # of a hosted function: what holds of numpy's warnings


class _Run(greenlet):
    """One task; it moves until it calls a program or ends."""

    def __init__(self, number: int, task: Callable[[], Any]) -> None:
        super().__init__(self._live)
        self.number, self.task = number, task
        self.pending: _Call | None = None
        self.answer: Any = None
        self.result: Any = None

    def _live(self) -> None:
        try:
            self.result = self.task()
        except BaseException as error:
            self.result = error
        self.pending = None

    def call(self, call: _Call) -> Any:
        self.pending = call
        self.parent.switch()
        answer, self.answer = self.answer, None
        if isinstance(answer, _Raised):
            raise answer.error
        return answer


class _Raised(NamedTuple):
    error: BaseException


class _Batch(NamedTuple):
    """A leaf of all runs, a row each: arrays of equally many rows, the last filled up with rows that nobody reads."""

    parts: Sequence[Any]
    rows: int

    @property
    def size(self) -> int:
        return len(self.parts[0])


class _Scheduler:
    def __init__(self, tasks: Sequence[Callable[[], Any]], memory: float) -> None:
        self.runs = [_Run(number, task) for number, task in enumerate(tasks)]
        self.memory = memory
        self.slots: dict[Any, list[int]] = {}  # for each kind of call the runs that have a row in it
        self.parted: set[tuple[Any, int]] = set()  # leaves, by kind and position, of which runs have different ones
        self.handed: deque[_Handed] = deque(maxlen=16)
        self.where: dict[
            int, tuple[_Batch, int]
        ] = {}  # id of a leaf that was handed out: the batch it is a row of, and the row
        self.stacks: dict[tuple[int, ...], tuple[list[Any], _Batch]] = {}
        self.calls: dict[tuple[Any, int], int] = {}
        self.alone: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(_cores())

    def go(self) -> list[Any]:
        with self.pool:
            return self._go()

    def _go(self) -> list[Any]:
        living = []
        for run in self.runs:
            self._move(run)
            if run.pending is not None:
                living.append(run)
        while living:
            for group in self._groups(living):
                self._serve(group)
            for run in living:
                self._move(run)
            living = [run for run in living if run.pending is not None]
        return [run.result for run in self.runs]

    def _move(self, run: _Run) -> None:
        run.pending = None
        run.switch()

    def _groups(self, living: list[_Run]) -> list[tuple[Any, list[_Run]]]:
        """Runs that wait for the same, by its kind: what a program is compiled for; or the hosted function alone."""
        found: dict[Any, list[_Run]] = {}
        wide = x64()
        for run in living:
            assert run.pending is not None
            call = run.pending
            if isinstance(call.program, hosted):
                whole = call.program.whole(*call.args, **call.static)
                found.setdefault(((call.program, whole), None, ()), []).append(run)
                continue
            kind = (
                call.program,
                tuple(sorted(call.static.items(), key=lambda item: item[0])),
                call.structure,
                tuple([_aval(leaf) for leaf in call.leaves]),
                wide,
            )
            apart = call.program.apart(*call.args) if call.program.apart else None
            values = tuple(leaf for leaf in call.leaves if type(leaf) in NUMBERS)
            found.setdefault((kind, apart, values), []).append(run)
        for (kind, _, _), runs in found.items():
            slots = self.slots.setdefault(kind, [])
            slots += [run.number for run in runs if run.number not in slots]
        return [(kind, runs) for (kind, _, _), runs in found.items()]

    def _serve(self, group: tuple[Any, list[_Run]]) -> None:
        kind, runs = group
        if isinstance(kind[0], hosted):
            self._share(runs, whole=kind[1])
            return
        name = runs[0].pending.program.__name__  # type: ignore[union-attr]
        slots = self.slots[kind]
        if len(slots) > 1 and name not in self.alone:
            try:
                self._together(kind, runs, slots)
                return
            except Exception as error:  # a function that vmap has no rule for
                self.alone[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        for run in runs:
            call: Any = run.pending
            run.answer = _answer(call.program.alone, call)

    def _share(self, runs: list[_Run], *, whole: bool) -> None:
        """The calls of a hosted function, parted between the cores once the first has compiled what it needs."""
        parts = 1 if whole else min(_cores(), len(runs))

        def made(part: list[_Run]) -> None:
            for run in part:
                call: Any = run.pending
                run.answer = call.context.run(_answer, call.program.function, call)

        with one_thread(not whole):
            made(runs[:1])
            list(self.pool.map(made, (runs[1 + number :: parts] for number in range(parts))))

    def _together(self, kind: Any, runs: list[_Run], slots: list[int]) -> None:
        called: program = kind[0]
        calls = {run.number: run for run in runs}
        present = np.array([number in calls for number in slots])
        rows = [run.pending.leaves for run in runs]  # type: ignore[union-attr]
        where = {number: row for row, number in enumerate(slots)}
        at = [where[run.number] for run in runs]
        columns = list(zip(*rows, strict=True))
        shared = [type(column[0]) in NUMBERS or all(leaf is column[0] for leaf in column) for column in columns]
        # what was parted stays so, whoever is left
        axes = tuple(None if s and (kind, n) not in self.parted else 0 for n, s in enumerate(shared))
        self.parted |= {(kind, position) for position, axis in enumerate(axes) if axis == 0}
        firsts = [column[0] for column in columns]
        cores = _side_by_side(len(slots), [leaf for leaf, axis in zip(firsts, axes, strict=True) if axis is None])
        size = math.ceil(len(slots) / cores)
        compiled = _made(called, kind[2], axes, dict(kind[1]), firsts, size, self.memory / cores)
        stacked = [
            column[0] if axis is None else self._stack(column, at, len(slots), compiled.size)
            for column, axis in zip(columns, axes, strict=True)
        ]
        made = compiled.results(present, stacked, self.pool if cores > 1 else None)
        self.calls[kind, len(slots)] = self.calls.get((kind, len(slots)), 0) + 1
        flat = [jax.tree.flatten(part) for part in made]
        structure = flat[0][1]
        leaves = [_Batch(parts, len(slots)) for parts in zip(*(part for part, _ in flat), strict=True)]
        # what the program gives back as it got it, such as a run's key, is not taken apart again
        parts = [None if out in compiled.same else _rows(leaf) for out, leaf in enumerate(leaves)]
        for given, run, row in zip(rows, runs, at, strict=True):
            own = [given[compiled.same[out]] if part is None else part[row] for out, part in enumerate(parts)]
            run.answer = jax.tree.unflatten(structure, own)
        self._remember([(leaf, part) for leaf, part in zip(leaves, parts, strict=True) if part is not None])

    def _stack(self, column: Sequence[Any], at: list[int], rows: int, size: int) -> _Batch:
        """The leaves as one batch with a row a slot, in arrays of `size` rows; slots that nobody calls for keep the row that they had, or
        have another's."""
        first = self.where.get(id(column[0]))
        if first is not None and (first[0].rows, first[0].size) == (rows, size):
            batch = first[0]
            found = (self.where.get(id(leaf)) for leaf in column)
            if all(w is not None and w[0] is batch and w[1] == row for w, row in zip(found, at, strict=True)):
                return batch
        full = [column[0]] * (math.ceil(rows / size) * size)
        for leaf, row in zip(column, at, strict=True):
            full[row] = leaf
        parts = [full[begin : begin + size] for begin in range(0, len(full), size)]
        if all(isinstance(leaf, np.ndarray | np.generic) for leaf in column):
            return _Batch([np.stack(part) for part in parts], rows)
        key = (size, *(id(leaf) for leaf in full))
        if key not in self.stacks:
            if len(self.stacks) > 64:
                self.stacks.pop(next(iter(self.stacks)))
            # the leaves are kept, so that their ids stay theirs
            self.stacks[key] = (full, _Batch([_on_device(part) for part in parts], rows))
        return self.stacks[key][1]

    def _remember(self, handed: "_Handed") -> None:
        if len(self.handed) == self.handed.maxlen:
            for _, part in self.handed[0]:
                for leaf in part:
                    self.where.pop(id(leaf), None)
        self.handed.append(handed)
        for batch, part in handed:
            for row, leaf in enumerate(part):
                if not isinstance(leaf, np.bool_):  # of which there are only two
                    self.where[id(leaf)] = (batch, row)


_Handed = list[tuple[Any, Any]]


def _answer(function: Callable[..., Any], call: _Call) -> Any:
    try:
        return function(*call.args, **call.static)
    except Exception as error:
        return _Raised(error)


def _side_by_side(rows: int, shared: Sequence[Any]) -> int:
    """How many programs go side by side, each with some of the rows: one on an accelerator, and where what they share lies on several
    devices, whose programs would wait for each other."""
    apart = any(isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1 for leaf in shared)
    return 1 if apart or jax.default_backend() != "cpu" else max(1, min(_cores(), rows // LEAST_ROWS))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _aval(leaf: Any) -> Any:
    kind = type(leaf)
    return kind if kind in NUMBERS else (leaf.shape, leaf.dtype)


def _rows(batch: _Batch) -> list[Any]:
    """A batch's rows: views of host memory where numpy can hold it."""
    if _is_key(batch.parts[0]):
        impl = jax.random.key_impl(batch.parts[0])
        data = [np.asarray(jax.random.key_data(part)) for part in batch.parts]
        return [jax.random.wrap_key_data(row, impl=impl) for part in data for row in part][: batch.rows]
    return [row for part in batch.parts for row in np.asarray(part)][: batch.rows]


def _on_device(leaves: Sequence[Any]) -> Any:
    """The leaves as one array with a leading axis."""
    if _is_key(leaves[0]):
        data = jax.device_put(np.stack([np.asarray(jax.random.key_data(leaf)) for leaf in leaves]))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaves[0]))
    return jax.device_put(np.stack([np.asarray(leaf) for leaf in leaves]))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# ---- compiled programs ----------------------------------------------------------------------------------------------------------


class _Compiled(NamedTuple):
    call: Any
    size: int  # rows
    same: dict[int, int]  # results that are arguments as they were given, a row each: numbers of both among the leaves

    def results(self, present: np.ndarray, leaves: Sequence[Any], pool: ThreadPoolExecutor | None) -> list[Any]:
        """Those of each part of the rows; side by side where there is a pool."""
        count = math.ceil(len(present) / self.size)
        filled = np.zeros(count * self.size, bool)
        filled[: len(present)] = present

        def made(number: int) -> Any:
            own = [leaf.parts[number] if isinstance(leaf, _Batch) else leaf for leaf in leaves]
            found = self.call(filled[number * self.size : (number + 1) * self.size], *own)
            return jax.block_until_ready(found) if pool else found

        return list((pool.map if pool else map)(made, range(count)))


def _made(
    called: program,
    structure: Any,
    axes: tuple[int | None, ...],
    static: dict[str, Any],
    leaves: list[Any],
    size: int,
    memory: float,
) -> _Compiled:
    """The program of `size` rows, or of fewer where it would take more than `memory` bytes, for leaves such as one run's."""
    avals = tuple(_aval(leaf) for leaf in leaves)
    key = (called, structure, axes, tuple(static.items()), avals, size, x64(), memory)

    def make() -> _Compiled:
        rows = size
        made, same = _compile(called, structure, axes, static, rows, leaves)
        while rows > 1 and _bytes(made) > memory:
            rows = math.ceil(rows / 2)
            made, same = _compile(called, structure, axes, static, rows, leaves)
        return _Compiled(made, rows, same)

    return kept(key, make)


def _compile(
    called: program,
    structure: Any,
    axes: tuple[int | None, ...],
    static: dict[str, Any],
    size: int,
    leaves: list[Any],
) -> tuple[Any, dict[int, int]]:
    """The program for `size` rows, and `_Compiled.same`."""
    where = jax.tree.unflatten(structure, axes)

    def many(present: Any, *leaves: Any) -> Any:
        args = jax.tree.unflatten(structure, leaves)
        if called.many is not None:
            return called.many(present, where, *args, **static)
        if all(axis is None for axis in axes):
            found = called.function(*args, **static)
            return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(present), *jnp.shape(leaf))), found)
        return jax.vmap(functools.partial(called.function, **static), in_axes=where)(*args)

    many.__name__ = f"{called.__name__}_of_{size}"
    shapes = [leaf if axis is None else _shape(leaf, size) for leaf, axis in zip(leaves, axes, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = jax.jit(many).trace(jax.ShapeDtypeStruct((size,), bool), *shapes)
        entries = {id(variable): number for number, variable in enumerate(traced.jaxpr.jaxpr.invars[1:])}
        exits = enumerate(traced.jaxpr.jaxpr.outvars)
        same = {number: entries[id(v)] for number, v in exits if id(v) in entries}
        return traced.lower().compile(), {out: given for out, given in same.items() if axes[given] == 0}


def _bytes(compiled: Any) -> float:
    """What a program takes, by the compiler's account; 0 where it gives none."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    return found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes


def _shape(leaf: Any, rows: int) -> Any:
    dtype = leaf.dtype if _is_key(leaf) else jax.dtypes.canonicalize_dtype(leaf.dtype)
    return jax.ShapeDtypeStruct((rows, *leaf.shape), dtype)
