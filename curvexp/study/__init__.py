"""Studies: a statement of theory, what it predicts, what is measured, and a verdict.

A study is one YAML file in conf/study and one function, which takes that file's numbers and returns a `Result`: claims, each with a
prediction, a measurement and an argued tolerance, and the data of its figures. `python -m curvexp +study=NAME` runs one.

The file may name runs, as a person would type them: they are trained as a sweep's jobs are, lie in folders of their own, and the
function gets them as `runs`, from which `recorded` takes those of a name.
"""

from curvexp.study.claim import FAIL as FAIL
from curvexp.study.claim import NOT_APPLICABLE as NOT_APPLICABLE
from curvexp.study.claim import PASS as PASS
from curvexp.study.claim import Claim as Claim
from curvexp.study.claim import Finding as Finding
from curvexp.study.claim import Result as Result
from curvexp.study.claim import at_least as at_least
from curvexp.study.claim import at_most as at_most
from curvexp.study.claim import equal as equal
from curvexp.study.claim import not_applicable as not_applicable
from curvexp.study.recorded import Recorded as Recorded
from curvexp.study.recorded import recorded as recorded
