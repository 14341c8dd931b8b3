"""Checkpoints: all that a run goes on from, kept by Orbax in <run>/checkpoints/<step>, the last few of them.

A checkpoint holds the bytes of all arrays in one, and a JSON text that says what stands where, with a SHA-256 digest over both. Orbax
writes it beside and renames it when it is whole, so that a kill leaves those of before; `restore` gives the arrays back bit for bit, and
refuses what does not match its digest. Nothing is unpickled and no class is named: trees of dicts, lists, tuples and of the parameters'
own structure are all there is. Orbax loads when the first checkpoint is written or read.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp import memory
from curvexp.store import files

FOLDER = files.CHECKPOINTS
FORMAT = 1
LARGEST_TEXT = 2**28  # bytes of the JSON text that are still read


class Damaged(Exception):
    """A checkpoint that cannot be read, or is not what was written; the message says why."""


class Checkpoint(NamedTuple):
    """What was kept.

    Attributes:
        step: of the training. tree: as it was given to `save`, its arrays numpy's. facts: what else was kept, plain JSON.
    """

    step: int
    tree: dict[str, Any]
    facts: dict[str, Any]


def save(
    run: Path, step: int, tree: Mapping[str, Any], facts: Mapping[str, Any], *, params: Any, keep: int = 2
) -> Path:
    """Writes a checkpoint; on return it survives the death of this process, and those older than the last `keep` are gone.

    Args:
        run: the run's folder. step: above that of every checkpoint there.
        tree: pytrees by name, of arrays and numbers. facts: what JSON can hold.
        params: whose structure parts of the tree may share; it is named so and not written out.

    Raises:
        TypeError: a part of the tree that is no dict, list, tuple or like params. OSError, ValueError: it could not be written.
    """
    arrays: dict[str, np.ndarray] = {}
    like = jax.tree.structure(params)
    layout = {name: _encoded(part, name, like, arrays) for name, part in tree.items()}
    forms = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({"format": FORMAT, "step": step, "layout": layout, "forms": forms, "facts": dict(facts)})
    data = np.frombuffer(b"".join(array.tobytes() for array in arrays.values()) + b"\n", np.uint8)  # none may be empty
    ocp = _orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False, create=True)
    with ocp.CheckpointManager((run / FOLDER).absolute(), options=options) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave({"data": data}),
                facts=ocp.args.JsonSave({"text": text, "digest": _digest(text, data)}),
            ),
            force=True,
        )
    return run / FOLDER / str(step)


def steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, ascending; no link is followed."""
    folder = run / FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(r"\d{1,12}", path.name)]
    return sorted(int(path.name) for path in found if path.is_dir() and not path.is_symlink())


def restore(run: Path, step: int, *, params: Any) -> Checkpoint:
    """The checkpoint of a step, whole.

    Args:
        params: of the same structure as at `save`; arrays or shapes.

    Raises:
        Damaged: it cannot be read, was changed, or is that of another model.
    """
    path = run / FOLDER / str(step)
    try:
        for folder, folders, files in os.walk(path):
            for part in (Path(folder, name) for name in (*folders, *files)):
                if part.is_symlink() or not (part.is_file() or part.is_dir()):
                    raise Damaged(f"{part.relative_to(run)} is no plain file")
        held = path / "facts" / "metadata"
        if held.stat().st_size > LARGEST_TEXT:
            raise Damaged(f"{held.relative_to(run)} has {held.stat().st_size} bytes; at most {LARGEST_TEXT} are read")
        stored = json.loads(held.read_bytes())
        text, digest = stored["text"], stored["digest"]
        found = json.loads(text)
        data = _read(path / "arrays", size=_size(found["forms"]))
        if _digest(text, data) != digest:
            raise Damaged("its contents do not match their digest")
        if found["format"] != FORMAT or found["step"] != step:
            raise Damaged(f"format {found['format']} of step {found['step']}; expected format {FORMAT} of step {step}")
        arrays, like = _parted(data, found["forms"]), jax.tree.structure(params)
        return Checkpoint(
            step, {n: _decoded(p, like, arrays) for n, p in found["layout"].items()}, dict(found["facts"])
        )
    except Damaged:
        raise
    except Exception as error:  # of JSON, Orbax, TensorStore: whatever a damaged file leads to
        raise Damaged(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}") from error


def remove(run: Path, *, after: int = -1) -> None:
    """Removes the checkpoints of later steps than this."""
    for step in steps(run):
        if step > after:
            shutil.rmtree(run / FOLDER / str(step))


# ---- trees ----------------------------------------------------------------------------------------------------------------------


def _encoded(tree: Any, name: str, like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree as JSON, with the names of its arrays, which are added to `arrays`."""
    if tree is None:
        return None
    if isinstance(tree, jax.Array | np.ndarray | np.generic):  # first: numpy's float64 is a float too
        return {"array": _kept(tree, name, arrays)}
    if isinstance(tree, bool | int | float | str):
        return {"value": tree}
    if jax.tree.structure(tree) == like:
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {"params": [_kept(leaf, name + jax.tree_util.keystr(path), arrays) for path, leaf in found]}
    if isinstance(tree, Mapping) and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _encoded(part, f"{name}.{key}", like, arrays) for key, part in tree.items()}}
    if type(tree) in (list, tuple):
        kind = "list" if type(tree) is list else "tuple"
        return {kind: [_encoded(part, f"{name}.{number}", like, arrays) for number, part in enumerate(tree)]}
    raise TypeError(
        f"{name}: a {type(tree).__name__} cannot be kept in a checkpoint; expected arrays in dicts, lists and tuples"
    )


def _kept(leaf: Any, name: str, arrays: dict[str, np.ndarray]) -> str:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name}: a random key; expected its jax.random.key_data")
    unique = f"{len(arrays):04d}." + re.sub(r"[^\w]+", "_", name).strip("_")[:120]
    arrays[unique] = np.asarray(leaf)
    return unique


def _decoded(layout: Any, like: Any, arrays: dict[str, np.ndarray]) -> Any:
    if layout is None:
        return None
    ((kind, held),) = layout.items()
    if kind == "value":
        return held
    if kind == "array":
        return arrays[held]
    if kind == "params":
        if like.num_leaves != len(held):
            raise Damaged(f"{len(held)} arrays of parameters; the model has {like.num_leaves}")
        return jax.tree.unflatten(like, [arrays[name] for name in held])
    if kind == "dict":
        return {key: _decoded(part, like, arrays) for key, part in held.items()}
    parts = [_decoded(part, like, arrays) for part in held]
    return parts if kind == "list" else tuple(parts)


def _digest(text: str, data: np.ndarray) -> str:
    found = hashlib.sha256(text.encode())
    found.update(data.data)
    return found.hexdigest()


def _parted(data: np.ndarray, forms: list[Any]) -> dict[str, np.ndarray]:
    """The arrays of these names, dtypes and shapes whose bytes stand one after the other."""
    found, begin = {}, 0
    for name, kind, shape in forms:
        dtype = jnp.dtype(kind)  # knows bfloat16 and the float8s too
        end = begin + dtype.itemsize * math.prod(shape)
        found[name] = data[begin:end].copy().view(dtype).reshape(shape)
        begin = end
    return found


def _size(forms: list[Any]) -> int:
    """Bytes of the arrays of these forms, and the one at their end."""
    return 1 + sum(jnp.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in forms)


def _read(path: Path, *, size: int | None = None) -> np.ndarray:
    """The bytes; of `size` where it is given, which then must be there and be free."""
    ocp = _orbax()
    wanted = {"data": ocp.RestoreArgs(restore_type=np.ndarray)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        if size is not None:
            shape = reader.metadata(path.absolute()).item_metadata.tree["data"].shape
            if tuple(shape) != (size,) or size > memory.host():
                raise Damaged(f"its data have the shape {tuple(shape)}; expected {size} bytes, and memory for them")
        found = reader.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=wanted))["data"]
    if found.dtype != np.uint8 or found.ndim != 1:
        raise Damaged(f"its data are {found.dtype}{list(found.shape)}; expected bytes")
    return np.asarray(found)


def _orbax() -> Any:
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # a dozen lines for each checkpoint; of a damaged one its contents
    import orbax.checkpoint

    return orbax.checkpoint
