"""The training's device programs: a block makes a known number of steps, for one run or for several as rows of one program.

An accelerator waits for the host at every iteration of a loop of unknown length, and at every branch. So a block's length is static, and a
run that stops within it is frozen by a mask; the epochs' orders are drawn beforehand. The state carries loss and gradient at its own
parameters, so that a step costs one gradient. What the host reads of a block comes back as one small array.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curvexp.linalg.precision import full_precision
from curvexp.programs import compiled
from curvexp.training.ending import Stop, crossings


class Kind(NamedTuple):
    """What a compiled training program is specialised to: its functions by identity, its sizes by value."""

    loss: Callable[[Any, Any], Any]
    update: Callable[..., Any]
    numbers: Callable[[Any], dict[str, Any]]
    evaluate: Callable[[Any, Any, Any], dict[str, Any]] | None
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

    params: Any
    opt_state: Any
    step: Any
    loss: Any
    gradient: Any


class Seen(NamedTuple):
    """How to read what a block shows of its last state: the structure of its scalars and the dtype of each."""

    structure: Any
    dtypes: tuple[str, ...]


def _in_its_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced with the kind's precision of matrix products."""

    @functools.wraps(function)
    def traced(*args: Any, kind: Kind, **static: Any) -> Any:
        with jax.default_matmul_precision(kind.matmul_precision):
            return function(*args, kind=kind, **static)

    return traced


@functools.partial(compiled, static=("init",))
@full_precision
def initial(key: Any, *, init: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The parameters at the start; the keys of batch order, tuning and probes."""
    first, *others = jax.random.split(key, 4)
    return init(first), *others


@compiled
def run_keys(key: Any) -> tuple[Any, ...]:
    """The keys that `initial` gives, for a run that has its parameters."""
    return tuple(jax.random.split(key, 4)[1:])


@compiled
def folded(key: Any, number: Any) -> Any:
    """The key of a reading at this step."""
    return jax.random.fold_in(key, number)


@functools.partial(compiled, static=("kind",))
@_in_its_precision
def begin(params: Any, opt_state: Any, data: Any, test: Any, orders: Any, *, kind: Kind) -> tuple[Carry, Any]:
    """The state before the first step, and what it shows."""
    loss, gradient = jax.value_and_grad(kind.loss)(params, _batch(data, orders, jnp.int32(0), jnp.int32(0), kind))
    carry = Carry(params, opt_state, jnp.int32(0), loss, gradient)
    return carry, look(carry, data, test, kind)


@functools.partial(compiled, static=("kind", "length"))
@_in_its_precision
def advance(
    carry: Carry,
    data: Any,
    test: Any,
    orders: Any,
    stop: Stop,
    alive: Any,
    begun: Any,
    steps: Any,
    *,
    kind: Kind,
    length: int,
) -> tuple[Carry, dict[str, Any]]:
    """A block: the state after `steps` <= length updates, fewer where the loss stops the run, and what the host reads of it.

    Args:
        orders: of the epochs from that of step begun + 1 on, see `draw_orders`; () without minibatches.
        stop: the losses that stop the run. alive: whether it goes on at all, (). begun: steps made before, int32.
        length: of the loop, static.

    Returns:
        the state; what `read` takes: the state's scalars and the loss after each of `length` steps.
    """
    first = (begun + 1) // kind.batches if kind.batch_size else jnp.int32(0)

    def step(now: tuple[Carry, Any], number: Any) -> tuple[tuple[Carry, Any], Any]:
        carry, alive = now
        after = _step(carry, data, orders, number, first, kind)
        carry = jax.tree.map(lambda new, old: jnp.where(alive, new, old), after, carry)
        stopped = functools.reduce(jnp.logical_or, crossings(carry.loss, stop, xp=jnp))
        return (carry, alive & ~stopped & (number < begun + steps)), carry.loss

    (carry, _), losses = jax.lax.scan(
        step, (carry, alive & (steps > 0)), begun + 1 + jnp.arange(length, dtype=jnp.int32)
    )
    return carry, _packed(look(carry, data, test, kind), losses)


def advance_rows(kind: Kind, length: int, data_axes: Any, test_axes: Any) -> Callable[..., Any]:
    """`advance` for several runs that stand at one step: leaves of the data have a leading axis where their axes are 0."""
    one = functools.partial(advance.function, kind=kind, length=length)
    return jax.vmap(one, in_axes=(0, data_axes, test_axes, 0, 0, 0, None, None))


@functools.partial(compiled, static=("examples", "count"))
def draw_orders(key: Any, first: Any, *, examples: int, count: int) -> Any:
    """The orders of the examples in `count` epochs from `first` on, (count, examples); that of an epoch depends on its number alone."""

    def one(epoch: Any) -> Any:
        return jax.random.permutation(jax.random.fold_in(key, epoch), examples)

    return jax.lax.map(one, first + jnp.arange(count))


def look(carry: Carry, data: Any, test: Any, kind: Kind) -> dict[str, Any]:
    """What a record shows of a state without its curvature, computed in the program that made the state."""
    return {
        "loss": kind.loss(carry.params, data) if kind.batch_size else carry.loss,
        "batch_loss": carry.loss,
        "grad_norm": optax.tree.norm(carry.gradient),
        "numbers": kind.numbers(carry.opt_state),
        "metrics": kind.evaluate(carry.params, data, test) if kind.evaluate else {},
    }


def seen_of(shown: Any) -> Seen:
    """How to read a block, from what `look` gives, arrays or shapes."""
    leaves, structure = jax.tree.flatten(shown)
    return Seen(structure, tuple(str(jnp.result_type(leaf)) for leaf in leaves))


def read(packed: dict[str, np.ndarray], seen: Seen, loss_dtype: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """What blocks of several rows show: the scalars of each row's last state, and the losses after each step, (rows, length).

    Args:
        packed: as `advance` gives it, with a leading axis of rows.
    """
    places = {name: 0 for name in packed}
    columns = []
    for name in seen.dtypes:
        columns.append((name, places[name]))
        places[name] += 1
    lists = {name: _wide(array[:, : places[name]]).tolist() for name, array in packed.items()}
    rows = range(len(packed[loss_dtype]))
    shown = [jax.tree.unflatten(seen.structure, [lists[name][row][place] for name, place in columns]) for row in rows]
    return shown, packed[loss_dtype][:, places[loss_dtype] :]


def _wide(array: np.ndarray) -> np.ndarray:
    """The array in a dtype that numpy has numbers of: bfloat16 and its like in float64."""
    return array if array.dtype.kind in "biuf" else array.astype(np.float64)


def _packed(shown: Any, losses: Any) -> dict[str, Any]:
    """Scalars and losses as one vector for each dtype, of which there mostly is one."""
    found: dict[str, list[Any]] = {}
    for leaf in jax.tree.leaves(shown):
        array = jnp.asarray(leaf)
        found.setdefault(str(array.dtype), []).append(array.reshape(1))
    found.setdefault(str(losses.dtype), []).append(losses)
    return {name: jnp.concatenate(parts) for name, parts in found.items()}


def _step(carry: Carry, data: Any, orders: Any, number: Any, first: Any, kind: Kind) -> Carry:
    """The state after update `number`."""
    updates, opt_state = kind.update(carry.gradient, carry.opt_state, carry.params)
    params = optax.apply_updates(carry.params, updates)
    loss, gradient = jax.value_and_grad(kind.loss)(params, _batch(data, orders, number, first, kind))
    return Carry(params, opt_state, number, loss, gradient)


def _batch(data: Any, orders: Any, step: Any, first: Any, kind: Kind) -> Any:
    """The examples of this step, in the orders of the epochs from `first` on."""
    if not kind.batch_size:
        return data
    epoch, position = jnp.divmod(step, kind.batches)
    chosen = jax.lax.dynamic_slice(orders, (epoch - first, position * kind.batch_size), (1, kind.batch_size))[0]
    return jax.tree.map(lambda leaf: leaf[chosen], data)


# ---- how long a block is ----------------------------------------------------------------------------------------------------------

MOST_LENGTHS = 4  # programs of one training
WASTE = 0.1  # of the steps that a block may make for nothing before a shorter program is compiled
GAPS = 256  # between records that are looked at for it


def block_lengths(record_every: int, probe_every: int | None, *, most: int) -> tuple[int, ...]:
    """Lengths of the blocks that a training is compiled for, ascending; a stretch between records goes with the next longer one.

    They do not depend on the steps of the run, unless these are fewer than the longest: a run that goes on meets the same programs.

    Args:
        record_every, probe_every: steps between records, and between readings, which have one too. most: no longer than this.

    >>> block_lengths(10, 100, most=1000), block_lengths(10, 97, most=1000), block_lengths(5, 7, most=1000)
    ((10,), (10,), (1, 2, 3, 5))
    """
    probe_every = probe_every or record_every
    longest = min(record_every, probe_every, most)
    done = 0
    gaps: list[int] = []
    while len(gaps) < GAPS:
        until = next_record(done, record_every, probe_every)
        gaps.append(min(until - done, longest))
        done = until
        if done % record_every == done % probe_every == 0:
            break

    def waste(lengths: Sequence[int]) -> int:
        return sum(min(length for length in lengths if length >= gap) - gap for gap in gaps)

    found: tuple[int, ...] = (longest,)
    while len(found) < MOST_LENGTHS and waste(found) > WASTE * sum(gaps):
        found = min((tuple(sorted({*found, gap})) for gap in set(gaps) - set(found)), key=waste)
    return found


def next_record(done: int, *every: int) -> int:
    """The next step that is a multiple of one of these."""
    return min((done // number + 1) * number for number in every)
