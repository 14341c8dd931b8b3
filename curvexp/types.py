"""Types that signatures share, and the letters of shapes: those in quotes beside an array's type, the same everywhere.

    n    parameters, the dimension of the space      P    examples
    k    eigenpairs                                  N    inputs of an example
    m    probes, steps, or whatever else is many     C    classes, or outputs of a model
                                                     B    examples of a minibatch

`Float[Array, "k n"]` is a matrix of k rows and n columns, of any floating dtype; `""` is a number in an array; `...` is any axes.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Params: TypeAlias = PyTree  # of a model: arrays of real numbers
Vector: TypeAlias = PyTree  # of an operator's space: a pytree like the parameters, or one flat array
Matvec: TypeAlias = Callable[[Vector], Vector]  # v -> Av, linear and symmetric; an Operator is one

Flat: TypeAlias = Float[Array, "n"]  # a Vector's entries in one array
FlatMatvec: TypeAlias = Callable[[Flat], Flat]
Scalar: TypeAlias = Float[Array, ""]

RandomKey: TypeAlias = Key[Array, ""]  # of jax.random.key
KeyLike: TypeAlias = RandomKey | int | None  # None: jax.random.key(0); an integer: the key of that seed

Product: TypeAlias = Callable[[PyTree, Vector], Vector]  # (operands, v) -> Av, of an Operator
OptState: TypeAlias = PyTree  # of an optax transformation
Model: TypeAlias = Callable[..., PyTree]  # (params, inputs) -> outputs
Criterion: TypeAlias = Callable[[PyTree, PyTree], Scalar]  # (outputs, targets) -> the mean over the examples
Init: TypeAlias = Callable[[RandomKey], Params]

# of a program on the device, or of the host
AnyArray: TypeAlias = Array | np.ndarray
SomeArray = TypeVar("SomeArray", Array, np.ndarray)  # either, and the result is of the same
AnyReal: TypeAlias = Float[Array | np.ndarray | np.floating, ""]
AnyCount: TypeAlias = Int[Array | np.ndarray | np.integer, ""]
AnyFlag: TypeAlias = Bool[Array | np.ndarray | np.bool, ""]
