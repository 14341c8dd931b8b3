"""Runs the studies, each in a process of its own, and writes what they found: python scripts/reproduce.py [NAME ...] [--jobs N]

    OUT/NAME/finding.json, data.json    each study's claims, and the data of its figures; a study that has them is not run again
    OUT/NAME/runs/...                   the runs of a study whose file names some: python -m curvexp.report OUT
    OUT/findings.json                   all of them
    --markdown FILE                     the table

Exit code 1 where a verdict is fail or a study did not finish, 2 for what was refused.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import curvexp
from curvexp import __version__, console
from curvexp.app.studies import Study, compose, names
from curvexp.app.studies.show import markdown
from curvexp.errors import ConfigError
from curvexp.study import FAIL, PASS

HEADER = """# Findings

The output of `python scripts/reproduce.py --markdown docs/findings.md`: every study, what theory says, what was measured,
what was allowed and why. Of many values the one that lies furthest from theory is shown. A study that failed says so.

"""


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="studies; default: all")
    parser.add_argument("--out", type=Path, default=Path("outputs/findings"), metavar="DIR")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="of the table; default: OUT/findings.md")
    parser.add_argument("--jobs", type=int, default=1, help="studies run at a time (default 1)")
    parser.add_argument("--again", action="store_true", help="run also what OUT has already")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of option files of yours, with study/NAME.yaml")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        console.refuse(f"--jobs={options.jobs}: expected a whole number >= 1.")
        return 2
    try:
        studies = [compose(name, config_dir=options.config_dir) for name in options.names or names(options.config_dir)]
    except ConfigError as error:
        console.refuse(str(error))
        return 2
    begun = time.perf_counter()
    pool = ThreadPoolExecutor(options.jobs)
    try:
        findings = [f for f in pool.map(lambda study: finding_of(study, options), studies) if f is not None]
    except KeyboardInterrupt:  # the studies under way had it too
        pool.shutdown(cancel_futures=True)
        console.refuse("stopped; the same command goes on after the studies that are done")
        return 130
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": __version__, "findings": findings}, indent=1, ensure_ascii=False)
    (options.out / "findings.json").write_text(text, encoding="utf-8")
    target = options.markdown or options.out / "findings.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    passed, failed = (sum(f["verdict"] == kind for f in findings) for kind in (PASS, FAIL))
    counts = (
        f"{len(studies)} studies: {passed} pass, {failed} fail, {len(findings) - passed - failed} not applicable, "
        f"{len(studies) - len(findings)} unfinished"
    )
    took = f"{sum(f['seconds'] for f in findings):.0f} s on {os.cpu_count()} {platform.machine()} cores"
    about = f"{counts}; {took}, curvexp {__version__}, JAX {version('jax')}.\n\n"
    target.write_text(HEADER + about + markdown(findings), encoding="utf-8")
    console.out().print(f"{counts}, in {time.perf_counter() - begun:.0f} s; {target}")
    return int(failed > 0 or len(findings) < len(studies))


def finding_of(study: Study, options: argparse.Namespace) -> dict[str, Any] | None:
    """The study's finding, run now or found in OUT from the same version and numbers; None where it did not finish."""
    folder = options.out / study.name
    file, stamp = folder / "finding.json", folder / "stamp.json"
    runs = [(run.name, run.config) for run in study.runs]
    wanted = json.dumps([__version__, study.target, study.precision, study.options, runs], sort_keys=True)
    done = file.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted
    if options.again or not done:
        for old in (file, stamp):
            old.unlink(missing_ok=True)
        shutil.rmtree(folder / "runs", ignore_errors=True)  # of another version, or of other numbers
        command = [sys.executable, "-m", "curvexp", f"+study={study.name}", f"hydra.run.dir={folder.absolute()}"]
        command += ["--config-dir", options.config_dir] if options.config_dir else []
        paths = [str(Path.cwd()), str(Path(curvexp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if ended.returncode not in (0, 1) or not file.exists():
            console.refuse(f"{study.name}: exit code {ended.returncode}\n{ended.stderr.strip()[-2000:]}")
            return None
        stamp.write_text(wanted, encoding="utf-8")
    finding = json.loads(file.read_text(encoding="utf-8"))
    console.out().print(
        f"{study.name}: {finding['verdict']}{' (kept)' if done and not options.again else ''}, {finding['seconds']:.1f} s"
    )
    return finding


if __name__ == "__main__":
    sys.exit(main())
