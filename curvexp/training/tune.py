"""The numbers that `auto` stands for, chosen by theory or by a measurement at the start."""

import jax

from curvexp import optim
from curvexp.curvature import Objective, hessian, preconditioned
from curvexp.curvature.functions import Static
from curvexp.optim import Optimizer
from curvexp.probe.readings import eps_of, gradient
from curvexp.probe.solve import sharpness, undivided
from curvexp.problem import Problem
from curvexp.types import Params, RandomKey


def tune(problem: Problem, optimizer: Optimizer, params: Params, *, key: RandomKey) -> tuple[Optimizer, str | None]:
    """The optimizer with its `auto` numbers chosen, and how, in a sentence (None where nothing was auto).

    Theory's best where the problem knows its spectrum; else a fraction of the stability threshold for the sharpness at `params`, the
    preconditioned one for an adaptive optimizer, measured to 1 %; for the largest |λ| where no curvature is positive.
    """
    if "auto" not in optimizer.hyper.values():
        return optimizer, None
    known = problem.known.eigenvalues
    if known is not None and optimizer.best is not None:
        return optim.resolve(optimizer, eigenvalues=known, eps=eps_of(params))
    if optimizer.threshold is None or optimizer.hyper[optimizer.lr_name] != "auto":
        return optim.resolve(optimizer)
    whole = over_all_data(problem)
    op = hessian(whole, params)
    if optimizer.preconditioner is not None:
        trial = optimizer._replace(hyper={**optimizer.hyper, optimizer.lr_name: 1.0})
        _, stepped = optimizer.transform.update(gradient(whole, params), trial.init(params), params)
        op = preconditioned(op, optimizer.preconditioner(stepped))
    else:
        op = undivided(op)
    return optim.resolve(optimizer, sharpness=sharpness(op, tol=1e-2, key=key))


def over_all_data(problem: Problem) -> Objective:
    """The loss over all training data, as a function of params alone, with its parts where the problem has them."""
    Partial = jax.tree_util.Partial
    whole = Objective(Partial(problem.loss), problem.data)
    if problem.model is None or problem.criterion is None:
        return whole
    family = None if problem.log_likelihood is None else Static(problem.log_likelihood)
    return whole._replace(model=Partial(problem.model), criterion=Partial(problem.criterion), log_likelihood=family)
