"""What many runs amount to: tables over all runs of a folder, for the terminal and for files. No JAX.

`python -m curvexp.report DIR` is this from a shell; a sweep ends in `summarize`.
"""

from curvexp.report.files import write_tables
from curvexp.report.tables import aggregate
from curvexp.report.terminal import render, summarize

__all__ = ["aggregate", "render", "summarize", "write_tables"]
