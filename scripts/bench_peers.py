"""`eigsh` and `spectral_density` beside other packages, on the same networks, parameters, data and threads.

    pip install -e '.[bench]' && pip install git+https://github.com/amirgholami/PyHessian    # the packaged PyHessian fails with this NumPy
    python scripts/bench_peers.py [--networks small medium] [--k 10] [--tol 1e-3] [--repeats 3] [--density]

Top k eigenvalues: a package with a depth (matfree, hessian-eigenthings) has it doubled from its default until every residual
‖Hv − λv‖, computed here by one product, is within tol·‖H‖; only that depth is timed, a first call apart. PyHessian stops by itself; what it
gave is printed beside the truth. Times in turn, in one process; a ratio is the median of the ratios of the rounds. `searched` is the time
of all the depths tried, which is what it costs who does not know the depth.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import bench_host
import bench_spectrum as bench
import jax
import jax.numpy as jnp
import numpy as np

from curvexp.curvature import Operator
from curvexp.linalg import eigsh, spectral_density
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import flat_product

Solver = Callable[[int], tuple[Any, Any]]  # depth -> eigenvalues (k,), eigenvectors (k, n) in jax's order of parameters


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(bench.HIDDEN), default=["small", "medium"])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--density", action="store_true", help="the density too: minutes on the medium network")
    options = parser.parse_args()
    print(bench_host.headline())
    for name in options.networks:
        op, params = bench.trained(name)
        inputs, targets = bench.data(name)
        print(f"{name}: {op.size} parameters, top {options.k} to {options.tol:g}")
        solvers, densities = peers(op, params, inputs, targets, options.k, options.tol)
        if options.density:
            compare(densities, functools.partial(spectral_density, op, probes=10, steps=80), options.repeats)
        else:
            eigenvalues(op, solvers, options.k, options.tol, options.repeats)


def eigenvalues(op: Operator, solvers: dict[str, tuple[Solver, int]], k: int, tol: float, repeats: int) -> None:
    """Each peer at the first depth that holds the tolerance, beside ours."""
    found = eigsh(op, k=k, tol=tol)
    truth, _ = exact(op, k)
    off = np.max(np.abs(np.asarray(found.eigenvalues)[::-1] - truth) / np.abs(truth))
    print(f"  curvexp: {int(found.matvecs)} products, eigenvalues off by up to {100 * off:.2g} %")
    compare(settled(op, solvers, k, tol), lambda: eigsh(op, k=k, tol=tol), repeats)


def exact(op: Operator, k: int) -> tuple[np.ndarray, float]:
    """The k largest eigenvalues to a hundredth of what is asked for here, the largest first, and ‖H‖."""
    found = np.asarray(eigsh(op, k=k, tol=1e-5, check=0).eigenvalues)
    return found[::-1], float(np.abs(found).max())


def settled(op: Operator, solvers: dict[str, tuple[Solver, int]], k: int, tol: float) -> dict[str, Callable[[], Any]]:
    """Each solver at the first depth, doubled from its default, that holds the tolerance; and, as `searched`, with all the depths tried."""
    truth, norm = exact(op, k)
    calls: dict[str, Callable[[], Any]] = {}
    for name, (solver, default) in solvers.items():
        depth, depths = default, []
        while True:
            depths.append(depth)
            values, vectors = solver(depth)
            worst = largest_residual(op, values, vectors) / norm if vectors is not None else 0.0
            off = np.max(np.abs(np.sort(np.asarray(values, np.float64))[::-1][:k] - truth) / np.abs(truth))
            print(
                f"  {name}, depth {depth}: largest residual {worst:.1e}·‖H‖, eigenvalues off by up to {100 * off:.2g} %"
            )
            if worst <= tol or depth >= 640:
                break
            depth *= 2
        calls[name] = lambda solver=solver, depth=depth: solver(depth)
        if len(depths) > 1:
            calls[f"{name}, searched"] = lambda solver=solver, depths=depths: [solver(depth) for depth in depths]
    return calls


def compare(others: dict[str, Callable[[], Any]], ours: Callable[[], Any], repeats: int) -> None:
    """Seconds of each, and as multiples of ours."""
    times = bench.in_turn({"curvexp": ours, **others}, repeats)
    for name in times:
        print(f"  {name}: {statistics.median(times[name]):.3f} s, {bench.ratio(times, name, 'curvexp'):.2f} of curvexp")


def largest_residual(op: Operator, values: Any, vectors: Any) -> float:
    """max ‖Hv − λv‖ over unit vectors."""
    worst = 0.0
    for value, vector in zip(np.asarray(values), np.asarray(vectors, np.float32), strict=True):
        vector = vector / np.linalg.norm(vector)
        worst = max(worst, float(np.linalg.norm(np.asarray(_product(op, jnp.asarray(vector))) - value * vector)))
    return worst


@jax.jit
def _product(op: Operator, v: Any) -> Any:
    return flat_product(op, op.space)(v)


@functools.partial(jax.jit, static_argnames=("depth", "k"))
def fixed_depth(op: Operator, start: Any, *, depth: int, k: int) -> tuple[Any, Any]:
    """The k largest Ritz pairs, the largest first, after so many Lanczos steps with two passes of full Gram-Schmidt: one scan, as matfree's
    program is."""
    product = flat_product(op, op.space)

    def step(carry: Any, i: Any) -> Any:
        basis, v = carry
        basis = basis.at[i].set(v)
        image = product(v)
        alpha = jnp.vdot(v, image)
        for _ in range(2):
            image = image - jnp.matmul(jnp.matmul(basis, image, precision="highest"), basis, precision="highest")
        beta = jnp.linalg.norm(image)
        return (basis, image / beta), (alpha, beta)

    basis = jnp.zeros((depth, op.size), op.dtype)
    (basis, _), (alphas, betas) = jax.lax.scan(step, (basis, start / jnp.linalg.norm(start)), jnp.arange(depth))
    off = jnp.diag(betas[:-1], 1)
    theta, y = jnp.linalg.eigh(jnp.diag(alphas) + off + off.T)
    return theta[::-1][:k], jnp.matmul(y[:, ::-1][:, :k].T, basis, precision="highest")


def peers(
    op: Operator, params: Any, inputs: Any, targets: Any, k: int, tol: float
) -> tuple[dict[str, tuple[Solver, int]], dict[str, Callable[[], Any]]]:
    """Solvers with their default depths, and densities of 10 vectors by 80 steps; those of packages that are installed."""
    solvers: dict[str, tuple[Solver, int]] = {}
    densities: dict[str, Callable[[], Any]] = {}
    for add in (_matfree, _eigenthings, _curvlinops, _pyhessian):
        try:
            add(solvers, densities, op, params, inputs, targets, k, tol)
        except ImportError as absent:
            print(f"  {add.__name__[1:]}: not installed ({absent.name})")
    return solvers, densities


def _matfree(solvers: Any, densities: Any, op: Any, params: Any, inputs: Any, targets: Any, k: int, tol: float) -> None:
    from matfree import decomp, eig

    start = op.space.flat(bench.unit(op))

    @jax.jit
    @full_precision  # as ours is
    def product(v: Any, params: Any) -> Any:
        loss = lambda p: bench.loss(p, inputs, targets)  # noqa: E731
        image = jax.jvp(jax.grad(loss), (params,), (op.space.tree(v),))[1]
        return op.space.flat(image)

    programs: dict[int, Any] = {}

    def solve(depth: int) -> tuple[Any, Any]:
        if depth not in programs:
            programs[depth] = jax.jit(
                lambda v, p: eig.eigh_partial(decomp.tridiag_sym(depth))(lambda x: product(x, p), v)
            )
        values, vectors = jax.block_until_ready(programs[depth](start, params))
        return values[-k:][::-1], vectors[-k:][::-1]

    def density() -> Any:
        return jax.block_until_ready(quadratures(jax.random.split(jax.random.key(0), 10), params))

    @jax.jit
    def quadratures(keys: Any, params: Any) -> Any:
        def one(key: Any) -> Any:
            v = jax.random.normal(key, (op.size,))
            _, matrix, *_ = decomp.tridiag_sym(80)(lambda x: product(x, params), v / jnp.linalg.norm(v))
            return jnp.linalg.eigh(matrix)

        return jax.lax.map(one, keys)

    densities["matfree"] = density
    solvers["matfree"] = (solve, 20)


def _model(params: Any, inputs: Any, targets: Any) -> tuple[Any, Any, Any]:
    """The network, inputs and labels as torch's, on its GPU where it has one; products in float32, torch's default."""
    import torch

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers: list[Any] = []
    for i, layer in enumerate(params):
        linear = torch.nn.Linear(*layer["kernel"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.array(layer["kernel"]).T))
            linear.bias.copy_(torch.tensor(np.array(layer["bias"])))
        layers += [linear, torch.nn.Tanh()] if i < len(params) - 1 else [linear]
    x, y = torch.tensor(np.array(inputs)), torch.tensor(np.array(targets)).long()
    return torch.nn.Sequential(*layers).to(where), x.to(where), y.to(where)


def _in_our_order(flat: Any, params: Any) -> np.ndarray:
    """A vector in torch's order (weight (out, in), bias) as (bias, kernel (in, out)), jax's order of a layer's dict."""
    flat, parts, at = np.asarray(flat), [], 0
    for layer in params:
        a, b = layer["kernel"].shape
        weight, bias = flat[at : at + a * b], flat[at + a * b : at + a * b + b]
        parts += [bias, weight.reshape(b, a).T.ravel()]
        at += a * b + b
    return np.concatenate(parts)


def _eigenthings(
    solvers: Any, densities: Any, op: Any, params: Any, inputs: Any, targets: Any, k: int, tol: float
) -> None:
    import hessian_eigenthings as he
    import torch

    model, x, y = _model(params, inputs, targets)
    operator = he.HessianOperator(model, [(x, y)], he.supervised_loss(torch.nn.functional.cross_entropy))

    def solve(depth: int) -> tuple[Any, Any]:
        found = he.lanczos(operator, k=k, max_iter=depth, which="LA", seed=0, tol=tol)
        vectors = np.array([_in_our_order(v, params) for v in found.eigenvectors.cpu().numpy()])
        return found.eigenvalues.cpu().numpy(), vectors

    solvers["hessian-eigenthings"] = (solve, 2 * k)
    densities["hessian-eigenthings"] = lambda: he.spectral_density(operator, num_runs=10, lanczos_steps=80, seed=0)


def _curvlinops(
    solvers: Any, densities: Any, op: Any, params: Any, inputs: Any, targets: Any, k: int, tol: float
) -> None:
    import curvlinops
    import scipy.sparse.linalg
    import torch

    model, x, y = _model(params, inputs, targets)
    operator = curvlinops.HessianLinearOperator(
        model, torch.nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)], check_deterministic=False
    )
    start = np.random.default_rng(0).standard_normal(op.size).astype(np.float32)

    def solve(depth: int) -> tuple[Any, Any]:
        values, vectors = scipy.sparse.linalg.eigsh(operator.to_scipy(), k=k, which="LA", tol=tol, v0=start)
        return values[::-1], np.array([_in_our_order(v, params) for v in vectors.T[::-1]])

    solvers["curvlinops + ARPACK"] = (solve, 20)
    # boundaries given: it would look for them first
    densities["curvlinops"] = lambda: curvlinops.lanczos_approximate_spectrum(
        operator, ncv=80, num_repeats=10, boundaries=(-1.0, 100.0)
    )


def _pyhessian(
    solvers: Any, densities: Any, op: Any, params: Any, inputs: Any, targets: Any, k: int, tol: float
) -> None:
    import torch
    from pyhessian import hessian

    model, x, y = _model(params, inputs, targets)

    def solve(depth: int) -> tuple[Any, Any]:
        torch.manual_seed(0)
        computer = hessian(model, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=x.is_cuda)
        values, _ = computer.eigenvalues(maxIter=100, tol=tol, top_n=k)
        return np.array(values), None

    def density() -> Any:
        torch.manual_seed(0)
        return hessian(model, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=x.is_cuda).density(iter=80, n_v=10)

    solvers["PyHessian"] = (solve, 100)
    densities["PyHessian"] = density


if __name__ == "__main__":
    main()
