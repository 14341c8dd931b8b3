"""Charts as functions: `charts.NAME(frame)` gives a Plotly figure, for a notebook and for the page alike.

`frame` is what `load_runs` gives, whole or the part that the chart is about; each function says which columns it reads. A figure's
`layout.meta["notes"]` says what a reader must know of it: what was masked, thinned or left out.
"""

from curvexp.report.charts.blocks import blocks
from curvexp.report.charts.plane import contour, forms, landscape, surface
from curvexp.report.charts.run import (
    components,
    density,
    eigencomponents,
    eigenvalues,
    gradient_overlap,
    spectrum,
    taylor,
)
from curvexp.report.charts.style import looks
from curvexp.report.charts.sweep import condition_steps, loss, rate, sharpness, verdicts

__all__ = [
    "blocks",
    "components",
    "condition_steps",
    "contour",
    "density",
    "eigencomponents",
    "eigenvalues",
    "forms",
    "gradient_overlap",
    "landscape",
    "looks",
    "loss",
    "rate",
    "sharpness",
    "spectrum",
    "surface",
    "taylor",
    "verdicts",
]
