"""`python -m curvexp.study` is `python -m curvexp.app.studies`, which this package, a part of the science, does not import."""

import runpy

runpy.run_module("curvexp.app.studies", run_name="__main__")
