"""Which operator a probe measures: the Hessian, the generalized Gauss-Newton matrix, or the Fisher information."""

from typing import Any, cast

from curvexp.curvature import Objective, Operator, fisher, ggn, hessian
from curvexp.curvature.objective import WeightedCriterion
from curvexp.errors import ConfigError
from curvexp.problem import Problem
from curvexp.quantities import OPERATORS
from curvexp.record import Reading
from curvexp.types import Model, Params


def check_operator(operator: object) -> None:
    """Refuses a name that is no operator."""
    if operator not in list(OPERATORS):
        raise ConfigError(f"probe.operator={operator}: expected {', '.join(OPERATORS)}. Change probe.operator.")


def check_parts(operator: str, problem: Problem) -> None:
    """Refuses an operator that the problem has no parts for."""
    if operator == "hessian":
        return
    if problem.model is None or problem.criterion is None:
        raise ConfigError(
            f"probe.operator={operator}: problem={problem.name} has no model with a criterion on its outputs (a loss with l2 > 0 has none "
            "either): expected one that has. Choose probe.operator=hessian, or set problem.l2=0 where the problem has it."
        )
    if operator == "fisher" and problem.log_likelihood is None:
        raise ConfigError(
            f"probe.operator=fisher: problem={problem.name} does not say of which distribution its criterion is the negative "
            "log-likelihood: expected Problem.log_likelihood of softmax, bernoulli or gaussian. Choose probe.operator=ggn, or hessian."
        )


def operator_of(loss: Objective, params: Params, *, operator: str = "hessian", chunk: int | None = None) -> Operator:
    """The operator that is measured, of an Objective at params. chunk: examples taken at once, None for all."""
    if operator == "hessian":
        return hessian(loss, params) if chunk is None else hessian(loss.loss, params, loss.data, chunk=chunk)
    model = cast(Model, loss.model)  # where there is none the operators say so
    if operator == "ggn":
        return ggn(
            model, cast(WeightedCriterion, loss.criterion), params, loss.data.inputs, loss.data.targets, chunk=chunk
        )
    return fisher(model, _family(loss), params, loss.data.inputs, chunk=chunk)


def operator_name(reading: Reading) -> str:
    """The operator that a reading is of; the Hessian where a person's probe does not say it."""
    return str(reading.extra.get("operator", "hessian"))


def _family(loss: Objective) -> Any:
    return None if loss.log_likelihood is None else loss.log_likelihood.value
