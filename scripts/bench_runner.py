"""What the framework costs: training beside a bare loop, a second start, a job of a sweep. Prints ratios and seconds, medians.

python scripts/bench_runner.py [--repeats 5] [--quick]
"""

import argparse
import functools
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_host

SECONDS = {False: 2.0, True: 0.7}  # of each timed training, by whether it is to be quick
RECORDS = {  # name: (record_every, whether a record has the accuracy and the test loss)
    "record_every=10": (10, True),
    "record_every=1": (1, True),
    "record_every=1, no accuracy and no test loss": (1, False),
}


def bare_loop_ratios(repeats: int, *, quick: bool) -> dict[str, tuple[float, float]]:
    """{name: (steps a second, beside those of the bare loop)} of the bare loop and of run() for each of RECORDS.

    The bare loop is a jitted lax.scan of the same loss and optax update, which keeps the loss of each step. All are timed in alternation,
    after a first run that compiles; medians.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from curvexp import optim, preprocess, training
    from curvexp import problem as problems

    problem = problems.mlp(preprocess=preprocess.raw(), dtype=jnp.float32, data=problems.data.digits(), hidden=[32])
    plain = optax.sgd(0.05, 0.9)

    @functools.partial(jax.jit, static_argnames="steps")
    def scan(params, state, data, steps):
        def body(carry, _):
            params, state = carry
            loss, gradient = jax.value_and_grad(problem.loss)(params, data)
            updates, state = plain.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(body, (params, state), length=steps)

    def framework(every: int, evaluates: bool, steps: int) -> float:
        chosen = problem if evaluates else problem._replace(evaluate=None)
        begun = time.perf_counter()
        for record in training.run(
            chosen, optim.momentum(lr=0.05, momentum=0.9), None, steps=steps, record_every=every, key=0
        ):
            last = record
        jax.block_until_ready(last.state.params)
        return time.perf_counter() - begun

    def bare(steps: int) -> float:
        params = jax.jit(problem.init)(jax.random.key(0))
        state = plain.init(params)
        jax.block_until_ready((params, state))
        begun = time.perf_counter()
        jax.block_until_ready(scan(params, state, problem.data, steps))
        return time.perf_counter() - begun

    bare(200)
    steps = max(2000, 1000 * round(200 * SECONDS[quick] / bare(200) / 1000))
    calls = {"bare lax.scan": bare, **{name: functools.partial(framework, *given) for name, given in RECORDS.items()}}
    for call in calls.values():
        call(steps=steps)
    took = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            took[name].append(call(steps=steps))
    base = took["bare lax.scan"]
    ratios = {name: statistics.median(b / a for a, b in zip(each, base, strict=True)) for name, each in took.items()}
    print(f"training, MLP on digits, probe off, {steps} steps:")
    return {name: (steps / statistics.median(each), ratios[name]) for name, each in took.items()}


def command(*arguments: str, cwd: str) -> float:
    """Wall seconds of one command line, from the start of the process to its end."""
    begun = time.perf_counter()
    typed = [sys.executable, "-m", "curvexp", *arguments]
    subprocess.run(typed, cwd=cwd, env=bench_host.environment(), check=True, capture_output=True)
    return time.perf_counter() - begun


def sweep(cwd: str) -> tuple[float, float]:
    """(seconds a job after the first beyond its training, of which training) in a sweep of 16 over seed and lr, in its own process."""
    arguments = ["problem=mlp", "optim=sgd", "probe=off", "steps=500", "seed=range(8)", "optim.lr=0.02,0.05"]
    command("-m", *arguments, f"hydra.sweep.dir={cwd}/sweep", cwd=cwd)
    ends = sorted(path.stat().st_mtime for path in Path(cwd, "sweep").glob("*/summary.json"))
    each = statistics.median(b - a for a, b in itertools.pairwise(ends))
    training = []
    for path in Path(cwd, "sweep").glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        training.append(lines[-1]["seconds"] - lines[0]["seconds"])
    return each - statistics.median(training), statistics.median(training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the training alone, in under a minute on a GPU")
    chosen = parser.parse_args()
    repeats = chosen.repeats
    print(bench_host.headline())
    for name, (rate, ratio) in bare_loop_ratios(repeats, quick=chosen.quick).items():
        print(f"  {name}: {rate:.0f} steps/s, ratio {ratio:.3f}", flush=True)
    if chosen.quick:
        return
    with tempfile.TemporaryDirectory() as folder:
        first = command("problem=mlp", "optim=momentum", cwd=folder)
        second = statistics.median(command("problem=mlp", "optim=momentum", cwd=folder) for _ in range(repeats))
        print(f"python -m curvexp problem=mlp optim=momentum: {first:.2f} s, again {second:.2f} s")
        for flags in (["--help"], ["--cfg", "job"]):
            print(
                f"python -m curvexp {' '.join(flags)}: {statistics.median(command(*flags, cwd=folder) for _ in range(repeats)):.2f} s"
            )
        beyond, training = sweep(folder)
        print(f"sweep of 16 over seed and lr: {beyond:.3f} s a job beyond the training itself ({training:.3f} s)")


if __name__ == "__main__":
    main()
