"""Going on with a run from its folder: what is kept for it, what may be changed, and what a stranger's folder may not do."""

from curvexp.app.resume.changes import ALLOWED as ALLOWED
from curvexp.app.resume.changes import ENDED as ENDED
from curvexp.app.resume.changes import check_same as check_same
from curvexp.app.resume.changes import check_steps as check_steps
from curvexp.app.resume.changes import complete as complete
from curvexp.app.resume.changes import experiment as experiment
from curvexp.app.resume.changes import still_to_do as still_to_do
from curvexp.app.resume.commands import again as again
from curvexp.app.resume.commands import command as command
from curvexp.app.resume.commands import key_of as key_of
from curvexp.app.resume.commands import of_sweep as of_sweep
from curvexp.app.resume.commands import quoted as quoted
from curvexp.app.resume.folders import check_files as check_files
from curvexp.app.resume.folders import recorded as recorded
from curvexp.app.resume.folders import summary as summary
from curvexp.app.resume.folders import sweep_overrides as sweep_overrides
from curvexp.app.resume.snapshots import Kept as Kept
from curvexp.app.resume.snapshots import keep as keep
from curvexp.app.resume.snapshots import last as last
from curvexp.app.resume.trust import ALL as ALL
from curvexp.app.resume.trust import check_targets as check_targets
from curvexp.app.resume.trust import packages as packages
