"""Hessian-vector products: how they are differentiated, in which precision, and how many vectors at once.

    python scripts/bench_products.py [--networks small medium large] [--repeats 5]

The networks of bench_spectrum.py. A figure is that of one vector in a compiled loop of known trip count, 20 products, or 200 where 20 take
less than 10 ms. An error is ‖Hv − (Hv in float64)‖ / ‖Hv‖ of a random vector v.

forward      forward over reverse in the loop, jvp of grad
reverse      reverse over forward, the gradient of ∇f·v
linearized   jax.linearize of the gradient before the loop, its linear part in the loop: what does not depend on the vector is computed once
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import bench_host
import bench_spectrum as bench
import jax
import jax.numpy as jnp
import numpy as np

MODES = ("forward", "reverse", "linearized")
BATCHES = (1, 2, 5, 10)
# names of JAX's; TF32 and bfloat16 in several passes are algorithms of a dot that not every device or shape has
PRECISIONS = ("highest", "default", "TF32_TF32_F32", "TF32_TF32_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9")


class Row(NamedTuple):
    """Seconds of one product of one vector, and its error where a float64 product was at hand."""

    mode: str
    precision: str
    batch: int
    seconds: float
    error: float


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(bench.HIDDEN), default=list(bench.HIDDEN))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(bench_host.headline())
    for name in options.networks:
        print(f"{name}: {bench.trained(name)[0].size} parameters")
        for row in rows(name, options.repeats):
            print(f"  {described(row)}", flush=True)


def described(row: Row) -> str:
    """A row in words."""
    return f"{row.mode:10} {row.precision:17} batch {row.batch:2}: {1e3 * row.seconds:.4f} ms a vector, error {row.error:.1e}"


def rows(
    name: str, repeats: int, *, modes: Any = MODES, precisions: Any = PRECISIONS, batches: Any = BATCHES
) -> Iterator[Row]:
    """Modes at full precision, several vectors at once for the first and the last mode, then precisions of one vector."""
    wished = [(mode, "highest", batch) for mode in modes for batch in batches if batch == 1 or mode != "reverse"]
    wished += [("linearized", precision, 1) for precision in precisions if precision != "highest"]
    _, params = bench.trained(name)
    inputs, targets = bench.data(name)
    flat, tree_of = jax.flatten_util.ravel_pytree(params)
    v = jax.random.normal(jax.random.key(1), flat.shape, flat.dtype)
    v = v / jnp.linalg.norm(v)
    exact = in_float64(params, inputs, targets, v)
    for mode, precision, batch in wished:
        try:
            with jax.default_matmul_precision(precision):
                yield measured(mode, precision, batch, (tree_of, flat, inputs, targets), v, exact, repeats)
        except Exception as error:  # a precision that this device, or this JAX, has not
            print(f"  {mode} {precision} batch {batch}: {str(error).splitlines()[0][:120]}", flush=True)


def measured(mode: str, precision: str, batch: int, case: Any, v: Any, exact: np.ndarray, repeats: int) -> Row:
    """One row."""
    tree_of, flat, inputs, targets = case

    def product(flat: Any, inputs: Any, targets: Any) -> Callable[[Any], Any]:
        gradient = jax.grad(lambda flat: bench.loss(tree_of(flat), inputs, targets))
        if mode == "forward":
            return lambda v: jax.jvp(gradient, (flat,), (v,))[1]
        if mode == "reverse":
            return lambda v: jax.grad(
                lambda flat: jax.jvp(lambda p: bench.loss(tree_of(p), inputs, targets), (flat,), (v,))[1]
            )(flat)
        return jax.linearize(gradient, flat)[1]

    @functools.partial(jax.jit, static_argnames="count")
    def loop(flat: Any, inputs: Any, targets: Any, rows: Any, count: int) -> Any:
        of_one = product(flat, inputs, targets)
        of_all = of_one if batch == 1 else jax.vmap(of_one)

        def step(_: Any, rows: Any) -> Any:
            images = of_all(rows)
            return images / jnp.linalg.norm(images, axis=-1, keepdims=True)

        return jax.lax.fori_loop(0, count, step, rows)

    many = v if batch == 1 else jnp.stack([v] * batch)
    once = jax.block_until_ready(jax.jit(lambda *case: product(*case)(v))(flat, inputs, targets))
    error = float(np.linalg.norm(np.asarray(once, np.float64) - exact) / np.linalg.norm(exact))
    count = 20
    seconds = timed(lambda: loop(flat, inputs, targets, many, count), 1)
    if seconds < 0.01:
        count = 200
    return Row(
        mode,
        precision,
        batch,
        timed(lambda: loop(flat, inputs, targets, many, count), repeats) / (count * batch),
        error,
    )


def timed(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def in_float64(params: Any, inputs: Any, targets: Any, v: Any) -> np.ndarray:
    """The product in float64, on the CPU where JAX has loaded one."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS=cuda
        host = jax.local_devices()[0]
    with jax.enable_x64(True), jax.default_device(host):
        params, inputs, v = jax.tree.map(lambda a: jax.device_put(np.asarray(a, np.float64), host), (params, inputs, v))
        targets = jax.device_put(np.asarray(targets), host)
        flat, tree_of = jax.flatten_util.ravel_pytree(params)
        gradient = jax.grad(lambda flat: bench.loss(tree_of(flat), inputs, targets))
        return np.asarray(jax.jit(lambda flat, v: jax.jvp(gradient, (flat,), (v,))[1])(flat, v))


if __name__ == "__main__":
    main()
