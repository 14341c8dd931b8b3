"""The studies of conf/study: read from their files, run, shown and written."""

from curvexp.app.studies.files import Study as Study
from curvexp.app.studies.files import compose as compose
from curvexp.app.studies.files import names as names
from curvexp.app.studies.files import perform as perform
