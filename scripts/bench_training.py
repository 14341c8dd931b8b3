"""Rows of bench_gpu.py: training, readings along it, sweeps, and the start of a run."""

import contextlib
import io
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_runner
import bench_spectrum as bench
import bench_sweep
import jax
import jax.numpy as jnp
from bench_figures import Figure, Setting, ms


def training(setting: Setting) -> Iterator[Figure]:
    goals = {"record_every=10": ("≥ 0.9", "≥ 0.9"), "record_every=1": ("≥ 0.8", "≥ 0.8")}
    found = bench_runner.bare_loop_ratios(min(3, setting.repeats), quick=setting.quick)
    bare, _ = found.pop("bare lax.scan")
    for name, (rate, ratio) in found.items():
        goal = setting.goal(*goals[name]) if name in goals else None
        more = f"{rate:.0f} of {bare:.0f} steps/s"
        yield Figure("training", f"run() as a share of a bare scan, {name}", ratio, goal, more)


def tracking(setting: Setting) -> Iterator[Figure]:
    """The library in a loop of one's own, then run() with its probe on the same kind of network, loss and step size."""
    from curvexp import optim, preprocess, probe
    from curvexp import problem as problems
    from curvexp.training import run

    go = bench.at_the_edge(20 if setting.quick else 100)
    times = bench.in_turn({f"top {k}": lambda k=k: go(k) for k in (0, 1, 5)}, min(3, setting.repeats))
    for k, goal in ((1, setting.goal("≤ 3", "≤ 1.9")), (5, None)):
        made = statistics.mean(go(k)[1][1:])
        more = f"{ms(times[f'top {k}'])} over {ms(times['top 0'])}, {made:.1f} products a reading"
        yield Figure(
            "tracking",
            f"eigsh, top {k} every 10 steps, over without",
            bench.ratio(times, f"top {k}", "top 0"),
            goal,
            more,
        )

    options: Any = {"hidden": [64, 64], "criterion": "mse", "dtype": jnp.float32}
    problem = problems.mlp(preprocess=preprocess.normalized(), data=problems.data.digits(), **options)
    rules = {f"top {k}": probe.top(k=k, which="LA", every=10) for k in (1, 5)}

    def framework(rule: Any) -> Any:
        steps = 500 if setting.quick else 2000
        for record in run(problem, optim.sgd(lr=0.2), rule, steps=steps, key=jax.random.key(0)):  # noqa: B007
            pass
        return record.state.params

    calls = {name: lambda rule=rule: framework(rule) for name, rule in {"none": None, **rules}.items()}
    times = bench.in_turn(calls, 1 if setting.quick else 2)
    for name in rules:
        goal = setting.goal("≤ 3", "≤ 1.9") if name == "top 1" else None
        more = f"{ms(times[name])} over {ms(times['none'])}"
        yield Figure(
            "tracking", f"run(), {name} every 10 steps, over without", bench.ratio(times, name, "none"), goal, more
        )


def sweeps(setting: Setting) -> Iterator[Figure]:
    from curvexp.__main__ import main as curvexp

    goals = {"quadratic": ("≥ 8", "≥ 1.7"), "mlp": ("≥ 8", "≥ 1.6")}
    fewer = ["seed=range(4)", "steps=100"] if setting.quick else []

    def sweep(launcher: str, words: list[str], folder: Path) -> float:
        sys.argv = ["curvexp"]
        quiet = io.StringIO()
        typed = ["-m", *bench_sweep.COMMON, *words, f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"]
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), contextlib.suppress(SystemExit):
            curvexp(typed)
        if not any(folder.glob("*/summary.json")):
            raise RuntimeError(quiet.getvalue()[-2000:])
        return bench_sweep.times_of(folder)["sweep"]

    before = {name: getattr(jax.config, name) for name in ("jax_enable_x64", "jax_compilation_cache_dir")}
    with tempfile.TemporaryDirectory() as name:
        for problem, words in bench_sweep.SWEEPS.items():
            given = {word.split("=")[0] for word in fewer}
            words = [word for word in words if word.split("=")[0] not in given] + fewer
            few = [word for word in words if not word.startswith("seed=")] + ["seed=1"]
            sweep("basic", few, Path(name, f"{problem}-few"))  # all of basic's programs
            sweep("vmap", words, Path(name, f"{problem}-first"))
            turns = range(1 if setting.quick or setting.gpu else 2)
            rounds = [
                [sweep(one, words, Path(name, f"{problem}-{one}-{turn}")) for one in ("basic", "vmap")]
                for turn in turns
            ]
            value = statistics.median(basic / vmap for basic, vmap in rounds)
            more = ", ".join(f"{basic:.2f} s over {vmap:.2f} s" for basic, vmap in rounds)
            yield Figure("sweep", f"{problem}, basic over vmap", value, setting.goal(*goals[problem]), more)
    for name, value in before.items():
        jax.config.update(name, value)


def starts(setting: Setting) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        for problem in ("quadratic",) if setting.quick else ("quadratic", "mlp"):
            Path(name, problem).mkdir()
            cold, *warm = [
                bench_sweep.start(bench_sweep.STARTS[problem], Path(name, problem, str(turn))) for turn in range(3)
            ]
            goal = setting.goal("≤ 3", "≤ 2.2")
            yield Figure(
                "start", f"{problem}, first record, warm cache, seconds", min(warm), goal, f"cold {cold:.2f} s"
            )
