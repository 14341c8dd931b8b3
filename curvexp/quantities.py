"""Every scalar that a run records: its name, symbol, section and meaning, once.

The console, the tables, the page with its glossary, W&B's sections, the dashboard and the tables of docs/ledger.md follow from this
list. A new scalar of ours is one entry here. A scalar of a person's own probe is described by the probe's `quantities`; a scalar that
nobody describes stands in the section `other`.

Notation: H is the Hessian of the loss over all training data, M the operator that the probe measures (H, unless `probe.operator` says
otherwise), A the operator that decides stability, g the gradient over all training data, s the coming step, α the step size.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from curvexp.errors import ConfigError

OPERATORS = {  # what a probe can measure: in a record's `operator`, and in words
    "hessian": "Hessian",
    "ggn": "generalized Gauss-Newton matrix",
    "fisher": "Fisher information",
}
SECTIONS = ("loss", "curvature", "theory", "timing", "other")  # in the order in which they are shown


class Quantity(NamedTuple):
    """A scalar that a run records, or a column of its records.

    Attributes:
        name: its key in metrics.jsonl, spectrum.jsonl and summary.json, and its column in `load_runs`.
        section: one of SECTIONS; the part before the slash of its key in W&B.
        meaning: one or two sentences, in Markdown.
        symbol: what a table or an axis calls the scalar; empty for the name itself.
        summary: whether every summary.json has the key, null where the scalar has no value.
        start: whether summary.json has the value of the first record too, as NAME_start.
        overview: whether the tables over many runs and the page's glossary show the scalar.
        extreme: the extreme that W&B's summary keeps beside the last value: min, max, or empty for none.
    """

    name: str
    section: str
    meaning: str
    symbol: str = ""
    summary: bool = False
    start: bool = False
    overview: bool = False
    extreme: str = ""

    @property
    def label(self) -> str:
        """The symbol, or the name where there is no symbol."""
        return self.symbol or self.name


LOSS = (
    Quantity(
        "loss",
        "loss",
        "training loss: a mean over the examples",
        summary=True,
        start=True,
        overview=True,
        extreme="min",
    ),
    Quantity("test_loss", "loss", "the same loss over the test data", extreme="min"),
    Quantity("accuracy", "loss", "share of the training examples that are classified rightly", extreme="max"),
    Quantity("test_accuracy", "loss", "share of the test examples that are classified rightly", extreme="max"),
    Quantity("grad_norm", "loss", "‖g‖; with minibatches the norm of the batch's gradient", "‖g‖"),
)

OUTCOME = (
    Quantity(
        "rate",
        "theory",
        "factor a step by which √(loss − minimum) shrinks, measured. Below 1 the run converges; the smaller, the faster",
        summary=True,
        overview=True,
    ),
    Quantity(
        "rate_theory",
        "theory",
        "the factor that theory gives for this spectrum, step size and momentum",
        "rate in theory",
        summary=True,
        overview=True,
    ),
    Quantity("target_loss", "loss", "loss at which the target counts as reached"),
    Quantity(
        "steps_to_target",
        "loss",
        "first step at which the loss reached its target: 1e-3 of the initial distance from the minimum where the minimum is known, "
        "else a loss of 0.1",
        "steps to target",
        summary=True,
        overview=True,
    ),
)

STABILITY = (
    Quantity("lr", "theory", "step size α of the coming step, from the optax state, schedule included", "α"),
    Quantity("momentum", "theory", "momentum of the coming step, from the optax state", "β"),
    Quantity(
        "threshold",
        "theory",
        "largest eigenvalue of A at which the coming step is stable: 2/α; heavy ball 2(1+β)/α; Nesterov 2(1+β)/(α(1+2β)); "
        "Adam 2(1+β₁)/((1−β₁)α); AdamW with decay w (1+β₁)(2−αw)/((1−β₁)α); infinite where a schedule reaches 0; null where A is not known",
        summary=True,
        overview=True,
    ),
    Quantity(
        "sharpness",
        "curvature",
        "λmax of A, the curvature that decides stability; null where A is not known, or M is not the Hessian. Above the threshold a step "
        "is unstable on a quadratic",
        summary=True,
        start=True,
        overview=True,
        extreme="max",
    ),
    Quantity(
        "sharpness_residual",
        "curvature",
        "residual of the sharpness, for an adaptive method; else the residual is `lambda_max_residual`",
    ),
    Quantity(
        "stability_margin",
        "theory",
        "sharpness/threshold: above 1 the sharpest direction grows",
        "sharpness/threshold",
        summary=True,
        start=True,
    ),
)

SPECTRUM = (
    Quantity(
        "lambda_max",
        "curvature",
        "largest eigenvalue of M, the measured operator: of the Hessian, how sharply the loss curves along its steepest direction",
        "λmax",
        summary=True,
        start=True,
        overview=True,
        extreme="max",
    ),
    Quantity(
        "lambda_min",
        "curvature",
        "smallest eigenvalue of M; of the Hessian, below 0 the loss curves downwards along its direction",
        "λmin",
        summary=True,
        start=True,
        extreme="min",
    ),
    Quantity("lambda_max_residual", "curvature", "‖Mv − λv‖ for λmax: some eigenvalue of M lies within it"),
    Quantity("lambda_min_residual", "curvature", "‖Mv − λv‖ for λmin: some eigenvalue of M lies within it"),
    *(
        Quantity(
            f"{name}_missed",
            "curvature",
            f"part of the spectrum: upper bound of the probability that an eigenvalue beyond {what}, by more than tol·‖A‖, was missed. 1: "
            "unchecked. The first, the last and each `probe.check_every`-th reading are checked. Above 1e-3 the value is marked: `?` in "
            "the tables, `unchecked` in spectrum.jsonl",
            start=True,
        )
        for name, what in (("lambda_max", "λmax"), ("lambda_min", "λmin"), ("sharpness", "the sharpness"))
    ),
    Quantity(
        "eigenvalues_missed",
        "curvature",
        "part of the spectrum of M: the same for any of the pairs that were asked for; of A it is `missed` in the ledger",
    ),
    Quantity(
        "lambda_max_sampling_error",
        "curvature",
        "sample of the examples: standard error of λmax as an estimate of the value over all examples",
    ),
    Quantity(
        "condition_number",
        "curvature",
        "whole spectrum: max\\|λ\\| / min\\|λ\\| of M. The larger, the slower gradient descent. Infinite where some eigenvalue is zero "
        "to rounding",
        "κ",
        summary=True,
        start=True,
        overview=True,
    ),
    Quantity(
        "condition_number_positive",
        "curvature",
        "whole spectrum: λmax over the smallest eigenvalue above the rounding floor",
        "κ⁺",
        summary=True,
        start=True,
        overview=True,
    ),
    Quantity(
        "condition_number_bound",
        "curvature",
        "part of the spectrum: a lower bound of the condition number",
        "κ ≥",
        start=True,
        overview=True,
    ),
    Quantity("floor", "curvature", "whole spectrum: the rounding floor n·eps·max\\|λ\\| of M"),
    Quantity("below_floor", "curvature", "whole spectrum: number of eigenvalues of M under the floor in size"),
    Quantity("index", "curvature", "whole spectrum: number of eigenvalues of M under −floor"),
    Quantity("rank", "curvature", "whole spectrum: number of eigenvalues of M beyond the floor on either side"),
    Quantity(
        "index_low",
        "curvature",
        "part of the spectrum: at least so many eigenvalues of M are negative, by interlacing",
    ),
    Quantity(
        "index_high",
        "curvature",
        "part of the spectrum: at most so many eigenvalues of M are negative: those under the first that is surely positive at the "
        "lower end, if the solver missed none there; else n less the positive ones",
    ),
    Quantity("rank_low", "curvature", "part of the spectrum: at least so many eigenvalues of M are not zero"),
    *(
        Quantity(f"effective_{name}", "curvature", f"the same of A, which is what the method itself sees: {what}")
        for name, what in (
            ("condition_number", "max\\|λ\\| / min\\|λ\\|"),
            ("condition_number_positive", "λmax over the smallest eigenvalue above the floor"),
            ("condition_number_bound", "a lower bound"),
        )
    ),
    Quantity("trace", "curvature", "density: tr M, estimated", "tr M"),
    Quantity("trace_stderr", "curvature", "density: standard error of the trace"),
    Quantity("negative_share", "curvature", "density: share of the eigenvalues of M that are negative, estimated"),
    Quantity("negative_share_stderr", "curvature", "density: standard error of the share"),
)

STEP = (
    Quantity("gradient_curvature", "curvature", "g'Hg/g'g, the curvature along the gradient", "g'Hg/g'g"),
    Quantity(
        "best_lr_gradient",
        "theory",
        "g'g/g'Hg, the best step size of gradient descent in the local model (Goodfellow et al. 2016, eq. 4.10)",
        "g'g/g'Hg",
    ),
    Quantity(
        "change_predicted",
        "theory",
        "change of the loss over all data in the coming step by its Taylor model, g's + ½s'Hs. With minibatches s is the step of the "
        "batch; g and H are of all data",
    ),
    Quantity(
        "change_actual",
        "theory",
        "change of the loss over all data in the coming step: the difference of two losses, to their rounding",
    ),
    Quantity(
        "best_step",
        "theory",
        "−g's/s'Hs, the multiple of s with the lowest loss in the model. Twice the multiple is level again; below 0 s leads uphill; "
        "infinite where the model falls for ever",
    ),
)

DIRECTIONS = (
    Quantity("gradient_share_tracked", "curvature", "share of ‖g‖² that all tracked directions hold together"),
    *(
        Quantity(
            f"bottleneck_{name}",
            section,
            f"along the tracked direction of positive λ with the most of the loss: {what}",
        )
        for name, section, what in (
            ("eigenvalue", "curvature", "its λ"),
            ("loss_share", "curvature", "its share of the loss"),
            ("gradient_share", "curvature", "its share of ‖g‖²"),
            ("contraction", "curvature", "factor a step by which the component shrank"),
            ("contraction_theory", "theory", "the factor in theory"),
        )
    ),
    Quantity("top_contraction", "curvature", "along λmax of A: factor a step by which the component shrank"),
    Quantity("top_contraction_theory", "theory", "along λmax of A: the factor in theory"),
    Quantity(
        "bottom_contraction",
        "curvature",
        "along λmin of A: factor a step by which the component shrank. Not with `probe.which=LA`, which looks at the largest alone",
    ),
    Quantity(
        "bottom_contraction_theory",
        "theory",
        "along λmin of A: the factor in theory. Negative curvature is left at \\|1 − αλ\\| > 1",
    ),
    Quantity("rest_gradient_share", "curvature", "part of the spectrum: share of ‖g‖² outside the tracked directions"),
    Quantity(
        "rest_curvature",
        "curvature",
        "part of the spectrum: Rayleigh quotient with A of g outside the tracked directions",
    ),
    Quantity(
        "rest_contraction",
        "curvature",
        "part of the spectrum: factor a step by which ‖g‖ shrank outside the tracked directions",
    ),
    Quantity(
        "rest_contraction_theory",
        "theory",
        "part of the spectrum: the factor in theory for an eigenvalue of `rest_curvature`; without momentum alone, whose rate is no "
        "function of a mean curvature",
    ),
)

NOISE = (
    Quantity(
        "batch_sharpness",
        "curvature",
        "minibatches: E[g_B'H_B g_B/‖g_B‖²] over batches B of the training's size, drawn without replacement, each with its own "
        "Hessian (Andreyev and Beneventano 2024). Over 8 to 32 batches; over all batches where there are no more than 32",
    ),
    Quantity("batch_sharpness_stderr", "curvature", "standard error of the mean over the batches; 0 over all batches"),
    Quantity(
        "trace_noise",
        "curvature",
        "minibatches, the same batches: tr(HΣ) = E[(g_B−g)'H(g_B−g)], Σ the covariance of the batch gradient. A step raises the loss "
        "by ½α²tr(HΣ) over that of all data. Examples that do not meet in batch normalization give Σ = Σ₁(P−B)/(B(P−1)), Σ₁ that of "
        "one example",
        "tr(HΣ)",
    ),
    Quantity("trace_noise_stderr", "curvature", "standard error of the mean over the batches; 0 over all batches"),
)

COST = (
    Quantity("seconds", "timing", "wall seconds since the start of the run", summary=True, overview=True),
    Quantity(
        "hvps",
        "timing",
        "products with H or M that the whole reading took; one over a batch of B of P examples counts B/P",
    ),
    Quantity(
        "probe_seconds",
        "timing",
        "wall seconds of the whole reading, with its compilation where it is the first (`run(..., clock=time.perf_counter)`)",
    ),
)

QUANTITIES = (*LOSS, *OUTCOME, *STABILITY, *SPECTRUM, *STEP, *DIRECTIONS, *NOISE, *COST)

COLUMNS = (  # of spectrum.jsonl: arrays and what else stands in a reading
    Quantity("eigenvalues", "curvature", "eigenvalues of M that were measured, ascending"),
    Quantity("residuals", "curvature", "‖Mv − λv‖ of each"),
    Quantity("gradient_overlaps", "curvature", "⟨v,g⟩²/‖g‖² of each"),
    Quantity("density", "curvature", "spectral density of M: x, density, standard error, width of the smoothing"),
    Quantity("spectrum", "curvature", "picture of the spectrum over the steps"),
    Quantity(
        "operator",
        "curvature",
        "M, the measured operator: `hessian`, `ggn` (generalized Gauss-Newton) or `fisher`; in summary.json too",
    ),
    Quantity(
        "blocks",
        "curvature",
        "probe=blocks: by block of M its size, largest eigenvalues, residuals, `missed` as in the ledger; with a density its trace too",
    ),
    Quantity(
        "unchecked",
        "curvature",
        "part of the spectrum: names of values beyond which an eigenvalue may have been missed",
    ),
    Quantity("upcast", "curvature", "parameters of 16 bits: their dtype; the curvature is measured in float32"),
    Quantity("samples", "curvature", "sample of the examples: their number"),
    Quantity("population", "curvature", "sample of the examples: number of those that it was drawn from"),
    Quantity("sampling_error", "curvature", "sample of the examples: standard error of each eigenvalue"),
    Quantity("batchnorm", "curvature", "mode of batch normalization at the reading"),
)

DIRECTION = (  # columns of a reading's ledger, one value a tracked eigenvector v of A
    Quantity("operator", "curvature", "`hessian` or `preconditioned`: which A"),
    Quantity(
        "missed",
        "curvature",
        "part of the spectrum: upper bound of the probability that one of the pairs asked for was missed; 1: unchecked",
    ),
    Quantity("eigenvalues", "curvature", "λ, ascending"),
    Quantity("residuals", "curvature", "‖Av − λv‖ with v of length 1: some eigenvalue of A lies within it"),
    Quantity("gradient_share", "curvature", "⟨v,g⟩²/‖g‖², g over all training data. All directions together have 1"),
    Quantity(
        "loss_from",
        "curvature",
        "`optimum`: the problem knows its minimum θ*; `model`: it does not, and the local quadratic model stands in",
    ),
    Quantity(
        "loss_along",
        "curvature",
        "`optimum`: ½λ⟨v,θ−θ*⟩². `model`: ½⟨v,g⟩²/\\|λ\\|, what a Newton step along v would take away; NaN where λ is not told from 0 "
        "by its residual (a whole spectrum: by rounding)",
    ),
    Quantity(
        "loss_share",
        "curvature",
        "`loss_along` over loss − f*; where f* is not known, over loss − its known lower bound; NaN without either. Above 1 the model "
        "does not hold that far",
    ),
    Quantity(
        "since",
        "theory",
        "the step that the contraction is measured from: the record before this one; with minibatches the reading before, as only "
        "readings have the gradient over all data. null at the first",
    ),
    Quantity(
        "contraction",
        "theory",
        "measured: the factor a step by which the component along v shrank since then, a geometric mean; v is today's at both ends. "
        "NaN where rounding hides the component at either end (under 100·√n·eps of the whole)",
    ),
    Quantity(
        "contraction_theory",
        "theory",
        "for the same steps and today's λ: \\|1 − αλ\\|, with momentum the spectral radius of its 2 × 2 iteration. With a schedule the "
        "geometric mean over the lr of each step. At the first reading that of the coming step. NaN for an optimizer without theory, "
        "and for AdamW with a weight decay, whose gradient does not shrink to 0",
    ),
)

_BY_NAME = {quantity.name: quantity for quantity in (*COLUMNS, *QUANTITIES)}


def label(name: str) -> str:
    """Symbol of a scalar, or its name where there is no symbol.

    >>> label("lambda_max"), label("loss")
    ('λmax', 'loss')
    """
    return _BY_NAME[name].label


def section(name: str, own: Iterable[Quantity] = ()) -> str:
    """Section of a scalar; `other` where nobody describes the scalar.

    Args:
        name: the scalar's; of a nested one, such as density.width, the first part counts.
        own: descriptions of a person's own scalars.

    >>> section("probe_seconds"), section("density.width"), section("entropy")
    ('timing', 'curvature', 'other')
    >>> section("entropy", [Quantity("entropy", "curvature", "of the spectral density")])
    'curvature'
    """
    known = {**_BY_NAME, **{quantity.name: quantity for quantity in own}}
    found = known.get(name) or known.get(name.partition(".")[0])
    return found.section if found else "other"


def check_own(own: Sequence[object]) -> None:
    """Refuses descriptions of a person's own scalars that are none.

    Raises:
        ConfigError: no Quantity; a section that does not exist; the name of a scalar of curvexp.
    """
    for quantity in own:
        if not isinstance(quantity, Quantity):
            raise ConfigError(
                f"Probe.quantities holds {quantity!r}: expected curvexp.Quantity(name, section, meaning)."
            )
        if quantity.section not in SECTIONS:
            raise ConfigError(
                f"Probe.quantities: {quantity.name} has the section {quantity.section!r}; expected one of {', '.join(SECTIONS)}."
            )
        if quantity.name in _BY_NAME:
            raise ConfigError(
                f"Probe.quantities: {quantity.name} is a scalar of curvexp itself; expected another name."
            )


def plain(meaning: str) -> str:
    """A meaning without Markdown's signs.

    >>> plain("see `loss`")
    'see loss'
    """
    return meaning.replace("\\|", "|").replace("`", "")


def table(quantities: Iterable[Quantity]) -> str:
    """A Markdown table of scalars: key and meaning, a row each."""
    rows = [f"| `{quantity.name}` | {quantity.meaning} |" for quantity in quantities]
    return "\n".join(["| key | what it is |", "|---|---|", *rows])
