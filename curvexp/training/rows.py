"""Runs of equal structure as rows of one program: what they share is held once, the rest is stacked.

On a CPU the cores share the rows, each with a program of some of them: XLA's loops and small products have one core each. So do parts of
rows that would not fit the memory together, one after the other.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from curvexp.linalg.lapack import thread_settings, x64
from curvexp.linalg.layout import devices_of
from curvexp.programs import kept
from curvexp.training.loop import Carry, Kind, advance, advance_rows, draw_orders
from curvexp.training.pace import Span
from curvexp.training.state import Held, LateState, Orders, Records, State, state_of
from curvexp.types import AnyArray, RandomKey

LEAST_ROWS = 4  # of a program that a core has for itself: fewer are not worth its call


class Start(NamedTuple):
    """What a block of one run is made of. key: of the epochs' orders."""

    carry: Carry
    data: PyTree
    test: PyTree
    key: RandomKey


class Block:
    """A block of one part of the runs, under way or made.

    Attributes:
        carry: the state at its end. shown, states: of its records, see `advance`.
    """

    def __init__(
        self, part: "Part", span: Span, before: Carry, orders: Orders, found: tuple[Carry, PyTree, PyTree]
    ) -> None:
        self.part, self.span, self.before, self.orders = part, span, before, orders
        self.carry, self.shown, self.states = found
        self.held: Held | None = None
        self.records: Records | None = None

    def state(self, row: int, record: int, step: int) -> State | LateState:
        """The state of a run of the part at a record, at which it stands after so many steps in all."""
        part, key = self.part, self.part.keys[row]
        alone = part.axes is None
        place = None if alone else row
        if record < len(self.span.ends) - 1:
            self.records = self.records or Records(self.states, self.shown, part.like)
            at = (record,) if alone else (row, record)
            return LateState(self.records, at, step, self.orders, place, key)
        if alone:
            return state_of(self.carry, self.orders.at(step, None), key)
        self.held = self.held or Held(self.carry)
        return LateState(self.held, (row,), step, self.orders, place, key)

    def again(self, kind: Kind, until: dict[int, int]) -> "Block":
        """The same block with the step at which it ends for some of the rows, within it."""
        steps = [until.get(row, self.span.until) for row in range(self.part.size)]
        return self.part.made(kind, self.span, self.before, self.orders, np.array(steps, np.int32))


class Axes(NamedTuple):
    """Which leaves of the data, and of the test data, have a row for each run: 0, else None."""

    data: tuple[int | None, ...]
    test: tuple[int | None, ...]


class Part:
    """Some of the runs: one as it is, or several whose arrays have a leading axis.

    Attributes:
        numbers: of the runs. axes: of several, else None. size: rows; those beyond `numbers` are nobody's.
        like: shapes of one run's state.
    """

    def __init__(self, numbers: Sequence[int], starts: Sequence[Start], axes: Axes | None, size: int) -> None:
        self.numbers, self.axes, self.size = numbers, axes, size
        full = [*starts, *[starts[0]] * (size - len(starts))]
        self.keys = [start.key for start in full]
        if axes is None:
            self.carry, self.data, self.test, _ = starts[0]
        else:
            self.carry = _stacked([start.carry for start in full])
            self.data = _with_axes([start.data for start in full], axes.data)
            self.test = _with_axes([start.test for start in full], axes.test)
        self.like = jax.eval_shape(lambda carry: carry, starts[0].carry)
        self._orders: tuple[Any, Any] = (None, ())

    def orders(self, kind: Kind, begun: int, length: int) -> Orders:
        """The orders of the epochs of a block of this length."""
        if not kind.batch_size:
            return Orders((), 0, 0)
        first, count = (begun + 1) // kind.batches, kind.epochs(length)
        if self._orders[0] != (first, count):
            options = {"examples": kind.examples, "count": count}
            drawn = [draw_orders(key, np.int32(first), **options) for key in self.keys]
            self._orders = (first, count), drawn[0] if self.axes is None else _stack(drawn)
        return Orders(self._orders[1], first, kind.batches)

    def arguments(self, carry: Carry, orders: Orders, until: Int[np.ndarray, "rows"]) -> tuple[Any, ...]:
        """Of a block's program. until: the step at which each row's block ends."""
        steps = until[0] if self.axes is None else until
        return carry, self.data, self.test, orders.drawn, np.int32(orders.first), steps

    def advance(self, kind: Kind, span: Span) -> Block:
        """A block; what it makes is not yet the part's own."""
        orders = self.orders(kind, span.begun, span.records * span.length)
        return self.made(kind, span, self.carry, orders, np.full(self.size, span.until, np.int32))

    def made(self, kind: Kind, span: Span, carry: Carry, orders: Orders, until: Int[np.ndarray, "rows"]) -> Block:
        """A block from this state on."""
        arguments = self.arguments(carry, orders, until)
        if self.axes is None:
            found = advance(*arguments, kind=kind, records=span.records, length=span.length)
        else:
            found = _program(kind, span.records, span.length, self.axes, arguments)(*arguments)
        return Block(self, span, carry, orders, found)


Launched = tuple[Part, Callable[[], Block]]  # a part, and a call that waits for its block


class Parts:
    """All runs, in parts.

    Attributes:
        alone: why the runs go one by one, where vmap has no rule for one of their functions; else None.
    """

    def __init__(
        self,
        starts: Sequence[Start],
        kind: Kind,
        *,
        records: int,
        length: int,
        pool: Executor,
        memory: float,
        begun: int,
    ) -> None:
        """Args: records, length: of the longest block that is to fit the memory."""
        self.kind, self.records, self.length = kind, records, length
        self.alone: str | None = None
        self.pool: Executor | None = None
        self.parts = [Part([number], [start], None, 1) for number, start in enumerate(starts)]
        if len(starts) == 1:
            return
        cores = side_by_side(len(starts), starts[0].data)
        try:
            axes = _axes(starts)
            size = self._size(starts, axes, math.ceil(len(starts) / cores), memory / cores, begun)
        except Exception as error:  # vmap has no rule for a function of the problem or the optimizer
            self.alone = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            return
        if size > 1:
            chosen = [range(first, min(first + size, len(starts))) for first in range(0, len(starts), size)]
            self.parts = [Part(rows, [starts[row] for row in rows], axes, size) for rows in chosen]
            self.pool = pool if cores > 1 else None

    def _size(self, starts: Sequence[Start], axes: Axes, size: int, memory: float, begun: int) -> int:
        """Rows of a part: `size`, halved until the program fits the memory, by the compiler's own account."""
        while size > 1:
            part = Part(range(size), starts[:size], axes, size)
            orders = part.orders(self.kind, begun, self.records * self.length)
            arguments = part.arguments(part.carry, orders, np.ones(size, np.int32))
            if _bytes(_program(self.kind, self.records, self.length, axes, arguments)) <= memory:
                break
            size = math.ceil(size / 2)
        return size

    def launch(self, span: Span, alive: Sequence[bool]) -> "list[Launched]":
        """Starts a block of every part that has a run alive."""
        going = [part for part in self.parts if any(alive[number] for number in part.numbers)]

        def made(part: Part) -> Block:
            return part.advance(self.kind, span)

        if self.pool is None:
            return [(part, _held(made, part)) for part in going]
        here = thread_settings()

        def waited_for(part: Part) -> Block:
            with here():
                return jax.block_until_ready(made(part))

        return [(part, self.pool.submit(waited_for, part).result) for part in going]


def _held(made: Callable[[Part], Block], part: Part) -> Callable[[], Block]:
    """A block that the device is asked for now; what is raised is raised where the block is waited for."""
    try:
        block = made(part)
    except Exception as error:
        failure = error

        def fail() -> Block:
            raise failure

        return fail
    return lambda: block


def cores() -> int:
    """Of the host, as far as this process may use them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(rows: int, data: PyTree) -> int:
    """How many programs go side by side, each with some of the rows: one on an accelerator, and where what they share lies on several
    devices, whose programs would wait for each other."""
    apart = devices_of(data) > 1
    return 1 if apart or jax.default_backend() != "cpu" else max(1, min(cores(), rows // LEAST_ROWS))


# ---- stacking ---------------------------------------------------------------------------------------------------------------------


def _axes(starts: Sequence[Start]) -> Axes:
    return Axes(*(_differing([getattr(start, name) for start in starts]) for name in ("data", "test")))


def _differing(trees: Sequence[PyTree]) -> tuple[int | None, ...]:
    """0 for each leaf that is not the same array, or an equal one, in all trees."""
    return tuple(None if _all_equal(leaves) else 0 for leaves in zip(*map(jax.tree.leaves, trees), strict=True))


def _all_equal(leaves: Sequence[AnyArray]) -> bool:
    first = leaves[0]
    others = [leaf for leaf in leaves[1:] if leaf is not first]
    return all(_plain(leaf) and np.array_equal(np.asarray(leaf), np.asarray(first)) for leaf in others)


def _with_axes(trees: Sequence[PyTree], axes: tuple[int | None, ...]) -> PyTree:
    columns = zip(*map(jax.tree.leaves, trees), axes, strict=True)
    found = [column[0] if axis is None else _stack(column) for *column, axis in columns]
    return jax.tree.unflatten(jax.tree.structure(trees[0]), found)


def _stacked(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: _stack(leaves), *trees)


def _stack(leaves: Sequence[AnyArray]) -> Array:
    """The leaves as one array with a leading axis; by numpy where they lie in the host's memory: JAX would compile for it."""
    if all(map(_plain, leaves)) and jax.default_backend() == "cpu":
        return jax.device_put(np.stack([np.asarray(leaf) for leaf in leaves]))
    return jnp.stack(leaves)


def _plain(leaf: AnyArray) -> bool:
    """Whether numpy can hold it: no random key."""
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# ---- programs ---------------------------------------------------------------------------------------------------------------------


def _program(kind: Kind, records: int, length: int, axes: Axes, arguments: tuple[Any, ...]) -> jax.stages.Compiled:
    """The compiled block of several runs, for arguments of these shapes."""
    leaves, structure = jax.tree.flatten(arguments)
    key = ("rows", kind, records, length, axes, structure, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]), x64())

    def make() -> jax.stages.Compiled:
        trees = (
            jax.tree.unflatten(jax.tree.structure(tree), wanted)
            for tree, wanted in ((arguments[1], axes.data), (arguments[2], axes.test))
        )
        return jax.jit(advance_rows(kind, records, length, *trees)).lower(*arguments).compile()

    return kept(key, make)


def _bytes(compiled: jax.stages.Compiled) -> float:
    """What a program takes, by the compiler's account; 0 where it gives none."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    return float(found.temp_size_in_bytes + found.output_size_in_bytes + found.argument_size_in_bytes)
