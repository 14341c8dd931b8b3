"""How the flat vectors of a basis lie: whole on each device, or in equal parts over the devices of a mesh.

An operator whose arrays lie on several devices (examples shared out, parameters sharded) is multiplied by all of them. Its basis then
need not be whole on each: entry by entry it is parted, inner products become sums over devices, and only the vector that is multiplied is
gathered.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

LARGE = 20_000  # parameters, from which on a product costs far more than a look at the Ritz pairs, and a part is worth its message


class Layout(NamedTuple):
    """Of vectors of `size` entries, static. mesh: over whose devices they are parted, None: whole on each.

    >>> Layout(5).length, Layout(5).devices
    (5, 1)
    """

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

    def parted(self, rows: Float[Array, "... n"]) -> Float[Array, "... p"]:
        """Vectors of `size` or of `length` entries as vectors of `length`, in parts."""
        if self.mesh is None:
            return rows
        missing = self.length - rows.shape[-1]
        if missing:
            rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])
        return self._placed(rows, *[None] * (rows.ndim - 1), _axes(self.mesh))

    def whole(self, rows: Float[Array, "... p"]) -> Float[Array, "... n"]:
        """Vectors of `length` entries as vectors of `size`, whole on each device."""
        return rows if self.mesh is None else self._placed(rows)[..., : self.size]

    def spread(self, tree: PyTree[Float[Array, "k ..."]]) -> PyTree[Float[Array, "k ..."]]:
        """Vectors as pytrees, each leaf in parts along its longest axis but the first that divides, where there is one."""
        return tree if self.mesh is None else jax.tree.map(self._along_an_axis, tree)

    def _along_an_axis(self, leaf: Array) -> Array:
        fitting = [axis for axis in range(1, leaf.ndim) if leaf.shape[axis] % self.devices == 0 and leaf.size]
        longest = max(fitting, key=lambda axis: leaf.shape[axis], default=None)
        return self._placed(leaf, *[_axes(self.mesh) if axis == longest else None for axis in range(leaf.ndim)])

    def _placed(self, array: Array, *spec: str | tuple[str, ...] | None) -> Array:
        assert self.mesh is not None
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec(*spec)))


def layout_of(op: PyTree, size: int) -> Layout:
    """The layout of an operator's vectors: in parts where its arrays lie on a mesh of several devices and it is large.

    Under a trace, and on a mesh with axes that are not of JAX's type Auto, vectors are whole.

    >>> layout_of(jnp.ones(3), size=3)  # on one device
    Layout(size=3, mesh=None)
    """
    meshes = [leaf.sharding.mesh for leaf in jax.tree.leaves(op) if _on_a_mesh(leaf)] if size > LARGE else []
    return Layout(size, next((mesh for mesh in meshes if set(mesh.axis_types) == {AxisType.Auto}), None))


def waits_for_host(tree: PyTree) -> bool:
    """Whether what is computed with these arrays goes to an accelerator, which waits for the host at a loop of unknown length.

    >>> waits_for_host(jax.device_put(1.0, jax.devices("cpu")[0]))
    False
    """
    placed = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and _is_concrete(leaf)]
    if placed:
        return next(iter(placed[0].devices())).platform != "cpu"
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    return getattr(default, "platform", default or jax.default_backend()) != "cpu"


def devices_of(tree: PyTree) -> int:
    """Over how many devices the arrays of a tree lie, 1 where none lies on a mesh.

    >>> devices_of({"weight": jnp.ones(2)})
    1
    """
    return max(
        (math.prod(leaf.sharding.mesh.axis_sizes) for leaf in jax.tree.leaves(tree) if _on_a_mesh(leaf)), default=1
    )


def _is_concrete(leaf: object) -> bool:
    return not isinstance(leaf, jax.core.Tracer)


def _axes(mesh: Mesh | None) -> tuple[str, ...] | None:
    return mesh.axis_names if mesh else None


def _on_a_mesh(leaf: object) -> bool:
    if not isinstance(leaf, jax.Array) or not _is_concrete(leaf):
        return False
    return isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1
