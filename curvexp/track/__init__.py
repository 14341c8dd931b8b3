"""Where a run is shown besides its own files: Weights & Biases, or nowhere.

In W&B a chart stands in the section before the slash of its key: loss/loss, curvature/lambda_max, theory/threshold, timing/seconds;
`quantities` tells which. The summary has the keys of summary.json, without sections, for the columns of the runs' table.

The files never depend on it: whatever W&B raises is told once, and the run goes on without it. wandb loads when a run is tracked.
Another tracker is a `curvexp.sink.Sink` of a person's own, chosen by a file of the group `track`, or one of `sinks`.
"""

from curvexp.track.options import off as off
from curvexp.track.options import wandb as wandb
from curvexp.track.tracker import Tracker as Tracker
from curvexp.track.wandb_run import together as together
