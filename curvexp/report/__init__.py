"""What many runs amount to: tables over all runs of a folder, charts, and one page that holds both. No JAX.

    tables, findings    the aggregate over seeds; ratios, differences and verdicts with their intervals
    charts              NAME(frame) -> Plotly figure
    page, terminal      what a person looks at

`python -m curvexp.report DIR` is this from a shell; a sweep ends in `summarize`.
"""

from curvexp.report.files import write_tables
from curvexp.report.tables import aggregate
from curvexp.report.terminal import render, summarize

__all__ = ["aggregate", "render", "summarize", "write_tables"]
