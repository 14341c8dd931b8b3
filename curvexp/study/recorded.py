"""Recorded: a run as its folder tells of it, for the function of a study."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

if TYPE_CHECKING:
    from curvexp.store import Runs


class Recorded(NamedTuple):
    """A run as it was recorded.

    Attributes:
        name: its folder, as in `Runs`. status: completed or diverged.
        config: the values of its config by their keys, such as `optim.lr`.
        steps: of its records. scalars: each at these steps, NaN where a record does not have it.
    """

    name: str
    status: str
    config: Mapping[str, Any]
    steps: Int[np.ndarray, "m"]
    scalars: Mapping[str, Float64[np.ndarray, "m"]]

    @property
    def diverged(self) -> bool:
        """Whether its loss was no longer finite, or passed `diverge_at`."""
        return self.status == "diverged"


def recorded(runs: "Runs", name: str) -> list[Recorded]:
    """The runs that a study's file has under this name, in the order of its sweep; none where the sweep is of nothing."""
    found = []
    rows: list[dict[str, Any]] = runs.runs.astype(object).to_dict("records")  # type: ignore[assignment]
    for row in rows:
        if row["run"].split("/")[0] != name:
            continue
        table = runs.metrics[runs.metrics["run"] == row["run"]]
        scalars = {str(key): table[key].to_numpy(np.float64) for key in table.columns if key not in ("run", "step")}
        config = {key.removeprefix("config."): value for key, value in row.items() if key.startswith("config.")}
        found.append(Recorded(row["run"], row["status"], config, table["step"].to_numpy(np.int64), scalars))
    return found
