"""The state of a training at a record, and what a run goes on from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.probe import ledger


class State(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
        params: pytree. opt_state: optax's. step: updates made, int32.
        loss, gradient: at params, on this step's batch (on all data where there are no minibatches).
        order: this epoch's permutation of the examples, (P,), or (). key: of the permutations.
    """

    params: Any
    opt_state: Any
    step: Any
    loss: Any
    gradient: Any
    order: Any
    key: Any


def state_of(carry: Any, order: Any, key: Any) -> State:
    """The state of a run whose steps make this of each other, with the order of its epoch and the key of the orders."""
    return State(carry.params, carry.opt_state, carry.step, carry.loss, carry.gradient, order, key)


class Held:
    """A state of several runs, each array with a leading axis of rows. An attribute comes to the host for all rows at once, when it is
    first asked for."""

    def __init__(self, stacked: Any, orders: Any, epoch: int) -> None:
        self.stacked, self.orders, self.epoch = stacked, orders, epoch
        self.fetched: dict[str, Any] = {}

    def row(self, name: str, row: int) -> Any:
        """An attribute of the state of one row: numpy arrays, which on a CPU are views."""
        if name not in self.fetched:
            self.fetched[name] = jax.tree.map(_on_host, getattr(self.stacked, name))
        return jax.tree.map(lambda leaf: leaf[row], self.fetched[name])

    def order(self, row: int) -> Any:
        """The order of the examples in the epoch of the state."""
        return () if isinstance(self.orders, tuple) else np.asarray(self.orders[row, self.epoch])


class RowState:
    """The state of one row of several, with the attributes of `State`, which are read from the device when they are asked for."""

    def __init__(self, held: Held, row: int, key: Any, step: int) -> None:
        self.held, self.row, self.step, self.key = held, row, np.int32(step), key

    def __getattr__(self, name: str) -> Any:
        if name in ("params", "opt_state", "loss", "gradient"):
            return self.held.row(name, self.row)
        if name == "order":
            return self.held.order(self.row)
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

    state: Any
    hyper: dict[str, float]
    probe_state: Any
    read: ledger.Past
    losses: list[np.ndarray]
    blocks: int
    first: float
    reached: int | None
    since: Callable[[ledger.Past], ledger.Past] | None = None

    @property
    def past(self) -> ledger.Past:
        """What the next reading looks back at."""
        return self.since(self.read) if self.since else self.read


def _on_host(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
