"""Contract checks for parts that a person writes: a problem, an optimizer, a probe, a sink, a study.

Each check calls the part as a run would, and compares what comes back with what the part promises. A broken promise raises
`ContractError`, an AssertionError that names the promise, so the checks serve in a test:

    def test_my_problem():
        curvexp.testing.check_problem(my_problem())

The parts that ship with curvexp pass the same checks. In 64-bit mode (`jax.config.update("jax_enable_x64", True)`) the checks are
sharper, as their tolerances follow the rounding of the parameters' dtype.
"""

from curvexp.testing.optimizers import check_optimizer as check_optimizer
from curvexp.testing.probes import check_probe as check_probe
from curvexp.testing.problems import check_problem as check_problem
from curvexp.testing.promises import ContractError as ContractError
from curvexp.testing.sinks import RUN_CONFIG as RUN_CONFIG
from curvexp.testing.sinks import check_sink as check_sink
from curvexp.testing.studies import check_study as check_study
