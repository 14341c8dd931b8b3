"""A sweep by each launcher, in one run: seconds, seconds a job, and how many times as fast as Hydra's own basic launcher; and how long a
single run takes to start.

python scripts/bench_sweep.py [--launchers hydra basic joblib vmap] [--repeats 3] [--sweeps quadratic mlp]

Each sweep runs in its own process, launchers in turn, after one run of each that fills the compilation cache. `sweep` is from the first
job's start to the last one's end, without imports and the report; beyond training is what is
not between a job's first record and its last. `hydra` is Hydra's own basic launcher, which `basic` takes the place of. A run has
started when its first record, of step 0 with its reading, is in its folder: cold without a compiled program in the cache, warm with all.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_host

HYDRAS = "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher"
COMMON = ["steps=500", "probe=top", "probe.k=2", "probe.every=100", "track=off"]
SWEEPS = {
    "quadratic": ["problem=quadratic", "problem.dimension=100", "seed=range(16)", "optim.lr=0.005,0.01,0.015,0.018"],
    "mlp": [
        *("problem=mlp", "problem/data=gaussian", "problem.data.features=16", "problem.data.classes=10"),
        *("problem.data.samples=200", "problem.hidden=[32]", "seed=range(16)", "optim.lr=0.01,0.02,0.05,0.1"),
    ],
}
STARTS = {"quadratic": ["problem=quadratic"], "mlp": ["problem=mlp", "optim=momentum"]}


def sweep(launcher: str, arguments: list[str], folder: Path) -> dict[str, float]:
    """One sweep, into a new folder: `wall` and `cpu` of the process, `sweep` of its jobs, `training` summed over them, `jobs`."""
    chosen = HYDRAS if launcher == "hydra" else f"hydra/launcher={launcher}"
    typed = ["-m", *COMMON, *arguments, chosen, f"hydra.sweep.dir={folder}"]
    begun, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(
        [sys.executable, "-m", "curvexp", *typed],
        cwd=folder.parent,
        env=bench_host.environment(),
        capture_output=True,
        text=True,
    )
    if found.returncode:
        sys.exit(found.stderr)
    wall, after = time.time() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, **times_of(folder)}


def times_of(folder: Path) -> dict[str, float]:
    """Of a sweep's folder: `sweep`, seconds from its first job's start to its last one's end; `training`, summed over the jobs; `jobs`."""
    jobs = [path.parent for path in folder.glob("*/summary.json")]
    first = min((job / ".hydra" / "config.yaml").stat().st_mtime for job in jobs)
    last = max((job / "summary.json").stat().st_mtime for job in jobs)
    training = 0.0
    for job in jobs:
        seconds = [json.loads(line)["seconds"] for line in (job / "metrics.jsonl").read_text().splitlines()]
        training += seconds[-1] - seconds[0]
    return {"sweep": last - first, "training": training, "jobs": float(len(jobs))}


def start(arguments: list[str], folder: Path) -> float:
    """Seconds from the start of a run's process to its first record; the cache of compiled programs lies beside the run's folder."""
    command = [sys.executable, "-m", "curvexp", *arguments, "steps=10", "track=off", f"hydra.run.dir={folder}"]
    environment = bench_host.environment(XDG_CACHE_HOME=str(folder.parent / "cache"))
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would take that one's place
    records, begun = folder / "metrics.jsonl", time.monotonic()
    with subprocess.Popen(
        command, cwd=folder.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while not (records.exists() and records.stat().st_size) and process.poll() is None:
            time.sleep(0.002)
        seconds = time.monotonic() - begun
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return seconds


def main() -> None:
    """Read what is wished, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", default=["hydra", "basic", "joblib", "vmap"])
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    # all is removed at the end: ext4 makes a file slowly for minutes after thousands were removed
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print, with the sweeps in this folder."""
    print(bench_host.headline_of_children())
    for name in options.sweeps:
        (folder / f"start-{name}").mkdir()
        places = [folder / f"start-{name}" / str(turn) for turn in range(options.repeats + 1)]
        cold, *warm = [start(STARTS[name], place) for place in places]
        print(f"{name}: a run's first record {cold:.2f} s after its start cold, {statistics.median(warm):.2f} s warm")
    for name in options.sweeps:
        found: dict[str, list[dict[str, float]]] = {launcher: [] for launcher in options.launchers}
        for turn in range(options.repeats + 1):
            for launcher in options.launchers:
                measured = sweep(launcher, SWEEPS[name], folder / f"{name}-{launcher}-{turn}")
                if turn:  # the first fills the cache
                    found[launcher].append(measured)
        print(f"{name}: {found[options.launchers[0]][0]['jobs']:.0f} jobs, medians of {options.repeats}")
        base = found[options.launchers[0]]
        for launcher, rows in found.items():
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            ratios = {
                key: statistics.median(b[key] / r[key] for b, r in zip(base, rows, strict=True))
                for key in ("sweep", "wall", "cpu")
            }
            beyond = 1000 * (middle["sweep"] - middle["training"]) / middle["jobs"]
            beyond_text = f", {beyond:.0f} beyond training" if launcher == "basic" else ""
            print(
                f"  {launcher:8} sweep {middle['sweep']:6.2f} s ({ratios['sweep']:.2f}x {options.launchers[0]}), "
                f"process {middle['wall']:6.2f} s ({ratios['wall']:.2f}x), "
                f"CPU {middle['cpu']:6.2f} s ({ratios['cpu']:.2f}x), "
                f"{1000 * middle['sweep'] / middle['jobs']:.0f} ms a job{beyond_text}"
            )


if __name__ == "__main__":
    main()
