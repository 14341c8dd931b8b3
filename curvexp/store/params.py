"""The parameters that a run ended with: params.npz, an array a leaf under its path, readable by numpy alone and without a pickle."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from curvexp.errors import ConfigError
from curvexp.store import files
from curvexp.store.folder import replaced

ABOUT = "about"  # the entry that says of which step the others are; no leaf has its name, as theirs begin with a slash
Tree = TypeVar("Tree")


def save_params(run: Path, leaves: Mapping[str, np.ndarray], *, step: int) -> None:
    """Writes params.npz into a run's folder, replaced as a whole.

    Args:
        leaves: arrays by path, such as {"Dense_0/kernel": ...}; "" for parameters that are one array. Numbers that numpy does not
            have, such as bfloat16, are kept as float32, which holds each of them.

    Raises:
        OSError: it cannot be written.
    """
    kept = {
        f"/{path}": leaf if leaf.dtype.kind in "biufc" else leaf.astype(np.float32) for path, leaf in leaves.items()
    }
    about = json.dumps({"step": step, "dtypes": {path: leaf.dtype.name for path, leaf in leaves.items()}})
    with replaced(run / files.PARAMS) as beside, open(beside, "wb") as file:
        np.savez(file, **{ABOUT: np.frombuffer(about.encode(), np.uint8)}, **kept)  # type: ignore[arg-type]


def load_params(run: str | Path, *, like: Tree | None = None) -> Any:
    """The parameters that a run ended with, as numpy arrays.

    Args:
        run: its folder.
        like: parameters of the same model, as `problem.init(key)` gives them: then the result has their structure and their dtypes, as
            JAX arrays. Without it, nested dictionaries by the names in each leaf's path: {"Dense_0": {"kernel": ...}}; a
            place in a list is its number as text. Parameters that are one array are that array.

    Raises:
        ConfigError: the run has none (it was stopped before its first record, or ran with keep_params=false), the file is damaged, or
            `like` has other leaves.
    """
    path = Path(run) / files.PARAMS
    if path.is_symlink() or not path.is_file():
        raise ConfigError(
            f"{path}: no such file; expected the final parameters of a run. Runs with keep_params=false have none."
        )
    try:
        with path.open("rb") as file, zipfile.ZipFile(file), np.load(file, allow_pickle=False) as held:
            leaves = {name[1:]: held[name] for name in held.files if name != ABOUT}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}. Train the run anew.") from error
    return _nested(leaves) if like is None else _restored(leaves, like, path)


def _nested(leaves: Mapping[str, np.ndarray]) -> Any:
    if "" in leaves:
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[name] = leaf
    return tree


def _restored(leaves: Mapping[str, np.ndarray], like: Any, path: Path) -> Any:
    import jax
    import jax.numpy as jnp
    from jax import dtypes

    def one(where: Any, leaf: Any) -> Any:
        name = leaf_name(where)
        found = leaves.get(name)
        if found is None or found.shape != np.shape(leaf):
            has = "no such leaf" if found is None else f"shape {found.shape}"
            raise ConfigError(
                f"{path}: {name or 'the parameters'}: {has}; expected shape {np.shape(leaf)}. Change like."
            )
        return jnp.asarray(found, dtypes.canonicalize_dtype(leaf.dtype))

    restored = jax.tree_util.tree_map_with_path(one, like)
    if len(jax.tree.leaves(restored)) != len(leaves):
        raise ConfigError(f"{path}: {len(leaves)} leaves; expected {len(jax.tree.leaves(restored))}. Change like.")
    return restored


def leaf_name(path: Any) -> str:
    """A leaf's path in a pytree as text, its parts between slashes."""
    import jax

    return jax.tree_util.keystr(path, simple=True, separator="/")
