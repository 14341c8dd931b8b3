"""What a run yields: a Record at each logged step, with a Reading where the probe measured, and an Outcome at the end."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64


class Outcome(NamedTuple):
    """What the losses of a whole run amount to.

    Attributes:
        status: `completed` or `diverged`.
        reason: why it stopped before its last step, or None.
        steps: updates made.
        loss_start, loss: at the first and at the last step, on all training data.
        target_loss: the loss that counts as reached, or None.
        steps_to_target: first step with loss <= target, or None where it was not reached.
        rate: measured contraction a step of √(loss − f*), see `measured_rate`, or None.
        rate_theory: the optimizer's worst contraction over the nonzero eigenvalues, where the problem knows them, or None.
    """

    status: Literal["completed", "diverged"]
    reason: str | None
    steps: int
    loss_start: float
    loss: float
    target_loss: float | None
    steps_to_target: int | None
    rate: float | None
    rate_theory: float | None


SURE = 1e-3  # probability of a missed eigenvalue, above which an end of a spectrum is marked as unchecked


class Reading(NamedTuple):
    """What a probe measured at one step; every array is numpy's.

    Attributes:
        eigenvalues: ascending.
        residuals: ‖Hv − λv‖₂ of each with v of unit length: some eigenvalue of H lies within it.
        gradient_overlaps: ⟨g,v⟩²/‖g‖², the share of the gradient's energy along each eigenvector; or None.
        complete: True where these are all n eigenvalues, False where they are the ends only.
        scalars: lambda_max, lambda_min, condition_number, ...; merged into the record's scalars. Where not all eigenvalues are computed
            lambda_max_missed, lambda_min_missed and eigenvalues_missed bound the probabilities that one beyond was missed; 1: unchecked.
        extra: what else the probe measured, each under its own key: operator, of which eigenvalues and scalars are (hessian, where it is
            not said; ggn; fisher), density {x, density, stderr}, blocks {name: {size, eigenvalues, residuals}}, ledger.
        eigenvectors: what the ledger is kept along: a pytree like the parameters with a leading axis k, or a float64 matrix (n, k) of
            flat columns; None from a probe that has none, and in a record.
    """

    eigenvalues: Float64[np.ndarray, "k"]
    residuals: Float64[np.ndarray, "k"]
    gradient_overlaps: Float64[np.ndarray, "k"] | None
    complete: bool
    scalars: dict[str, float]
    extra: dict[str, Any]
    eigenvectors: Any = None


class Record(NamedTuple):
    """What is kept of one step of a run.

    Attributes:
        step: the number of updates made before this record, 0 at the start.
        scalars: loss, grad_norm, ...; None where a value has no meaning at this step.
        reading: the curvature at this step, None where it was not probed.
        state: the training state (parameters, optimizer state) at this step; never stored.
        seconds: wall time since the start of the run; None as the training yields it, which reads no clock.
        outcome: what the run amounts to, at its last record; else None.
        note: what was chosen for the user, in a sentence, such as the step size of `lr=auto`, or why a quantity is absent; else None.
        snapshot: what `run` goes on from after this record, see `training.Snapshot`; never stored in the record's line.
        row: number of the run among those of `run_many`; 0 for a run alone.
    """

    step: int
    scalars: dict[str, float | int | None]
    reading: Reading | None
    state: Any
    seconds: float | None = None
    outcome: Outcome | None = None
    note: str | None = None
    snapshot: Any = None
    row: int = 0
