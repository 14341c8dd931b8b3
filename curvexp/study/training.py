"""What studies ask of the training loop besides its records: every iterate, and the step at which a target is reached."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from curvexp.training import Run, by_structure, run_many


def iterates(runs: Sequence[Run], *, steps: int) -> Float64[np.ndarray, "runs steps n"]:
    """The parameters after every step of runs of equal structure; no run ends before its last step.

    Args:
        runs: whose parameters are one vector of n numbers.

    >>> from curvexp import optim, problem
    >>> bowl = problem.quadratic(eigenvalues=[1.0, 4.0], basis_seed=None, start=[1.0, 1.0])
    >>> iterates([Run(bowl, optim.sgd(lr=0.25), 0)], steps=2)[0].tolist()
    [[1.0, 1.0], [0.75, 0.0], [0.5625, 0.0]]
    """
    paths: list[list[Float64[np.ndarray, "n"]]] = [[] for _ in runs]
    whole = [one._replace(target=None, diverge_at=math.inf) for one in runs]
    for records in run_many(whole, steps=steps, record_every=1):
        for record in records:
            paths[record.row].append(np.asarray(record.state.params, np.float64))
    if any(len(path) != steps + 1 for path in paths):
        raise RuntimeError(f"a run's loss was not finite before step {steps}: lower its lr.")
    return np.array(paths)


def steps_to_target(runs: Sequence[Run], *, steps: int, block: int) -> Int[np.ndarray, "runs"]:
    """The first step at which each run's loss is at most its target; `steps` where it comes later.

    Args:
        runs: of any structure; those of equal structure go together. Each has a number as its target.
        block: steps between two looks at which of them have ended.
    """
    found = np.full(len(runs), steps)
    for numbers in by_structure(runs):
        for records in run_many([runs[number] for number in numbers], steps=steps, record_every=block):
            for record in records:
                if record.outcome is not None and record.outcome.steps_to_target is not None:
                    found[numbers[record.row]] = record.outcome.steps_to_target
    return found
