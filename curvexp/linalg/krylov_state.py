"""What block Krylov-Schur carries from stretch to stretch."""

from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Bool, Float

from curvexp.linalg.layout import Layout
from curvexp.record import SURE
from curvexp.types import AnyArray, AnyCount, AnyFlag, AnyReal, Vector

EXTEND, RESTART, EMPTY, CHECK, MISSED, DROP, STOP = range(7)  # what comes after a stretch


RUNNING, CONVERGED, BUDGET, NON_FINITE, BELOW_FLOOR, NOISY = range(6)  # status, see `Eigenpairs`


TO_END, EIGHTH, FULL = -1, -2, -3  # products of the check


SMALL = 2048  # parameters, up to which TO_END may take as many products


LEAST, MOST = 6, 50  # products of the check: of EIGHTH and TO_END at least, of FULL at most


FAR = 10  # residuals of a start, in tolerances, from which on it is dropped: measured on networks, 1 to 64 steps between two solutions


FLOOR = 10  # eps·‖A‖, below which rounding hides a residual


CONFIDENCE = SURE  # probability, each end, of a missed eigenvalue that the check is content with


Basis: TypeAlias = Float[Array, "size p"]  # a vector a row; p: n, and the zeros that fill the last part of a layout


Row: TypeAlias = Float[Array, "p"]


Packed: TypeAlias = Float[Array, "packed"]  # a Tally's entries in one array


class Wanted(NamedTuple):
    """Which eigenvalues: static. k of them; which: LA, SA, LM, BE; size: rows of the basis; stride: products between two looks; layout: of
    its vectors; known: whether a loop has to be of known length, as on an accelerator, which waits for the host at each turn of another:
    then the stride is that length.

    >>> wanted = Wanted(k=3, which="LA", size=10, stride=2, layout=Layout(100))
    >>> wanted.known
    False
    """

    k: int
    which: str
    size: int
    stride: int
    layout: Layout
    known: bool = False


class Limits(NamedTuple):
    """Numbers of a run, as arrays: tol (relative residual; where it is under FLOOR·eps, that is aimed at), most products, most products of
    the check (EIGHTH of those made; TO_END: that, but in a small space as many as it takes; FULL: as many as it takes, at most MOST), and
    of the check after a start that was dropped.

    >>> import numpy as np
    >>> Limits(np.float32(1e-3), np.int32(100), np.int32(TO_END), np.int32(EIGHTH)).check == TO_END
    np.True_
    """

    tol: AnyReal
    products: AnyCount
    check: AnyCount
    check_dropped: AnyCount


class Numbers(NamedTuple):
    """All of `Eigenpairs` but vectors, in the order of the eigenvalues; scale: largest ‖Av‖ seen."""

    eigenvalues: Float[AnyArray, "k"]
    residuals: Float[AnyArray, "k"]
    matvecs: AnyCount
    status: AnyCount
    missed: AnyReal
    asymmetry: AnyReal
    floor: AnyReal
    missed_ends: Float[AnyArray, "2"]
    scale: AnyReal


class Found(NamedTuple):
    """A solution."""

    numbers: Numbers
    vectors: Float[Array, "k n"] | Vector
    scout: Float[Array, "n"] | Vector


class Tally(NamedTuple):
    """What a stretch changes beside the basis.

    Attributes:
        columns: column j the coefficients of row j's image on the basis, with that on the row that it added; of columns not
            yet multiplied what is known of them. scale: largest ‖Av‖ seen. done: rows multiplied. rows: rows there are. finite: whether
            all images were.
    """

    columns: Float[AnyArray, "size size"]
    scale: AnyReal
    done: AnyCount
    rows: AnyCount
    finite: AnyFlag


class State(NamedTuple):
    """All that is decided by, without a vector.

    Attributes:
        tally: what the stretches left. matrix: T, symmetric, zero where nothing is known.
        asymmetry: largest |u'Av − v'Au| seen. defects: sum of the squares of u'Av − v'Au over ‖A‖², and their number, (2,).
        products: made. drawn: random rows. restarts: times that the basis was turned.
        until: products at which the next look is due; most: that are not to be exceeded before it. status: a number of this file.
        values, residuals: of the wanted pairs as last looked at.
        checking: whether the check goes on. levels, polynomial, passed: of the check, (4,), (2, 4), (4,), see `levels_of`.
        taken: rows that the polynomial has. begun: products when the check began. check: most products of it.
        found_end: whether the Krylov space was exhausted.
        started: rows of a warm start. trial: whether such a start may be dropped; judged: whether it has been judged;
            dropped: whether it was.
    """

    tally: Tally
    matrix: Float[AnyArray, "size size"]
    asymmetry: AnyReal
    defects: Float[AnyArray, "2"]
    products: AnyCount
    drawn: AnyCount
    restarts: AnyCount
    until: AnyCount
    most: AnyCount
    status: AnyCount
    values: Float[AnyArray, "k"]
    residuals: Float[AnyArray, "k"]
    checking: AnyFlag
    levels: Float[AnyArray, "4"]
    polynomial: Float[AnyArray, "2 4"]
    passed: Bool[AnyArray, "4"]
    taken: AnyCount
    begun: AnyCount
    check: AnyCount
    found_end: AnyFlag
    started: AnyCount
    trial: AnyFlag
    judged: AnyFlag
    dropped: AnyFlag

    def unknown(self, wanted: Wanted) -> AnyCount:
        """First rows of the basis whose images are not known."""
        return self.checking * (wanted.k + 1)


class Plan(NamedTuple):
    """What is done to the basis V after a stretch.

    Attributes:
        goes_on: whether nothing is done but to multiply the next rows.
        turn: Q, V becomes Q'V. turns: whether it is made. few: whether only the first k rows of Q'V are not zero.
        adds: whether a random row follows. row: its place. takes_scout: whether a row is the next solution's scout; scout: its place,
            −1 where none is left.
    """

    goes_on: AnyFlag
    turn: Float[AnyArray, "size size"]
    turns: AnyFlag
    few: AnyFlag
    adds: AnyFlag
    row: AnyCount
    takes_scout: AnyFlag
    scout: AnyCount
