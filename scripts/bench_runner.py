"""What the framework costs: training beside a bare loop, a second start, a job of a sweep. Prints ratios and seconds, medians.

python scripts/bench_runner.py [--repeats 5]
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def bare_loop_ratio(repeats: int) -> tuple[float, float, float]:
    """(steps a second of run(), of a bare jitted lax.scan of the same loss and optax update, their ratio), in alternation."""
    import jax
    import jax.numpy as jnp
    import optax

    from curvexp import optim, preprocess, training
    from curvexp import problem as problems

    steps = 2000
    problem = problems.mlp(preprocess=preprocess.raw(), dtype=jnp.float32, data=problems.data.digits(), hidden=[32])
    plain = optax.sgd(0.05, 0.9)

    @jax.jit
    def scan(params, state, data):
        def body(carry, _):
            params, state = carry
            loss, gradient = jax.value_and_grad(problem.loss)(params, data)
            updates, state = plain.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(body, (params, state), length=steps)

    def framework() -> float:
        begun = time.perf_counter()
        for record in training.run(
            problem, optim.momentum(lr=0.05, momentum=0.9), None, steps=steps, key=jax.random.key(0)
        ):
            last = record
        jax.block_until_ready(last.state.params)
        return time.perf_counter() - begun

    def bare() -> float:
        params = jax.jit(problem.init)(jax.random.key(0))
        begun = time.perf_counter()
        jax.block_until_ready(scan(params, plain.init(params), problem.data))
        return time.perf_counter() - begun

    framework(), bare()
    pairs = [(framework(), bare()) for _ in range(repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return steps / ours, steps / theirs, statistics.median(b / a for a, b in pairs)


def command(*arguments: str, cwd: str) -> float:
    """Wall seconds of one command line, from the start of the process to its end."""
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "curvexp", *arguments], cwd=cwd, env=environment, check=True, capture_output=True
    )
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
    repeats = parser.parse_args().repeats
    ours, bare, ratio = bare_loop_ratio(repeats)
    print(f"training, MLP on digits, probe off: {ours:.0f} steps/s, bare scan {bare:.0f} steps/s, ratio {ratio:.3f}")
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
