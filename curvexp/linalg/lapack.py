"""The host beside XLA: LAPACK in one process with it."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import PyTree
from threadpoolctl import ThreadpoolController

SMALL = 500  # rows up to which a second thread of the BLAS gains nothing


def threads(rows: int) -> contextlib.AbstractContextManager[object]:
    """One thread for matrices of up to SMALL rows: more of them wait for XLA's, 0.17 s for the eigenvalues of a 100x100 matrix.

    >>> with threads(2):
    ...     np.linalg.eigvalsh(np.eye(2)).tolist()
    [1.0, 1.0]
    """
    return one_thread(rows <= SMALL)


def one_thread(wish: bool) -> contextlib.AbstractContextManager[object]:
    """One thread of the BLAS, where it is wished.

    >>> with one_thread(True):
    ...     np.linalg.eigvalsh(np.eye(2)).tolist()
    [1.0, 1.0]
    """
    return _controller().limit(limits=1) if wish else contextlib.nullcontext()


def x64() -> bool:
    """Whether JAX has 64-bit numbers.

    >>> with jax.enable_x64(True):
    ...     x64()
    True
    """
    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


def thread_settings() -> Callable[[], contextlib.AbstractContextManager[object]]:
    """JAX's settings as they are in this thread, to be entered in another, where a `with` of this one does not hold.

    >>> with jax.enable_x64(True):
    ...     settings = thread_settings()
    >>> with jax.enable_x64(False), settings():
    ...     x64()
    True
    """
    wide, precision, device = (
        x64(),
        *(getattr(jax.config, f"jax_default_{name}") for name in ("matmul_precision", "device")),
    )

    @contextlib.contextmanager
    def settings() -> Iterator[None]:
        with jax.enable_x64(wide), jax.default_matmul_precision(precision), jax.default_device(device):
            yield

    return settings


def fetch(tree: PyTree) -> PyTree[np.ndarray]:
    """The leaves as numpy arrays: jax.device_get, which takes its time also over those that are on the host.

    >>> fetch({"a": jax.numpy.arange(2)})
    {'a': array([0, 1], dtype=int32)}
    """
    if all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.device_get(tree)


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
