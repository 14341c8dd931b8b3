"""Rows of bench_gpu.py: the spectral engine, beside as many bare products and beside others."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import bench_peers
import bench_products
import bench_spectrum as bench
import jax
import jax.numpy as jnp
import numpy as np
from bench_figures import Figure, Setting, ms

from curvexp.linalg import eigsh, spectral_density
from curvexp.linalg.lapack import threads


def pairs(setting: Setting) -> Iterator[Figure]:
    for name in setting.networks:
        yield from _pairs(name, setting)


def _pairs(name: str, setting: Setting) -> Iterator[Figure]:
    goals = {"small": ("≤ 1.6", "≤ 1.25"), "medium": ("≤ 1.3", "≤ 1.1"), "large": ("≤ 1.2", "≤ 1.1")}
    op, _ = bench.trained(name)
    like, fewest = bench.unit(op), bench.lanczos_steps(op, 5, 1e-3)
    calls = {
        "floor": lambda: bench.products(op, like, fewest),
        "unchecked": lambda: eigsh(op, k=5, tol=1e-3, check=0),
        "checked": lambda: eigsh(op, k=5, tol=1e-3),
    }
    times = bench.in_turn(calls, 2 * setting.repeats)
    floor = statistics.median(times["floor"])
    for call in ("unchecked", "checked"):
        found = int(calls[call]().matvecs)
        more = f"{found} products in {ms(times[call])}; floor {fewest} in {1e3 * floor:.2f} ms"
        goal = setting.goal(*goals[name]) if call == "unchecked" else None
        yield Figure(
            "top 5", f"{op.size} parameters, {call}, over the floor", bench.ratio(times, call, "floor"), goal, more
        )


def peers(setting: Setting) -> Iterator[Figure]:
    for name in setting.networks[:2]:
        yield from _peers(name, setting)


def _peers(name: str, setting: Setting) -> Iterator[Figure]:
    op, params = bench.trained(name)
    solvers, _ = bench_peers.peers(op, params, *bench.data(name), 10, 1e-3)
    start, fewest = op.space.flat(bench.unit(op)), bench.lanczos_steps(op, 10, 1e-3)

    def plain(depth: int) -> Any:
        return jax.block_until_ready(bench_peers.fixed_depth(op, start, depth=depth, k=10))

    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: eigsh(op, k=10, tol=1e-3),
        "ours, unchecked": lambda: eigsh(op, k=10, tol=1e-3, check=0),
        f"fixed-depth Lanczos of {fewest}": lambda: plain(fewest),
    }
    if "matfree" not in solvers:
        solvers["fixed-depth Lanczos"] = (plain, 20)
    calls |= bench_peers.settled(op, solvers, 10, 1e-3)
    times = bench.in_turn(calls, setting.repeats)
    for call in calls:
        if call != "ours":
            goal = None if call.startswith("ours") or "searched" in call else "≥ 1"
            goal = "≥ 2" if call.startswith(("hessian", "curvlinops")) else goal
            value = bench.ratio(times, call, "ours")
            yield Figure(
                "top 10",
                f"{op.size} parameters, {call}, over ours",
                value,
                goal,
                f"{ms(times[call])} over {ms(times['ours'])}",
            )


def density(setting: Setting) -> Iterator[Figure]:
    for name in setting.networks[:2]:
        yield from _density(name, setting)


def _density(name: str, setting: Setting) -> Iterator[Figure]:
    goals = {"small": ("≤ 0.5", "≤ 1.1"), "medium": ("≤ 1.0", "≤ 1.1")}
    op, _ = bench.trained(name)
    like = bench.unit(op)
    calls: dict[str, Callable[[], Any]] = {"floor": lambda: bench.products(op, like, 800)}
    for batch in (None, 1, 2, 5, 10):
        calls[f"batch {batch or 'as chosen'}"] = lambda batch=batch: spectral_density(
            op, probes=10, steps=80, batch=batch
        )
    times = bench.in_turn(calls, 1 if setting.quick else 3)
    for call in list(calls)[1:]:
        goal = setting.goal(*goals[name]) if call.endswith("chosen") else None
        more = f"{ms(times[call])} over {ms(times['floor'])}"
        yield Figure(
            "density",
            f"{op.size} parameters, {call}, over 800 products",
            bench.ratio(times, call, "floor"),
            goal,
            more,
        )


def products(setting: Setting) -> Iterator[Figure]:
    for name in setting.networks:
        batches = bench_products.BATCHES if name != "large" else (1, 5)
        for row in bench_products.rows(name, setting.repeats, batches=batches):
            what = f"{name}, {row.mode}, {row.precision}, batch {row.batch}, ms a vector"
            yield Figure("product", what, 1e3 * row.seconds, None, f"error {row.error:.1e}")


def compile_(setting: Setting) -> Iterator[Figure]:
    """Networks of widths that nothing else here has; no cache of compiled programs."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        inputs, targets = bench.data("small")
        taken: dict[str, list[float]] = {"product": [], "eigsh": []}
        for width in (41, 57) if setting.quick else (41, 57, 73):
            params = bench.network([64, width, width, 10], seed=0)
            op = bench.hessian(bench.loss, params, inputs, targets)
            like = bench.unit(op)
            taken["product"].append(first_call(lambda op=op, like=like: op(like)))
            taken["eigsh"].append(first_call(lambda op=op: eigsh(op, k=5, tol=1e-3)))
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", folder)
    product, whole = (statistics.median(taken[name]) for name in ("product", "eigsh"))
    more = f"eigsh {whole:.2f} s, a product {product:.2f} s"
    yield Figure(
        "compile", "eigsh, seconds beyond a product's own", whole - product, setting.goal("≤ 1.5", "≤ 1.2"), more
    )


def first_call(function: Callable[[], Any]) -> float:
    """Seconds by which the first call is longer than the second."""
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return times[0] - times[1]


def eigh(setting: Setting) -> Iterator[Figure]:
    """One matrix as `eigsh` has it, ten of 80 rows as a density has them."""
    device = jax.jit(jnp.linalg.eigh)
    moved = jax.jit(lambda matrix: 1.0 * matrix)
    for shape in ((30, 30), (48, 48), (60, 60), (10, 80, 80)):
        random = np.random.default_rng(0).standard_normal(shape)
        matrix = jnp.asarray(random + np.swapaxes(random, -1, -2), jnp.float32)

        def host(matrix: Any = matrix) -> Any:
            with threads(matrix.shape[-1]):
                return [jnp.asarray(part) for part in np.linalg.eigh(np.asarray(moved(matrix)))]

        times = bench.in_turn({"device": lambda matrix=matrix: device(matrix), "host": host}, 20)
        what = f"{'x'.join(map(str, shape))}, device over host"
        more = f"{ms(times['device'])} over {ms(times['host'])}"
        yield Figure("eigh", what, bench.ratio(times, "device", "host"), None, more)
