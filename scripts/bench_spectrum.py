"""Speed of `eigsh` in units of what is cheapest possible: products inside one jitted loop, as many as eigsh without its check makes.

    python scripts/bench_spectrum.py [--hidden 64 64] [--k 5] [--tol 1e-3] [--repeats 3]

A tanh network on the digits, full batch, float32, at its initial parameters. All times are medians, in one process.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from curvexp.curvature import hessian
from curvexp.linalg import eigsh


def main() -> None:
    """Measure and print one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="*", default=[64, 64])
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    digits = load_digits()
    inputs = jnp.asarray(digits.data / 16, jnp.float32)
    params = network([64, *options.hidden, 10], seed=0)
    op = hessian(loss, params, inputs, jnp.asarray(digits.target))

    started = time.perf_counter()
    found = jax.block_until_ready(eigsh(op, k=options.k, tol=options.tol))
    cold = time.perf_counter() - started
    steps = 40
    product = median(lambda: products(op, params, steps), options.repeats) / steps
    unchecked = eigsh(op, k=options.k, tol=options.tol, check=0)
    full = median(lambda: eigsh(op, k=options.k, tol=options.tol), options.repeats)
    bare = median(lambda: eigsh(op, k=options.k, tol=options.tol, check=0), options.repeats)
    unit = int(unchecked.matvecs) * product
    print(
        f"{op.size} parameters; a product in a loop: {1e3 * product:.2f} ms; compilation and first call: {cold:.1f} s"
    )
    print(f"unchecked: {int(unchecked.matvecs)} products, {bare:.3f} s, {bare / unit:.2f} units")
    print(f"checked:   {int(found.matvecs)} products, {full:.3f} s, {full / unit:.2f} units; {found.message}")


def network(widths: list[int], *, seed: int) -> list[dict[str, Any]]:
    """Parameters of a fully connected network, normal with variance 1/fan-in, zero biases."""
    random = np.random.default_rng(seed)
    return [
        {
            "kernel": jnp.asarray(random.standard_normal((a, b)) / np.sqrt(a), jnp.float32),
            "bias": jnp.zeros(b, jnp.float32),
        }
        for a, b in itertools.pairwise(widths)
    ]


def loss(params: Any, inputs: Any, targets: Any) -> Any:
    """Mean cross-entropy of the tanh network."""
    for layer in params[:-1]:
        inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"])
    logits = inputs @ params[-1]["kernel"] + params[-1]["bias"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1))


@jax.jit
def products(op: Any, v: Any, count: Any) -> Any:
    """`count` products, each of a unit vector made from the one before, in one loop."""

    def step(_: Any, v: Any) -> Any:
        image = op(v)
        length = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(image)))
        return jax.tree.map(lambda leaf: leaf / length, image)

    return jax.lax.fori_loop(0, count, step, v)


def median(function: Callable[[], Any], repeats: int) -> float:
    """Median wall seconds of a call, after one that is not counted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
