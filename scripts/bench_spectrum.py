"""Speed of the spectral engine in units of what is cheapest possible: products inside one jitted loop.

    python scripts/bench_spectrum.py [pairs density tracking compile memory] [--networks small medium large] [--repeats 5]

Tanh networks, full batch, float32, after 50 steps of heavy ball: small 64-64-64-10 and medium 64-512-512-10 on the digits, standardized;
large 784-1024-1024-10 (1.9 million parameters) on 4096 generated examples. All that is compared is timed in turn, in one process; a ratio
is the median of the ratios of the rounds.

pairs     `eigsh`, top k to tol, beside m products; m is the number of steps after which plain Lanczos from one random vector has them
density   `spectral_density`, 10 vectors of 80 steps, beside 800 products
tracking  products a probe along gradient descent at the edge of stability (digits, 64-64-64-10, squared error, lr 0.2, every 10 steps),
          each CHECK_EVERY-th one checked in full, as probe=top does
compile   seconds of a first call: without and with a persistent cache
memory    what the compiled program of `eigsh` allocates, as XLA plans it, beside basis + 3 gradients + activations
"""

import argparse
import functools
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import bench_host
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from curvexp.curvature import Operator, hessian
from curvexp.linalg import eigsh, spectral_density
from curvexp.linalg.vectors import flat_product
from curvexp.probe import CHECK_EVERY

HIDDEN = {"small": (64, 64), "medium": (512, 512), "large": (1024, 1024)}
PARTS = ("pairs", "density", "tracking", "compile", "memory")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", choices=[[], *PARTS])
    parser.add_argument("--networks", nargs="+", choices=list(HIDDEN), default=list(HIDDEN))
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first-call", choices=list(HIDDEN), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.parts or list(PARTS)
    if options.first_call:
        return first_call(options.first_call, options.k, options.tol)
    print(bench_host.headline())
    for name in options.networks:
        op, _ = trained(name)
        print(f"{name}: {op.size} parameters")
        if "pairs" in options.parts:
            pairs(op, options.k, options.tol, options.repeats)
        if "density" in options.parts and name != "large":
            density(op, options.repeats)
        if "memory" in options.parts:
            memory(op, options.k)
        if "compile" in options.parts:
            compile_time(name)
    if "tracking" in options.parts:
        tracking(options.repeats)


def pairs(op: Operator, k: int, tol: float, repeats: int) -> None:
    """`eigsh`, with and without its check, in units of the fewest products from one random vector."""
    fewest = lanczos_steps(op, k, tol)
    like = unit(op)
    checked, unchecked = (eigsh(op, k=k, tol=tol, check=check) for check in (None, 0))
    times = in_turn(
        {
            "unit": lambda: products(op, like, fewest),
            "checked": lambda: eigsh(op, k=k, tol=tol),
            "unchecked": lambda: eigsh(op, k=k, tol=tol, check=0),
            "tracked": lambda: eigsh(op, k=k, tol=tol, start=checked.eigenvectors),
        },
        repeats,
    )
    one = statistics.median(times["unit"]) / fewest
    print(f"  unit: {fewest} products of {1e3 * one:.2f} ms")
    for name, found in (("checked", checked), ("unchecked", unchecked)):
        print(
            f"  top {k} to {tol:g}, {name}: {int(found.matvecs)} products, {statistics.median(times[name]):.3f} s, "
            f"{ratio(times, name, 'unit'):.2f} units; {found.message}"
        )


def density(op: Operator, repeats: int) -> None:
    """Stochastic Lanczos quadrature beside as many products."""
    like = unit(op)
    runs: dict[str, Callable[[], Any]] = {"unit": lambda: products(op, like, 800)}
    for batch in (None, 1, 2, 5, 10):
        runs[f"batch {batch or 'as chosen'}"] = lambda batch=batch: spectral_density(
            op, probes=10, steps=80, batch=batch
        )
    times = in_turn(runs, repeats)
    for name in runs:
        if name != "unit":
            print(
                f"  density, 10 x 80, {name}: {statistics.median(times[name]):.2f} s, {ratio(times, name, 'unit'):.2f} of 800 products"
            )


def tracking(repeats: int) -> None:
    """Products a probe, and what probing costs a run, at the edge of stability."""
    run = at_the_edge()
    times = in_turn({"plain": lambda: run(0), "top 1": lambda: run(1), "top 5": lambda: run(5)}, repeats)
    for k in (1, 5):
        made = run(k)[1][1:]
        print(
            f"  top {k}: {statistics.mean(made):.1f} products a probe (most {max(made)}); "
            f"the run costs {ratio(times, f'top {k}', 'plain'):.2f} of one without"
        )


def at_the_edge(stretches: int = 100) -> Callable[[int], tuple[Any, list[int]]]:
    """A run of `stretches` times ten steps from there: k, the pairs that are read every ten steps, 0 for none -> its end, and the products
    of each reading."""
    digits = load_digits()
    inputs = standardized(digits.data)
    targets = jax.nn.one_hot(jnp.asarray(digits.target), 10)
    data, lr, every = (inputs, targets), 0.2, 10

    @jax.jit
    def stretch(params: Any) -> Any:
        def step(_: Any, params: Any) -> Any:
            return jax.tree.map(lambda p, g: p - lr * g, params, jax.grad(squared_error)(params, *data))

        return jax.lax.fori_loop(0, every, step, params)

    edge = network([64, 64, 64, 10], seed=0)
    for _ in range(200):
        edge = stretch(edge)
    sharpness = eigsh(hessian(squared_error, edge, *data), k=1).eigenvalues[-1]
    print(f"tracking: gradient descent, lr {lr}, sharpness {float(sharpness) * lr / 2:.3f} of 2/lr after 2000 steps")

    def run(k: int) -> tuple[Any, list[int]]:
        params, start, made = edge, None, []
        for reading in range(stretches):
            params = stretch(params)
            if k:
                op, check = hessian(squared_error, params, *data), "full" if reading % CHECK_EVERY == 0 else None
                start = eigsh(op, k=k, tol=1e-3, start=start, check=check, key=jax.random.key(reading))
                made.append(start.matvecs)
        return jax.block_until_ready(params), [int(m) for m in made]

    return run


def memory(op: Operator, k: int) -> None:
    """The compiled program's memory."""
    n = op.size
    size = 2 * k + (38 if n <= 20_000 else 22)
    whole = jax.jit(lambda op: eigsh(op, k=k)).lower(op).compile().memory_analysis()
    one = jax.jit(lambda op, v: op(v)).lower(op, op.like).compile().memory_analysis()
    basis, gradient = 4 * size * n, 4 * n
    print(
        f"  memory: {whole.temp_size_in_bytes / 2**20:.0f} MiB besides arguments and results; basis of {size}: {basis / 2**20:.0f}, "
        f"a product's own: {one.temp_size_in_bytes / 2**20:.0f}, a gradient: {gradient / 2**20:.1f} MiB"
    )


def compile_time(name: str) -> None:
    """First calls in fresh processes."""
    with tempfile.TemporaryDirectory() as cache:
        environment = bench_host.environment(
            JAX_COMPILATION_CACHE_DIR=cache,
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            XLA_PYTHON_CLIENT_PREALLOCATE="false",  # this process holds a part of the GPU's memory
        )
        command = [sys.executable, __file__, "--first-call", name]
        seconds = [
            float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            for _ in range(2)
        ]
    print(f"  compilation: a first call takes {seconds[0]:.1f} s more than the next; {seconds[1]:.1f} s with a cache")


def first_call(name: str, k: int, tol: float) -> None:
    """Print by how many seconds the first call is longer than the second."""
    op, _ = trained(name, steps=0)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(eigsh(op, k=k, tol=tol))
        seconds.append(time.perf_counter() - started)
    print(seconds[0] - seconds[1])


# ---- networks -------------------------------------------------------------------------------------------------------------------


def trained(name: str, steps: int = 50) -> tuple[Operator, Any]:
    """The Hessian of a network after some steps of heavy ball, and its parameters."""
    inputs, targets = data(name)
    params = network([inputs.shape[1], *HIDDEN[name], 10], seed=0)
    params = heavy_ball(params, inputs, targets, steps)
    return hessian(loss, params, inputs, targets), params


def data(name: str) -> tuple[Any, Any]:
    """Inputs (P, N) in float32, integer labels (P,)."""
    if name != "large":
        digits = load_digits()
        return standardized(digits.data), jnp.asarray(digits.target)
    random = np.random.default_rng(0)
    labels = random.integers(10, size=4096)
    centers = 0.2 * random.standard_normal((10, 784))
    return jnp.asarray(centers[labels] + random.standard_normal((4096, 784)), jnp.float32), jnp.asarray(labels)


def standardized(inputs: Any) -> Any:
    """Features of mean 0 and deviation 1, those of none but rounding as they are."""
    deviation = inputs.std(0)
    return jnp.asarray((inputs - inputs.mean(0)) / np.where(deviation > 1e-3, deviation, 1), jnp.float32)


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


def outputs(params: Any, inputs: Any) -> Any:
    """(P, 10) of the tanh network."""
    for layer in params[:-1]:
        inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"])
    return inputs @ params[-1]["kernel"] + params[-1]["bias"]


def loss(params: Any, inputs: Any, targets: Any) -> Any:
    """Mean cross-entropy."""
    logits = jax.nn.log_softmax(outputs(params, inputs))
    return -jnp.mean(jnp.take_along_axis(logits, targets[:, None], axis=1))


def squared_error(params: Any, inputs: Any, targets: Any) -> Any:
    """Half the squared error, summed over outputs, a mean over examples."""
    return 0.5 * jnp.mean(jnp.sum((outputs(params, inputs) - targets) ** 2, axis=1))


@jax.jit
def heavy_ball(params: Any, inputs: Any, targets: Any, steps: Any) -> Any:
    """Parameters after some steps with lr 0.1, momentum 0.9."""

    def step(_: Any, carry: Any) -> Any:
        params, velocity = carry
        gradient = jax.grad(loss)(params, inputs, targets)
        velocity = jax.tree.map(lambda v, g: 0.9 * v - 0.1 * g, velocity, gradient)
        return jax.tree.map(jnp.add, params, velocity), velocity

    return jax.lax.fori_loop(0, steps, step, (params, jax.tree.map(jnp.zeros_like, params)))[0]


# ---- the unit -------------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="count")  # a loop of unknown trip count waits for the host on a GPU
def products(op: Any, v: Any, count: int) -> Any:
    """`count` products, each of a unit vector made from the one before, in one loop."""

    def step(_: Any, v: Any) -> Any:
        image = op(v)
        length = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(image)))
        return jax.tree.map(lambda leaf: leaf / length, image)

    return jax.lax.fori_loop(0, count, step, v)


def unit(op: Operator) -> Any:
    """A random unit vector of the operator's space."""
    v = jax.random.normal(jax.random.key(1), (op.size,), op.dtype)
    return op.space.tree(v / jnp.linalg.norm(v))


def lanczos_steps(op: Operator, k: int, tol: float) -> int:
    """Steps after which Lanczos from one random vector, fully reorthogonalised in float64, has the k largest to tol·‖H‖."""

    @jax.jit
    def product(op: Operator, q: Any) -> Any:
        return flat_product(op, op.space)(q)

    q = [np.asarray(op.space.flat(unit(op)), np.float64)]
    alphas, betas = [], []
    while True:
        image = np.asarray(product(op, jnp.asarray(q[-1], op.dtype)), np.float64)
        alphas.append(q[-1] @ image)
        rows = np.array(q)
        for _ in range(2):
            image = image - (rows @ image) @ rows
        betas.append(np.linalg.norm(image))
        q.append(image / betas[-1])
        theta, y = np.linalg.eigh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))
        if len(theta) >= k and (betas[-1] * np.abs(y[-1, -k:])).max() <= tol * np.abs(theta).max():
            return len(theta)


# ---- time -----------------------------------------------------------------------------------------------------------------------


def in_turn(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Wall seconds of each call, round by round, after one call of each that is not counted."""
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - started)
    return times


def ratio(times: dict[str, list[float]], name: str, by: str) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times[name], times[by], strict=True))


if __name__ == "__main__":
    main()
