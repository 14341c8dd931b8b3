"""How the flat vectors of a basis lie: whole on each device, or in equal parts over the devices of a mesh.

An operator whose arrays lie on several devices (examples shared out, parameters sharded) is multiplied by all of them. Its basis then
need not be whole on each: entry by entry it is parted, inner products become sums over devices, and only the vector that is multiplied is
gathered.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

LARGE = 20_000  # parameters, from which on a product costs far more than a look at the Ritz pairs, and a part is worth its message


class Layout(NamedTuple):
    """Of vectors of `size` entries, static. mesh: over whose devices they are parted, None: whole on each."""

    size: int
    mesh: Mesh | None = None

    @property
    def devices(self) -> int:
        """Over how many devices a vector is parted."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def length(self) -> int:
        """Entries of a vector with the zeros that fill the last part."""
        return -(-self.size // self.devices) * self.devices

    def parted(self, rows: Any) -> Any:
        """Vectors (..., size) or (..., length) as (..., length), in parts."""
        if self.mesh is None:
            return rows
        missing = self.length - rows.shape[-1]
        if missing:
            rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])
        return self._placed(rows, *[None] * (rows.ndim - 1), _axes(self.mesh))

    def whole(self, rows: Any) -> Any:
        """Vectors (..., length) as (..., size), whole on each device."""
        return rows if self.mesh is None else self._placed(rows)[..., : self.size]

    def spread(self, tree: Any) -> Any:
        """Vectors as pytrees, leaves (k, ...): each in parts along its longest axis but the first that divides, where there is one."""
        return tree if self.mesh is None else jax.tree.map(self._along_an_axis, tree)

    def _along_an_axis(self, leaf: Any) -> Any:
        fitting = [axis for axis in range(1, leaf.ndim) if leaf.shape[axis] % self.devices == 0 and leaf.size]
        longest = max(fitting, key=lambda axis: leaf.shape[axis], default=None)
        return self._placed(leaf, *[_axes(self.mesh) if axis == longest else None for axis in range(leaf.ndim)])

    def _placed(self, array: Any, *spec: Any) -> Any:
        assert self.mesh is not None
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec(*spec)))


def layout_of(op: Any, size: int) -> Layout:
    """The layout of an operator's vectors: in parts where its arrays lie on a mesh of several devices and it is large.

    Under a trace, and on a mesh with axes that are not of JAX's type Auto, vectors are whole.
    """
    meshes = [leaf.sharding.mesh for leaf in jax.tree.leaves(op) if _on_a_mesh(leaf)] if size > LARGE else []
    return Layout(size, next((mesh for mesh in meshes if set(mesh.axis_types) == {AxisType.Auto}), None))


def waits_for_host(tree: Any) -> bool:
    """Whether what is computed with these arrays goes to an accelerator, which waits for the host at a loop of unknown length."""
    placed = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and _is_concrete(leaf)]
    if placed:
        return next(iter(placed[0].devices())).platform != "cpu"
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    return getattr(default, "platform", default or jax.default_backend()) != "cpu"


def devices_of(tree: Any) -> int:
    """Over how many devices the arrays of a tree lie, 1 where none lies on a mesh."""
    return max(
        (math.prod(leaf.sharding.mesh.axis_sizes) for leaf in jax.tree.leaves(tree) if _on_a_mesh(leaf)), default=1
    )


def _is_concrete(leaf: Any) -> bool:
    return not isinstance(leaf, jax.core.Tracer)


def _axes(mesh: Mesh | None) -> Any:
    return mesh.axis_names if mesh else None


def _on_a_mesh(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array) or not _is_concrete(leaf):
        return False
    return isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1
