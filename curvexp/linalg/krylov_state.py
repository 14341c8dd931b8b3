"""What block Krylov-Schur carries from product to product."""

from typing import Any, NamedTuple

from curvexp.linalg.layout import Layout
from curvexp.record import SURE

EXTEND, RESTART, EMPTY, CHECK, MISSED, DROP, STOP = range(7)  # what the inner loop ends with


RUNNING, CONVERGED, BUDGET, NON_FINITE = range(4)


TO_END, EIGHTH, FULL = -1, -2, -3  # products of the check


SMALL = 2048  # parameters, up to which TO_END may take as many products


LEAST, MOST = 6, 50  # products of the check: of EIGHTH and TO_END at least, of FULL at most


FAR = 10  # residuals of a start, in tolerances, from which on it is dropped: measured on networks, 1 to 64 steps between two solutions


CONFIDENCE = SURE  # probability, each end, of a missed eigenvalue that the check is content with


class Wanted(NamedTuple):
    """Which eigenvalues: static. k of them; which: LA, SA, LM, BE; size: rows of the basis; stride: steps between two tests; layout: of
    its vectors."""

    k: int
    which: str
    size: int
    stride: int
    layout: Layout


class Limits(NamedTuple):
    """Numbers of a run, as arrays: tol (relative residual), most products, most products of the check (EIGHTH of those made; TO_END: that,
    but in a small space as many as it takes; FULL: as many as it takes, at most MOST), and of the check after a start that
    was dropped."""

    tol: Any
    products: Any
    check: Any
    check_dropped: Any


class Found(NamedTuple):
    """Eigenvalues (k,) ascending, vectors (k, n), residuals (k,), products made, status, chance that one was
    missed, asymmetry, largest ‖Av‖ seen, what rounding and noise of the products add to a residual; chance that one below the first was
    missed, and above the last, (2,); scout (n,)."""

    values: Any
    vectors: Any
    residuals: Any
    products: Any
    status: Any
    missed: Any
    asymmetry: Any
    scale: Any
    noise: Any
    ends: Any
    scout: Any


class State(NamedTuple):
    """All that goes from product to product.

    Attributes:
        basis: V (size, n). matrix: T (size, size). done: rows multiplied. rows: rows there are. products: made.
        scale: largest ‖Av‖ seen. asymmetry: largest |u'Av − v'Au| seen.
        rounding: sum of the squares of u'Av − v'Au over ‖A‖², their number, number of restarts, (3,).
        event, status: numbers of this file. key: of random rows.
        values, residuals: of the wanted pairs as last looked at, (k,).
        checking: whether the check goes on. levels, polynomial, passed: of the check, (4,), (2, 4), (4,), see `levels_of`.
        begun: products when it began. found_end: whether the Krylov space was exhausted. check: most products of the check.
        least, trial: of a warm start, products that it takes at least, and after which it is judged; 0: never.
        scout: (n,), the start's, then this solution's own.
    """

    basis: Any
    matrix: Any
    done: Any
    rows: Any
    products: Any
    scale: Any
    asymmetry: Any
    rounding: Any
    event: Any
    status: Any
    key: Any
    values: Any
    residuals: Any
    checking: Any
    levels: Any
    polynomial: Any
    passed: Any
    begun: Any
    found_end: Any
    least: Any
    trial: Any
    check: Any
    scout: Any
