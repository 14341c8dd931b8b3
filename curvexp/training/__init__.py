"""The training loop: one run, or many as rows of one program; each yields records."""

from curvexp.training.account import Run as Run
from curvexp.training.account import check as check
from curvexp.training.account import start as start
from curvexp.training.account import template as template
from curvexp.training.run import Rows as Rows
from curvexp.training.run import run as run
from curvexp.training.run import run_many as run_many
from curvexp.training.state import Snapshot as Snapshot
from curvexp.training.state import State as State
from curvexp.training.structure import by_structure as by_structure
from curvexp.training.tune import over_all_data as over_all_data
from curvexp.training.tune import tune as tune
