"""Probes: which curvature is measured at a step, and how exactly.

A probe of your own is one function that returns a `Probe` whose `measure(loss, params, state, key)` gives a `Reading` and the state
that the next call gets (the last eigenvectors, for a warm start).
"""

from curvexp.probe.base import CHECK_EVERY as CHECK_EVERY
from curvexp.probe.base import Probe as Probe
from curvexp.probe.block_spectra import blocks as blocks
from curvexp.probe.conditioning import condition_number_bound as condition_number_bound
from curvexp.probe.conditioning import condition_numbers as condition_numbers
from curvexp.probe.conditioning import inertia_bounds as inertia_bounds
from curvexp.probe.operators import operator_name as operator_name
from curvexp.probe.operators import operator_of as operator_of
from curvexp.probe.options import density as density
from curvexp.probe.options import exact as exact
from curvexp.probe.options import off as off
from curvexp.probe.options import top as top
from curvexp.probe.readings import as_rows as as_rows
from curvexp.probe.readings import eps_of as eps_of
from curvexp.probe.readings import gradient as gradient
from curvexp.probe.solve import sharpness as sharpness
