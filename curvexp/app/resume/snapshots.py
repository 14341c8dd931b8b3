"""What a checkpoint keeps of a run, written and read back as the training takes it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curvexp.store import files

CHECKPOINT_FORM = 2  # of what a checkpoint holds; raised where a checkpoint made before could not be gone on from


class Kept(NamedTuple):
    """What a checkpoint gives back: the training's snapshot, arrays that the job kept, and its plain facts."""

    snapshot: Any
    arrays: dict[str, Any]
    facts: dict[str, Any]


def keep(run: Path, snapshot: Any, arrays: Mapping[str, Any], facts: Mapping[str, Any], *, most: int) -> None:
    """Writes a checkpoint of a training's snapshot.

    Args:
        arrays, facts: what the job keeps besides. most: checkpoints that stay.

    Raises:
        TypeError: the probe's state is of no kind that can be kept. OSError, ValueError: it could not be written.
    """
    import jax
    import numpy as np

    from curvexp.app import checkpoint

    state, blocks = snapshot.state, snapshot.losses[: snapshot.blocks]
    rest = {
        "opt_state": jax.tree.leaves(state.opt_state),
        "step": state.step,
        "loss": state.loss,
        "gradient": state.gradient,
        "order": jax.tree.leaves(state.order),
        "key": jax.random.key_data(state.key),
    }
    tree = {
        "params": state.params,
        "state": rest,
        "probe_state": snapshot.probe_state,
        "past": snapshot.past._asdict(),
        "losses": np.concatenate(blocks) if blocks else np.zeros(0),
        "kept": dict(arrays),
    }
    first, hyper = float(snapshot.first), {name: float(value) for name, value in snapshot.hyper.items()}
    reached = None if snapshot.reached is None else int(snapshot.reached)
    facts = {**facts, "hyper": hyper, "first": first, "reached": reached, "form": CHECKPOINT_FORM}
    checkpoint.save(run, int(state.step), tree, facts, params=state.params, keep=most)


def last(
    run: Path, problem: Any, optimizer: Any, *, batch_size: int | None, note: Callable[[str], None] = print
) -> Kept | None:
    """The last checkpoint that is whole and whose records are there, or None; those after it are removed, and that is said.

    Args:
        note: is told, in a sentence, of every checkpoint that cannot be used.
    """
    from curvexp.app import checkpoint

    for step in reversed(checkpoint.steps(run)):
        try:
            found = _restored(run, step, problem, optimizer, batch_size)
        except checkpoint.Damaged as error:
            note(f"the checkpoint of step {step} cannot be used, the one before it is taken: {error}")
            continue
        checkpoint.remove(run, after=step)
        return found
    checkpoint.remove(run)
    return None


def _restored(run: Path, step: int, problem: Any, optimizer: Any, batch_size: int | None) -> Kept:
    import jax
    import numpy as np

    from curvexp.app import checkpoint
    from curvexp.probe.ledger import Past
    from curvexp.record import Outcome
    from curvexp.training import Snapshot, State, template

    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    found = checkpoint.restore(run, step, params=shapes)
    try:
        facts, tree = found.facts, found.tree
        if facts.get("form") != CHECKPOINT_FORM:
            raise checkpoint.Damaged("another version of curvexp made it")
        for name in files.RECORDS:
            size = facts["sizes"].get(name, 0)
            if size and not _ends_a_line(run / name, size):
                raise checkpoint.Damaged(f"{name} lacks records that it counts on")
        hyper = {str(name): float(value) for name, value in facts["hyper"].items()}
        wanted = template(problem, optimizer._replace(hyper=hyper), batch_size=batch_size)
        rest = tree["state"]
        key = jax.random.wrap_key_data(rest["key"])
        state = State(
            tree["params"],
            _like(wanted.opt_state, rest["opt_state"]),
            rest["step"],
            rest["loss"],
            rest["gradient"],
            _like(wanted.order, rest["order"]),
            key,
        )
        forms = [(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(state)]
        if forms != [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(wanted)]:
            raise checkpoint.Damaged("its arrays are not those of this problem and optimizer")
        blocks = [np.asarray(tree["losses"], np.float64)] if len(tree["losses"]) else []
        first, reached = float(facts["first"]), facts["reached"]
        if facts.get("outcome") is not None:
            Outcome(**facts["outcome"])  # has its fields
        past = Past(**tree["past"])
        snapshot = Snapshot(state, hyper, tree["probe_state"], past, blocks, len(blocks), first, reached)
        return Kept(snapshot, tree["kept"], facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise checkpoint.Damaged(f"{type(error).__name__}: {error}") from error


def _like(shapes: Any, leaves: Sequence[Any]) -> Any:
    import jax

    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _ends_a_line(path: Path, size: int) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"
    except OSError:
        return False
