"""Recorded: a run as its folder tells of it, for the function of a study."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

if TYPE_CHECKING:
    from curvexp.store import Runs


GIVEN = (
    "runs",
    "folder",
)  # parameters of a study's function that are no numbers: its runs, and the folder that they lie in


class Recorded(NamedTuple):
    """A run as it was recorded.

    Attributes:
        name: its folder, as in `Runs`. status: completed or diverged.
        config: the values of its config by their keys, such as `optim.lr`.
        summary: the values of its summary.json, such as `steps_to_target`.
        steps: of its records. scalars: each at these steps, NaN where a record does not have it.
        readings: steps at which the probe measured.
        eigenvalues: that it measured there, ascending; NaN where a reading has fewer.
        gradient_along: |⟨v, g⟩| of their eigenvectors v and the gradient g; NaN where it was not measured.
    """

    name: str
    status: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    steps: Int[np.ndarray, "m"]
    scalars: Mapping[str, Float64[np.ndarray, "m"]]
    readings: Int[np.ndarray, "r"]
    eigenvalues: Float64[np.ndarray, "r k"]
    gradient_along: Float64[np.ndarray, "r k"]

    @property
    def diverged(self) -> bool:
        """Whether its loss was no longer finite, or passed `diverge_at`."""
        return self.status == "diverged"


def recorded(runs: "Runs", name: str) -> list[Recorded]:
    """The runs that a study's file has under this name, in the order of its sweep; none where the sweep is of nothing."""
    rows: list[dict[str, Any]] = runs.runs.astype(object).to_dict("records")  # type: ignore[assignment]
    return [_recorded(runs, row) for row in rows if row["run"].split("/")[0] == name]


def _recorded(runs: "Runs", row: Mapping[str, Any]) -> Recorded:
    records = runs.metrics[runs.metrics["run"] == row["run"]].set_index("step")
    scalars = {str(key): records[key].to_numpy(np.float64) for key in records.columns if key != "run"}
    spectra = runs.spectra[runs.spectra["run"] == row["run"]]
    eigenvalues, overlaps = (
        spectra.pivot(index="step", columns="index", values=name) for name in ("eigenvalue", "gradient_overlap")
    )
    size = records.reindex(eigenvalues.index).get("grad_norm", np.nan)
    return Recorded(
        name=row["run"],
        status=row["status"],
        config={key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")},
        summary={key: value for key, value in row.items() if not key.startswith("config.")},
        steps=records.index.to_numpy(np.int64),
        scalars=scalars,
        readings=eigenvalues.index.to_numpy(np.int64),
        eigenvalues=eigenvalues.to_numpy(np.float64),
        gradient_along=np.sqrt(overlaps.to_numpy(np.float64)) * np.reshape(size, (-1, 1)),
    )
