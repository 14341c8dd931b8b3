"""The spectrum by block: the largest eigenvalues of each layer, or of the parameters that a pattern of paths matches."""

import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from curvexp import memory
from curvexp.curvature import Objective, Operator, block
from curvexp.curvature.blocks import layer_paths, paths
from curvexp.errors import ConfigError
from curvexp.linalg import Eigenpairs, dense_eigh, spectral_density
from curvexp.linalg.lapack import fetch
from curvexp.linalg.layout import LARGE
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, space_of
from curvexp.probe.arguments import (
    basis_bytes,
    check_basis,
    check_count,
    check_data,
    check_optional_count,
    check_pairs,
    check_tolerance,
    checked_pairs,
)
from curvexp.probe.base import CHECK_EVERY, Probe, State
from curvexp.probe.ends import Ends, ends_reading
from curvexp.probe.operators import check_operator, check_parts, operator_of
from curvexp.probe.solve import chance, next_state, solved, tracked_from
from curvexp.problem import Problem
from curvexp.record import Reading
from curvexp.types import Params, RandomKey

POINTS = 512  # of a density
SHOWN = 20  # paths that a refusal names


def blocks(
    *,
    k: int | None = None,
    every: int = 100,
    check_every: int = CHECK_EVERY,
    tol: float = 1e-3,
    by: Literal["layer"] | Sequence[str] = "layer",
    density: bool = False,
    vectors: int = 10,
    depth: int = 80,
    chunk: int | None = None,
    dense_below: int = 200,
    operator: str = "hessian",
) -> Probe:
    """The k largest eigenvalues of each block on the operator's diagonal, beside what `top` measures of the whole.

    A reading has `blocks` in `extra`, {name: {size, eigenvalues, residuals, missed}}; with a density trace, trace_stderr and density too.
    Each block has a program of its own, which all readings share; a product with a block costs a product with the whole.

    Args:
        k: eigenpairs of each block, or all where it has fewer; and of each end of the whole. None: five.
        every, check_every, tol, chunk, operator: as for `top`.
        by: layer, the arrays that lie side by side are a block, named by their path; or a list of patterns of parameter paths, such as
            `*/kernel` or `Dense_0`, each a block of all that lies at or under a path that it matches, named by the pattern. `*` takes
            slashes too. Blocks of patterns may overlap.
        density: whether the spectral density of each block is measured too.
        vectors, depth: of the density, as for `density`.
        dense_below: a block, or the whole, of up to so many parameters is computed densely, and then its density has no standard error.

    Source: Sagun et al. 2018 and Ghorbani et al. 2019 on the spectrum; Zhang et al. 2024 (arXiv:2402.16788) on its blocks.
    """
    check_operator(operator)
    pairs = checked_pairs(k)
    check_count("every", every)
    check_count("check_every", check_every)
    check_tolerance(tol)
    by = checked_by(by)
    if not isinstance(density, bool):
        raise ConfigError(f"probe.density={density}: expected true or false. Change probe.density.")
    check_count("vectors", vectors, least=2)
    check_count("depth", depth)
    check_optional_count("chunk", chunk)
    check_count("dense_below", dense_below, least=0)
    whole = Ends(pairs, "BE", tol, check_every, dense_below=dense_below)
    each = Each(whole._replace(which="LA"), density, vectors, depth)

    def check(size: int, problem: Problem) -> None:
        check_pairs(k, size)
        check_parts(operator, problem)
        check_data(problem, None, chunk)
        if not whole.is_dense(size):
            check_basis(whole.wanted, size, problem)
        check_members(by, each, problem)

    def measure(
        loss: Objective, params: Params, state: State, key: RandomKey, *, last: bool = False
    ) -> tuple[Reading, State]:
        before = state or {"whole": None, "blocks": {}}
        op = operator_of(loss, params, operator=operator, chunk=chunk)
        reading, kept = ends_reading(whole, loss, params, op, before["whole"], key, operator=operator, last=last)
        if not np.isfinite(reading.eigenvalues).all():
            return reading, None
        found, states, made = {}, {}, 0
        for name, members in members_of(op.space, by).items():
            part = block(op, frozenset(members).__contains__)
            found[name], states[name], products = each(part, before["blocks"].get(name), key, last)
            made += products
        scalars = {**reading.scalars, "hvps": reading.scalars["hvps"] + made}
        reading = reading._replace(scalars=scalars, extra={**reading.extra, "blocks": found})
        return reading, {"whole": kept, "blocks": states}

    last = functools.partial(measure, last=True)
    fills: Callable[[int], bool] = lambda size: size > LARGE  # noqa: E731
    return Probe("blocks", measure, every, None, check, tol, check_every, last, fills=fills)


class Each(NamedTuple):
    """How the spectrum of one block is measured.

    Attributes:
        ends: of which the largest alone are asked for. density: whether it is measured. vectors, depth: of it.
    """

    ends: Ends
    density: bool
    vectors: int
    depth: int

    def __call__(self, part: Operator, state: State, key: RandomKey, last: bool) -> tuple[dict[str, Any], State, int]:
        """What is recorded of a block, the state for the next reading, and the products that it took."""
        ends, n = self.ends, part.size
        if ends.is_dense(n):
            side_by_side = (
                None if ends.is_dense(part.operands.size) else 1
            )  # products with a large whole are made one by one
            values, _, residuals = dense_eigh(fetch(part.dense(chunk=side_by_side)))
            top = slice(max(n - ends.pairs, 0), None)
            entry = {"size": n, "eigenvalues": values[top], "residuals": residuals[top], "missed": 0.0}
            if self.density:
                entry |= {"trace": float(values.sum()), "trace_stderr": 0.0}
                if top.start:
                    entry["density"] = smoothed(values[: top.start], size=n, depth=self.depth)
            return entry, None, n
        tracked = tracked_from(state, ends.check_every, last)
        check: Literal["full"] | None = "full" if tracked.full else None
        found = solved(part, k=ends.pairs, which="LA", tol=ends.tol, start=tracked.start, check=check, key=key)
        made, kept = int(found.matvecs), next_state(tracked, found)
        eigenvalues, residuals = (np.asarray(a, np.float64) for a in (found.eigenvalues, found.residuals))
        entry = {"size": n, "eigenvalues": eigenvalues, "residuals": residuals, "missed": chance(found.missed)}
        if self.density and kept is not None:
            more, products = self._density(part, found, key)
            entry, made = {**entry, **more}, made + products
        return entry, kept, made

    def _density(self, part: Operator, found: Eigenpairs, key: RandomKey) -> tuple[dict[str, Any], int]:
        rest = fetch(spectral_density(part, probes=self.vectors, steps=self.depth, spikes=found, key=key))
        curve = {name: np.asarray(getattr(rest, name), np.float64) for name in ("x", "density", "stderr")}
        n = part.size
        scalars = {"trace": n * float(rest.mean), "trace_stderr": n * float(rest.mean_stderr)}
        return {**scalars, "density": {**curve, "width": float(rest.width)}}, int(rest.matvecs)


def smoothed(values: Float64[np.ndarray, "k"], *, size: int, depth: int) -> dict[str, Any]:
    """The density of known eigenvalues in the form of `spectral_density`: a bell of mass 1/size each, of deviation range/depth.

    Args:
        values: those of `size` eigenvalues that are not shown one by one; one at least.
    """
    reach, largest = float(np.ptp(values)), float(np.abs(values).max())
    width = (reach if reach > 1e-9 * largest else largest or 1.0) / depth
    x = np.linspace(values.min() - 4 * width, values.max() + 4 * width, POINTS)
    bells = np.exp(-0.5 * ((x[:, None] - values) / width) ** 2).sum(axis=1)
    return {"x": x, "density": bells / (width * size * np.sqrt(2 * np.pi)), "stderr": np.zeros(POINTS), "width": width}


def members_of(space: Space, by: str | tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The paths of each block's arrays, by the block's name; none for a pattern that matches no path.

    Args:
        space: of the parameters. by: `layer`, or patterns.
    """
    if isinstance(by, str):
        return layer_paths(space)
    known = paths(space)
    return {pattern: tuple(path for path in known if _matches(path, pattern)) for pattern in by}


def checked_by(by: str | Sequence[str]) -> str | tuple[str, ...]:
    """`layer`, or the patterns; refuses what is neither, and a pattern that stands twice."""
    if by == "layer":
        return "layer"
    patterns = [] if isinstance(by, str) or not isinstance(by, Sequence) else list(by)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ConfigError(
            f"probe.by={by}: expected layer, or a list of patterns such as ['*/kernel']. Change probe.by."
        )
    twice = [pattern for pattern in patterns if patterns.count(pattern) > 1]
    if twice:
        raise ConfigError(
            f"probe.by={list(by)}: {twice[0]} stands twice; expected different patterns. Change probe.by."
        )
    return tuple(patterns)


def check_members(by: str | tuple[str, ...], each: Each, problem: Problem) -> None:
    """Refuses a pattern that matches no parameter, and blocks whose vectors the memory has no place for; nothing is computed."""
    space = space_of(jax.eval_shape(full_precision(problem.init), jax.random.key(0)))
    sizes = dict(zip(paths(space), (int(np.prod(shape)) for shape in space.shapes), strict=True))
    found = {name: sum(sizes[path] for path in members) for name, members in members_of(space, by).items()}
    for name, size in found.items():
        if not size:
            shown = ", ".join(list(sizes)[:SHOWN]) + (", ..." if len(sizes) > SHOWN else "")
            raise ConfigError(
                f"probe.by={name}: no parameter matches; expected a pattern of some of the paths {shown}. Change probe.by."
            )
    large = [size for size in found.values() if not each.ends.is_dense(size)]
    if not large:
        return
    pairs = each.ends.pairs
    itemsize = 8 if space.dtype == np.float64 else 4
    need = max(basis_bytes(pairs, size, problem.data) for size in large) + (pairs + 1) * itemsize * sum(large)
    what = f"a Krylov basis for the largest of {len(large)} blocks, of {max(large)} parameters, and {pairs + 1} vectors of each"
    memory.check("probe.k", pairs, what, need, "Lower probe.k, or choose fewer blocks by probe.by.")


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")
