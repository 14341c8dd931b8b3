"""One run over several devices of a process: examples sharded, parameters replicated; the sums over examples become sums over devices."""

from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from curvexp.errors import ConfigError
from curvexp.problem.base import Problem


def spread(problem: Problem, devices: int | Literal["all"]) -> Problem:
    """The problem with its training examples in equal parts on several devices; losses, gradients and products agree to rounding.

    Args:
        devices: how many of the process, or all.

    Raises:
        ConfigError: no such number of devices, no examples, examples that do not divide.
    """
    there = jax.devices()
    count = len(there) if devices == "all" else devices
    if count > len(there):
        raise ConfigError(
            f"devices={devices}: expected at most {len(there)}, the devices of this process. Lower devices."
        )
    if count == 1:
        return problem
    if problem.examples is None:
        raise ConfigError(f"devices={devices}: problem={problem.name} has no examples to share out. Set devices=1.")
    if problem.examples % count:
        fitting = [n for n in range(1, len(there) + 1) if problem.examples % n == 0]
        raise ConfigError(
            f"devices={devices}: {problem.examples} training examples do not divide by {count}; expected one of "
            f"{', '.join(map(str, fitting))}. Change devices, or the number of examples."
        )
    mesh = Mesh(np.array(there[:count]), ("examples",))
    return problem._replace(
        data=_placed(problem.data, NamedSharding(mesh, PartitionSpec("examples"))),
        test=_placed(problem.test, NamedSharding(mesh, PartitionSpec())),
    )


def _placed(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), tree)
