"""The picture and the figures of docs/spectra.md. python scripts/picture_spectra.py docs/spectra.svg

A tanh network 64-24-10 on the digits, standardized, cross-entropy, after 300 steps of heavy ball, in float64 unless said: small enough for
the dense Hessian, beside which everything is drawn.
"""

import sys
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import bench_spectrum as bench  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib as mpl  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import curvexp  # noqa: E402
from curvexp import preprocess  # noqa: E402
from curvexp import problem as problems  # noqa: E402

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"  # safe for the colour-blind (Okabe, Ito)


def main() -> None:
    inputs, targets = bench.data("small")
    inputs = inputs.astype(jnp.float64)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), bench.network([64, 24, 10], seed=0))
    params = bench.heavy_ball(params, inputs, targets, 300)
    op = curvexp.hessian(bench.loss, params, inputs, targets)
    exact = np.linalg.eigvalsh(op.dense())
    mpl.rcParams.update(
        {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "curvexp"}
    )
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    draw_density(left, op, exact)
    draw_layers(middle, op)
    draw_samples(right, params, inputs, targets, exact[-1])
    figure.savefig(sys.argv[1], format="svg", metadata={"Date": None})
    print_precision(params, inputs, targets, exact)
    print_batchnorm()


def draw_density(axis: Any, op: curvexp.Operator, exact: np.ndarray) -> None:
    """Quadrature with its error beside the exact spectrum, smoothed alike; the largest ones as spikes."""
    top = curvexp.eigsh(op, k=10, tol=1e-6)
    found = curvexp.spectral_density(op, probes=10, steps=80, spikes=top)
    x = np.asarray(found.x)
    low, high = (np.maximum(np.asarray(found.density + sign * 2 * found.stderr), 1e-9) for sign in (-1, 1))
    width = float(found.width)
    bells = np.exp(-0.5 * ((x[:, None] - exact[:-10]) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    axis.fill_between(x, low, high, color=BLUE, alpha=0.3, linewidth=0, label="10 × 80 products, ± 2 s.e.")
    axis.plot(x, bells.sum(axis=1) / len(exact), color="black", linewidth=1, linestyle="--", label="LAPACK, smoothed")
    axis.plot(
        top.eigenvalues,
        np.full(10, 1 / len(exact)),
        "|",
        color=ORANGE,
        markersize=14,
        markeredgewidth=1.5,
        label="ten largest, one by one",
    )
    axis.set(yscale="log", ylim=(1e-4, None), xlabel="eigenvalue λ", ylabel="density", title="all eigenvalues")
    axis.legend(frameon=False)
    inside = np.mean((bells.sum(axis=1) / len(exact) >= low) & (bells.sum(axis=1) / len(exact) <= high))
    trace, truth = len(exact) * float(found.mean), exact.sum()
    print(f"density: {int(found.matvecs)} products; the exact one lies in the band on {100 * inside:.0f} % of the axis")
    print(f"trace: {trace:.4f} ± {len(exact) * float(found.mean_stderr):.4f}, exact {truth:.4f}")
    found = curvexp.inertia(op, dense_below=0, floor=1e-2 * exact[-1], probes=10, steps=80)
    counts = [int((exact > found.floor).sum()), int((exact < -found.floor).sum())]
    print(
        f"counts beyond ±{found.floor:.3g}: {found.positive:.1f} above, {found.negative:.1f} below, ± {found.stderr:.1f}, "
        f"blur {found.blur:.1f}; exact {counts[0]}, {counts[1]}"
    )


def draw_layers(axis: Any, op: curvexp.Operator) -> None:
    """Largest eigenvalues of the blocks of the layers and of the whole: they interlace."""
    names = {"0": "hidden layer", "1": "output layer"}
    series = [
        (names[name], block, color)
        for (name, block), color in zip(curvexp.layers(op).items(), (GREEN, ORANGE), strict=True)
    ]
    for name, block, color in [("whole network", op, BLUE), *series]:
        top = np.asarray(curvexp.eigsh(block, k=20, tol=1e-6).eigenvalues)[::-1]
        axis.plot(np.arange(1, 21), top, "o-", color=color, markersize=3, linewidth=1, label=name)
        print(f"{name}: λmax {top[0]:.4f}")
    axis.set(yscale="log", xlabel="rank", title="by layer", xticks=[1, 5, 10, 15, 20])
    axis.legend(frameon=False)


def draw_samples(axis: Any, params: Any, inputs: Any, targets: Any, truth: float) -> None:
    """λmax of samples of the examples, with the error that each states."""
    random, count = np.random.default_rng(0), len(inputs)
    for size in (60, 120, 240, 480, 960):
        for draw in range(8):
            chosen = random.choice(count, size, replace=False)
            part = (inputs[chosen], targets[chosen])
            top = curvexp.eigsh(curvexp.hessian(bench.loss, params, *part), k=1, tol=1e-5)
            error = curvexp.sampling_error(bench.loss, params, *part, vectors=top.eigenvectors, population=count)
            at = size * 1.06 ** (draw - 3.5)
            axis.errorbar(
                at,
                float(top.eigenvalues[-1]),
                2 * float(error.stderr[-1]),
                fmt=".",
                color=BLUE,
                markersize=3,
                linewidth=0.8,
            )
    axis.axhline(truth, color="black", linewidth=1, linestyle="--", label=f"all {count}")
    axis.set(xscale="log", xlabel="examples in the sample", title="λmax of a sample, ± 2 s.e.")
    axis.set_xticks([60, 120, 240, 480, 960], ["60", "120", "240", "480", "960"], minor=False)
    axis.minorticks_off()
    axis.legend(frameon=False)


def print_precision(params: Any, inputs: Any, targets: Any, exact: np.ndarray) -> None:
    """What float32 does to the spectrum."""
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    dense = np.asarray(curvexp.hessian(bench.loss, single, inputs.astype(jnp.float32), targets).dense(), np.float64)
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    print(
        f"λmax {exact[-1]:.6g}; float32: {values[-1]:.6g}; largest change {np.abs(values - exact).max() / exact[-1]:.1e} λmax"
    )
    for name, some, eps in (("float64", exact, 2.2e-16), ("float32", values, 1.2e-7)):
        zero = curvexp.condition_numbers(some, eps=eps)["below_floor"]
        print(f"  {name}: smallest |λ| {np.abs(some).min():.1e}, {zero} below the floor")


def print_batchnorm() -> None:
    """λmax at one and the same point under the modes of batch normalization."""
    for mode, ghost in (("batch", None), ("frozen", None), ("ghost", 100), ("ghost", 20)):
        options = {"mode": mode, **({"ghost": ghost} if ghost else {})}
        problem = problems.mlp(
            preprocess=preprocess.batchnorm(**options), dtype=jnp.float64, data=problems.data.digits(), hidden=[24]
        )
        params = problem.init(jax.random.key(0))
        top = curvexp.eigsh(curvexp.hessian(problem.loss, params, problem.data), k=1, tol=1e-6)
        print(
            f"batchnorm {mode} {ghost or ''}: loss {float(problem.loss(params, problem.data)):.6f}, λmax {float(top.eigenvalues[-1]):.4f}"
        )


if __name__ == "__main__":
    main()
