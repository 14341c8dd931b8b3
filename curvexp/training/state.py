"""The state of a training at a record, and what a run goes on from."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int, PyTree, Shaped

from curvexp.linalg.lapack import fetch
from curvexp.probe import ledger
from curvexp.training.loop import Carry, Drawn, unpacked
from curvexp.types import AnyArray, AnyCount, AnyReal, OptState, Params, RandomKey

SMALL = 2**20  # bytes of the states of a block, up to which a copy of all takes no longer than a call


Order: TypeAlias = Int[AnyArray, "P"] | tuple[()]  # of an epoch; () without minibatches


class State(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
        step: updates made.
        loss, gradient: at params, on this step's batch (on all data where there are no minibatches).
        order: this epoch's permutation of the examples. key: of the permutations.
    """

    params: Params
    opt_state: OptState
    step: AnyCount
    loss: AnyReal
    gradient: Params
    order: Order
    key: RandomKey


def state_of(carry: Carry, order: Order, key: RandomKey) -> State:
    """The state of a run whose steps make this of each other, with the order of its epoch and the key of the orders."""
    return State(carry.params, carry.opt_state, carry.step, carry.loss, carry.gradient, order, key)


class Held:
    """A state of several runs, each array with a leading axis of rows. An attribute comes to the host for all rows at once, when it is
    first asked for."""

    def __init__(self, stacked: PyTree) -> None:
        self.stacked = stacked
        self.fetched: dict[str, PyTree] = {}

    def part(self, name: str, at: tuple[int, ...]) -> PyTree:
        """An attribute of the state of one row: numpy arrays, which on a CPU are views."""
        if name not in self.fetched:
            self.fetched[name] = jax.tree.map(_on_host, getattr(self.stacked, name))
        return jax.tree.map(lambda leaf: leaf[at], self.fetched[name])


class Records:
    """The states of a block's records, on the device until one is asked for. Small ones then come to the host together."""

    def __init__(self, packed: dict[str, Shaped[AnyArray, "..."]], shown: dict[str, PyTree], like: Carry) -> None:
        self.packed, self.one = packed, functools.cache(lambda: unpacked(shown, like))
        self.together = jax.default_backend() == "cpu" or sum(array.nbytes for array in packed.values()) <= SMALL

    def part(self, name: str, at: tuple[int, ...]) -> PyTree:
        """An attribute of one of the states: numpy arrays, which on a CPU are views."""
        if self.together:
            self.packed = fetch(self.packed)
        return getattr(self.one()({kind: np.asarray(array[at]) for kind, array in self.packed.items()}), name)


class Orders(NamedTuple):
    """The orders of the examples in the epochs of a block, of each row where there are several; () without minibatches.

    Attributes:
        first: the number of the first epoch. batches: of an epoch, 0 without minibatches.
    """

    drawn: Drawn
    first: int
    batches: int

    def at(self, step: int, row: int | None) -> Order:
        """The order of the epoch of a step."""
        if not self.batches:
            return ()
        assert not isinstance(self.drawn, tuple)
        epoch = step // self.batches - self.first
        return self.drawn[epoch] if row is None else np.asarray(self.drawn[row, epoch])


class LateState:
    """A state with the attributes of `State`, which are read from the device when they are asked for."""

    def __init__(
        self, held: Held | Records, at: tuple[int, ...], step: int, orders: Orders, row: int | None, key: RandomKey
    ) -> None:
        self.held, self.at, self.step, self.orders, self.row, self.key = held, at, np.int32(step), orders, row, key

    def __getattr__(self, name: str) -> Any:
        if name in ("params", "opt_state", "loss", "gradient"):
            return self.held.part(name, self.at)
        if name == "order":
            return self.orders.at(int(self.step), self.row)
        raise AttributeError(f"a training state has no attribute {name!r}")


class Snapshot(NamedTuple):
    """What a run goes on from after a record, as if it had never stopped; arrays are not copied.

    Attributes:
        state: the training's. hyper: the optimizer's numbers, `auto` resolved.
        probe_state, read: what the next reading starts from, as the last reading left it. since: adds to `read` the record after that
            reading, where the next one looks back at it; else None.
        losses, blocks: of the list of losses after each step, in float64 blocks, the first so many are this snapshot's; empty where no rate
            will be fitted to them. The list is the run's own, and grows.
        first: loss at the start. reached: steps to the target, or None.
    """

    state: "State | LateState"
    hyper: dict[str, float]
    probe_state: PyTree
    read: ledger.Past
    losses: list[Float64[np.ndarray, "steps"]]
    blocks: int
    first: float
    reached: int | None
    since: Callable[[ledger.Past], ledger.Past] | None = None

    @property
    def past(self) -> ledger.Past:
        """What the next reading looks back at."""
        return self.since(self.read) if self.since else self.read


def _on_host(leaf: AnyArray) -> AnyArray:
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
