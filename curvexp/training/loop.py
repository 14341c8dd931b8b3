"""The training's device programs: a block makes a known number of steps, for one run or for several as rows of one program.

An accelerator waits for the host at every iteration of a loop of unknown length, and at every branch. So a block's records and their steps
are static, and fewer steps are made by a mask; the epochs' orders are drawn beforehand. The state carries loss and gradient at its own
parameters, so that a step costs one gradient. What the host reads of all records of a block comes back as one small array; their states
stay on the device.
"""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Int, PyTree, Shaped

from curvexp.linalg.precision import full_precision
from curvexp.programs import compiled
from curvexp.types import AnyArray, AnyCount, AnyReal, Init, OptState, Params, RandomKey, Scalar


class Kind(NamedTuple):
    """What a compiled training program is specialised to: its functions by identity, its sizes by value."""

    loss: Callable[[Params, PyTree], Scalar]
    update: Callable[..., Any]
    numbers: Callable[[OptState], dict[str, AnyReal]]
    evaluate: Callable[[Params, PyTree, PyTree], dict[str, Scalar]] | None
    examples: int | None
    batch_size: int | None
    matmul_precision: str

    @property
    def batches(self) -> int:
        """Minibatches of an epoch, which drops the examples that do not fill its last one."""
        assert self.examples is not None
        assert self.batch_size is not None
        return self.examples // self.batch_size

    def epochs(self, length: int) -> int:
        """Most epochs that so many steps in a row are part of."""
        return -(-(length - 1) // self.batches) + 1


class Carry(NamedTuple):
    """What a step makes of a step: the arrays of a training state."""

    params: Params
    opt_state: OptState
    step: AnyCount
    loss: AnyReal
    gradient: Params


Drawn: TypeAlias = Int[AnyArray, "epochs P"] | tuple[()]  # the orders of the examples; () without minibatches


class Seen(NamedTuple):
    """How to read what a record shows: the structure of its scalars, and for each the array, by dtype, and the column where it stands.

    Attributes:
        loss: array and column of the loss on all data. losses: those of the first of the losses after each step.
    """

    structure: PyTreeDef
    columns: tuple[tuple[str, int], ...]
    loss: tuple[str, int]
    losses: tuple[str, int]


def _in_its_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced with the kind's precision of matrix products."""

    @functools.wraps(function)
    def traced(*args: Any, kind: Kind, **static: Any) -> Any:
        with jax.default_matmul_precision(kind.matmul_precision):
            return function(*args, kind=kind, **static)

    return traced


@functools.partial(compiled, static=("init",))
@full_precision
def initial(key: RandomKey, *, init: Init) -> tuple[Any, ...]:
    """The parameters at the start; the keys of batch order, tuning and probes."""
    first, *others = jax.random.split(key, 4)
    return init(first), *others


@compiled
def run_keys(key: RandomKey) -> tuple[RandomKey, ...]:
    """The keys that `initial` gives, for a run that has its parameters."""
    return tuple(jax.random.split(key, 4)[1:])


@compiled
def folded(key: RandomKey, number: AnyCount) -> RandomKey:
    """The key of a reading at this step."""
    return jax.random.fold_in(key, number)


@functools.partial(compiled, static=("kind",))
@_in_its_precision
def begin(
    params: Params, opt_state: OptState, data: PyTree, test: PyTree, orders: Drawn, *, kind: Kind
) -> tuple[Carry, dict[str, Any]]:
    """The state before the first step, and what it shows."""
    loss, gradient = jax.value_and_grad(kind.loss)(params, _batch(data, orders, jnp.int32(0), jnp.int32(0), kind))
    carry = Carry(params, opt_state, jnp.int32(0), loss, gradient)
    return carry, look(carry, data, test, kind)


@functools.partial(compiled, static=("kind", "records", "length"))
@_in_its_precision
def advance(
    carry: Carry,
    data: PyTree,
    test: PyTree,
    orders: Drawn,
    first: AnyCount,
    until: AnyCount,
    *,
    kind: Kind,
    records: int,
    length: int,
) -> tuple[Carry, dict[str, Shaped[Array, "records m"]], dict[str, Shaped[Array, "records m"]]]:
    """A block: the state after records * length updates, or at step `until` where that comes first, and what the host reads of it.

    Beyond `until` the steps are made for nothing: parameters and optimizer stay, and loss and gradient are the same again. So a state
    within a block is had from the same program, and with the same bits. A run that is to stop goes on to the end of its block: the host
    finds it in the losses. To judge each loss on the device took a kernel a step, of the 20 of a small network.

    Args:
        orders: of the epochs from `first` on, see `draw_orders`; () without minibatches.
        records, length: how many times what a record shows is kept, and updates before each; static.

    Returns:
        the state; what `read` takes: for each record its scalars and the loss after each of its updates; the records' states, which
        `unpacked` takes, where there are several. Each as one array for each dtype, of which there mostly is one.
    """

    def step(carry: Carry, _: None) -> tuple[Carry, AnyReal]:
        carry = _step(carry, data, orders, first, until, kind)
        return carry, carry.loss

    ends: collections.Counter[str] = collections.Counter()

    def record(carry: Carry, _: None) -> tuple[Carry, dict[str, Shaped[Array, "m"]]]:
        carry, losses = jax.lax.scan(step, carry, length=length)
        shown = look(carry, data, test, kind), losses
        ends.update(_sizes(shown) - ends)  # known once this is traced
        return carry, _packed(shown, carry if records > 1 else ())

    carry, rows = jax.lax.scan(record, carry, length=records)
    return carry, {name: rows[name][:, :end] for name, end in ends.items()}, rows if records > 1 else {}


def advance_rows(kind: Kind, records: int, length: int, data_axes: PyTree, test_axes: PyTree) -> Callable[..., Any]:
    """`advance` for several runs that stand at one step: leaves of the data have a leading axis where their axes are 0."""
    one = functools.partial(advance.function, kind=kind, records=records, length=length)
    return jax.vmap(one, in_axes=(0, data_axes, test_axes, 0, None, 0))


@functools.partial(compiled, static=("examples", "count"))
def draw_orders(key: RandomKey, first: AnyCount, *, examples: int, count: int) -> Int[Array, "epochs P"]:
    """The orders of the examples in `count` epochs from `first` on; that of an epoch depends on its number alone."""

    def one(epoch: Int[Array, ""]) -> Int[Array, "P"]:
        return jax.random.permutation(jax.random.fold_in(key, epoch), examples)

    return jax.lax.map(one, first + jnp.arange(count))


def look(carry: Carry, data: PyTree, test: PyTree, kind: Kind) -> dict[str, Any]:
    """What a record shows of a state without its curvature, computed in the program that made the state."""
    return {
        "loss": kind.loss(carry.params, data) if kind.batch_size else carry.loss,
        "batch_loss": carry.loss,
        "grad_norm": optax.tree.norm(carry.gradient),
        "numbers": kind.numbers(carry.opt_state),
        "metrics": kind.evaluate(carry.params, data, test) if kind.evaluate else {},
    }


def seen_of(shown: PyTree) -> Seen:
    """How to read a block, from what `look` gives, arrays or shapes."""
    leaves, structure = jax.tree.flatten(shown)
    ends: collections.Counter[str] = collections.Counter()
    columns = []
    for leaf in leaves:
        name = str(jnp.result_type(leaf))
        columns.append((name, ends[name]))
        ends[name] += 1
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    name, _ = columns[numbers["batch_loss"]]
    return Seen(structure, tuple(columns), columns[numbers["loss"]], (name, ends[name]))


class Shown:
    """What blocks of several rows show, on the host, converted to Python's numbers at once.

    Attributes:
        loss: on all data at each record of each row. losses: after each step. Both in the run's precision.
    """

    def __init__(self, packed: dict[str, Shaped[np.ndarray, "rows records m"]], seen: Seen) -> None:
        """Args: packed: as `advance` gives it, with a leading axis of rows."""
        (name, place), (losses, first) = seen.loss, seen.losses
        self.seen = seen
        self.loss = packed[name][:, :, place]
        self.losses = packed[losses][:, :, first:].reshape(len(self.loss), -1)
        firsts = {name: 1 + max(place for kind, place in seen.columns if kind == name) for name, _ in seen.columns}
        self.lists = {name: _wide(packed[name][:, :, :end]).tolist() for name, end in firsts.items()}

    def of(self, row: int, record: int) -> dict[str, Any]:
        """The scalars of one record of one row, as `look` gives them."""
        lists = self.lists
        return jax.tree.unflatten(
            self.seen.structure, [lists[name][row][record][place] for name, place in self.seen.columns]
        )


def unpacked(shown: dict[str, PyTree], like: Carry) -> Callable[[dict[str, Shaped[np.ndarray, "m"]]], Carry]:
    """What makes a state of what `advance` keeps of one record, on the host: numpy arrays that are views.

    Args:
        shown: what the records of the block show, or its shapes. like: shapes of a state.
    """
    leaves, structure = jax.tree.flatten(like)
    ends = collections.Counter({name: array.shape[-1] for name, array in shown.items()})
    found = []
    for leaf in leaves:
        random = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        form = jax.eval_shape(jax.random.key_data, leaf) if random else leaf
        name = str(form.dtype)
        begin = ends[name]
        ends[name] += math.prod(form.shape)
        found.append((name, slice(begin, ends[name]), form.shape, leaf))

    def one(packed: dict[str, Shaped[np.ndarray, "m"]]) -> Carry:
        parts = [_like(packed[name][place].reshape(shape), leaf) for name, place, shape, leaf in found]
        return jax.tree.unflatten(structure, parts)

    return one


def _wide(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The array in a dtype that numpy has numbers of: bfloat16 and its like in float64."""
    return array if array.dtype.kind in "biuf" else array.astype(np.float64)


def _packed(*trees: PyTree) -> dict[str, Shaped[Array, "m"]]:
    """The leaves as one vector for each dtype, in their order."""
    found: dict[str, list[Array]] = {}
    for leaf in jax.tree.leaves(trees):
        array = _plain(leaf)
        found.setdefault(str(array.dtype), []).append(array.reshape(-1))
    return {name: jnp.concatenate(parts) for name, parts in found.items()}


def _sizes(*trees: PyTree) -> "collections.Counter[str]":
    """Numbers of the leaves, for each dtype."""
    found: collections.Counter[str] = collections.Counter()
    for leaf in map(_plain, jax.tree.leaves(trees)):
        found[str(leaf.dtype)] += leaf.size
    return found


def _plain(leaf: PyTree) -> Array:
    """An array, which a random key is none of."""
    leaf = jnp.asarray(leaf)
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _like(array: Shaped[np.ndarray, "..."], leaf: Array) -> Array | np.ndarray:
    """The array, as a random key where the leaf is one."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return array


def _step(carry: Carry, data: PyTree, orders: Drawn, first: AnyCount, until: AnyCount, kind: Kind) -> Carry:
    """The state after one update more, or the same one at step `until`."""
    updates, opt_state = kind.update(carry.gradient, carry.opt_state, carry.params)
    params = optax.apply_updates(carry.params, updates)
    # XLA fuses the choice with the update: it costs no kernel. Loss and gradient need none, of the same parameters they are the same
    params, opt_state = jax.tree.map(
        functools.partial(jnp.where, carry.step < until), (params, opt_state), (carry.params, carry.opt_state)
    )
    step = jnp.minimum(carry.step + 1, until)
    loss, gradient = jax.value_and_grad(kind.loss)(params, _batch(data, orders, step, first, kind))
    return Carry(params, opt_state, step, loss, gradient)


def _batch(data: PyTree, orders: Drawn, step: Int[Array, ""], first: AnyCount, kind: Kind) -> PyTree:
    """The examples of this step, in the orders of the epochs from `first` on."""
    if not kind.batch_size:
        return data
    assert not isinstance(orders, tuple)
    epoch, position = jnp.divmod(step, kind.batches)
    chosen = jax.lax.dynamic_slice(orders, (epoch - first, position * kind.batch_size), (1, kind.batch_size))[0]
    return jax.tree.map(lambda leaf: leaf[chosen], data)
