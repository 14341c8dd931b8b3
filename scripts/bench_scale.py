"""How cost grows with the number of parameters: seconds and memory of a Hessian-vector product, the top 5, a density, the dense Hessian.

python scripts/bench_scale.py [--parameters 1e3 1e4 1e5 1e6 1e7] [--examples 64]

A network with two hidden layers of equal width on 64 inputs and 10 classes, at its initialization, float32. Each size is a process of its
own, whose memory is the largest resident size of the whole less that after the data and parameters were made. Prints a table, the law
seconds = c·n^p fitted to it by least squares of the logarithms, and what the law gives for 1e9 parameters on this machine.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import bench_host
import numpy as np

DENSE = 4000  # most parameters of a dense Hessian, as probe=exact has it
DENSITY = 3e6  # most parameters of the density here
PARTS = ("hvp", "top5", "density", "dense")


def width(parameters: float, inputs: int = 64, classes: int = 10) -> int:
    """Hidden width h at which h² + (inputs + classes + 2)·h + classes comes nearest to `parameters`."""
    b = inputs + classes + 2
    return max(1, round((-b + math.sqrt(b * b + 4 * (parameters - classes))) / 2))


def measure(parameters: float, examples: int, part: str) -> dict[str, Any]:
    """Seconds of one part at one size, after a first call that compiles, and the memory that it took, in bytes."""
    import jax
    import jax.numpy as jnp

    import curvexp
    from curvexp import preprocess, training
    from curvexp import problem as problems

    data = problems.data.gaussian(samples=examples, features=64, classes=10, test_fraction=0.0)
    hidden = [width(parameters)] * 2
    problem = problems.mlp(preprocess=preprocess.raw(), dtype=jnp.float32, data=data, hidden=hidden)
    params = jax.block_until_ready(jax.jit(problem.init)(jax.random.key(0)))
    op = curvexp.hessian(training.over_all_data(problem), params)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made: dict[str, Any] = {}

    @jax.jit
    def products(op: Any, v: Any) -> Any:
        return jax.lax.fori_loop(0, 4, lambda _, v: jax.tree.map(lambda leaf: leaf * 1e-3, op(v)), v)

    def top() -> Any:
        found = curvexp.eigsh(op, k=5, tol=1e-3, check=0, key=jax.random.key(1))
        made["products"] = int(found.matvecs)
        return found

    calls: dict[str, Callable[[], Any]] = {
        "hvp": lambda: products(op, params),
        "top5": top,
        "density": lambda: curvexp.spectral_density(op, probes=2, steps=40, key=jax.random.key(2)),
        "dense": lambda: np.linalg.eigvalsh(np.asarray(op.dense(), np.float64)),
    }
    jax.block_until_ready(calls[part]())
    begun = time.perf_counter()
    jax.block_until_ready(calls[part]())
    seconds = (time.perf_counter() - begun) / (4 if part == "hvp" else 1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"parameters": op.size, "seconds": seconds, "bytes": 1024 * (after - before), **made}


def law(sizes: Any, seconds: Any) -> tuple[float, float]:
    """(c, p) of seconds = c·n^p over the sizes from 1e5 on, where the fixed cost of a call no longer shows, else over all."""
    sizes, seconds = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    large = sizes >= 5e4 if (sizes >= 5e4).sum() > 1 else np.ones(len(sizes), bool)
    slope, offset = np.polyfit(np.log(sizes[large]), np.log(seconds[large]), 1)
    return float(np.exp(offset)), float(slope)


def main() -> None:
    """Measure and print; with --part one number, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", nargs="+", type=float, default=[1e3, 1e4, 1e5, 1e6, 1e7])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(options.parameters[0], options.examples, options.part)))
        return
    print(bench_host.headline_of_children())
    print(f"{options.examples} examples, float32; seconds (MB beyond data and parameters)")
    print("parameters |" + " | ".join(f"{part:>18}" for part in PARTS))
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for size in options.parameters:
        cells, n = [], size
        for part in PARTS:
            if size > {"dense": DENSE, "density": DENSITY}.get(part, math.inf):
                cells.append(f"{'–':>18}")
                continue
            typed = [sys.executable, __file__, "--parameters", str(size), "--examples", str(options.examples)]
            made = subprocess.run(
                [*typed, "--part", part],
                capture_output=True,
                text=True,
                check=True,
                env=bench_host.environment(),
            )
            row = json.loads(made.stdout)
            found[part].append(row)
            n = row["parameters"]
            products = f" {row['products']}p" if "products" in row else ""
            cells.append(f"{row['seconds']:.3g} ({row['bytes'] / 1e6:.0f}){products}".rjust(18))
        print(f"{n:>10} |" + " | ".join(cells), flush=True)
    for part in ("hvp", "top5", "density"):
        rows = found[part]
        if len(rows) > 1:
            c, p = law([row["parameters"] for row in rows], [row["seconds"] for row in rows])
            print(f"{part}: {c:.3g}·n^{p:.2f} s, at 1e9 parameters {c * 1e9**p:.3g} s")


if __name__ == "__main__":
    main()
