"""A run's folder: written so that a kill loses nothing that was recorded, and read back as data frames.

    <run>/config.json        the resolved config
    <run>/summary.json       where the run stands, replaced as a whole at each change: the keys of SUMMARY and what the run adds
    <run>/metrics.jsonl      a line a record: step, seconds, and every scalar of the record
    <run>/spectrum.jsonl     a line a reading: step, eigenvalues, residuals, gradient_overlaps, complete, operator, ledger, blocks, and what
                             else was measured
    <run>/checkpoints/<step> what the run goes on from, see curvexp.app.checkpoint; while the run lives it locks <run>/.lock
    <run>/landscape.json     the loss on planes through parameter space, with the way of the run on them; where it was asked for
    <run>/params.npz         the parameters that the run ended with, an array a leaf; numpy reads it

Numbers stand as Python's json writes them, NaN and ±Infinity included. No JAX here; pandas only where runs are read.
"""

from curvexp.store.detail import load_block_densities, load_blocks, load_densities, load_ledger, load_planes
from curvexp.store.folder import ENDINGS, SUMMARY, RecordError, RunFolder, jsonable, read_object, replaced
from curvexp.store.params import load_params
from curvexp.store.runs import Runs, load_runs

__all__ = [
    "ENDINGS",
    "SUMMARY",
    "RecordError",
    "RunFolder",
    "Runs",
    "jsonable",
    "load_block_densities",
    "load_blocks",
    "load_densities",
    "load_ledger",
    "load_params",
    "load_planes",
    "load_runs",
    "read_object",
    "replaced",
]
