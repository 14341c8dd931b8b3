"""What a run came to: a small table at its end, or one line in a sweep."""

import math
from typing import Any

from rich.table import Table

from curvexp.console.formats import condition_number, figures, is_number, number, over
from curvexp.console.streams import printable
from curvexp.record import SURE


def result(title: str, summary: dict[str, Any], folder: Any) -> Table:
    """The small table at the end of a run."""
    status = summary["status"] + (f": {summary['reason']}" if summary.get("reason") else "")
    operator = summary.get("operator")
    summary = {key: value for key, value in summary.items() if is_number(value)}  # a resumed run's may hold anything
    table = Table(title=printable(title), show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "status": printable(status),
        "loss": f"{number(summary.get('loss_start'))} → {number(summary.get('loss'))} in {summary.get('steps')} steps",
        "steps to target": _steps_to_target(summary),
        "rate": _beside(summary.get("rate"), "theory", summary.get("rate_theory"), digits=6),
        "operator": _operator(operator),
        "λmax": _span(summary, "lambda_max"),
        "λmin": _span(summary, "lambda_min"),
        "sharpness": _sharpness(summary),
        "grows along": _growth(summary),
        "batch sharpness": _noise(summary),
        "condition number": condition_number(summary),
        "preconditioned": _effective(summary),
        "negative λ": _index(summary),
        "slow along": _bottleneck(summary),
        "leaves along": _escape(summary),
        "next step": _next_step(summary),
        "accuracy": _beside(summary.get("accuracy"), "test", summary.get("test_accuracy"), digits=4),
        "folder": printable(folder),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def line(title: str, summary: dict[str, Any]) -> str:
    """One job of a sweep in one line."""
    colour = {"completed": "green", "diverged": "yellow", "skipped": "dim"}.get(summary["status"], "red")
    text = f"[bold]{printable(title)}[/] [{colour}]{printable(summary['status'])}[/]"
    if summary.get("before"):  # a resumed sweep's, as a folder told
        return f"{text} before"
    if summary["status"] in ("completed", "diverged", "interrupted"):
        return f"{text} in {summary.get('steps')} steps, {summary.get('seconds', 0):.1f} s: {figures(summary)}"
    return f"{text}: {printable(summary.get('reason'))}"


def _beside(value: Any, name: str, other: Any, *, digits: int) -> str:
    if value is None and other is None:
        return ""
    return number(value, digits) + (f"  ({name} {number(other, digits)})" if other is not None else "")


def _operator(name: Any) -> str:
    """Whose eigenvalues those of the table are, where they are not the Hessian's."""
    if name in (None, "hessian"):
        return ""
    return f"{printable(name)}, whose eigenvalues follow; the Hessian's, and a sharpness, were not measured"


def _span(summary: dict[str, Any], name: str) -> str:
    if summary.get(name) is None:
        return ""
    start, end = (number(summary.get(name + suffix)) + _mark(summary, name, suffix) for suffix in ("_start", ""))
    return f"{start} → {end}"


def _mark(summary: dict[str, Any], name: str, suffix: str = "") -> str:
    """Of an eigenvalue beyond which another may have been missed."""
    return " (unchecked)" if (summary.get(f"{name}_missed{suffix}") or 0) > SURE else ""


def _sharpness(summary: dict[str, Any]) -> str:
    if summary.get("sharpness") is None:
        return ""
    margin, mark = summary.get("stability_margin"), _mark(summary, "sharpness")
    if margin is None:
        return _beside(summary["sharpness"], "threshold", summary.get("threshold"), digits=4) + mark
    where = over(summary) or f"{number(margin, 3)} of the threshold"
    return f"{number(summary['sharpness'])}{mark}  ({where}, {number(summary.get('threshold'))})"


def _growth(summary: dict[str, Any]) -> str:
    """The sharpest direction, where its component grows from step to step."""
    theory = summary.get("top_contraction_theory")
    if not over(summary) and (theory is None or theory <= 1.0005 or (summary.get("sharpness") or 0) <= 0):
        return ""
    return f"λ={number(summary.get('sharpness'))}: {_factor(summary, 'top')}"


def _bottleneck(summary: dict[str, Any]) -> str:
    """The direction with the most of the loss, and how long that will take, where it shrinks; what is not tracked where that is more."""
    rest = summary.get("rest_gradient_share")
    if rest is not None and rest > 0.5:
        found, theory = summary.get("rest_contraction"), summary.get("rest_contraction_theory")
        where = f"the rest, {100 * rest:.4g} % of the gradient, mean λ {number(summary.get('rest_curvature'), 3)}"
        return where if found is None and theory is None else f"{where}: {_factor(summary, 'rest')}"
    curvature, share = summary.get("bottleneck_eigenvalue"), summary.get("bottleneck_loss_share")
    rate = summary.get("bottleneck_contraction")
    if curvature is None or rate is None or not 0 < rate < 1:
        return ""
    text = f"λ={number(curvature)}: {_factor(summary, 'bottleneck')}, {number(-1 / math.log(rate), 3)} steps to 1/e"
    if share is None:
        return text
    return text + (f", {100 * share:.3g} % of the loss left" if share <= 1 else ", all of the loss by its local model")


def _escape(summary: dict[str, Any]) -> str:
    """The direction of the most negative curvature, where a step lengthens the way along it."""
    theory, curvature = summary.get("bottom_contraction_theory"), summary.get("lambda_min")
    adaptive = (
        summary.get("sharpness_residual") is not None
    )  # the ledger's directions are then the preconditioned Hessian's
    if adaptive or theory is None or theory <= 1.0005 or curvature is None or curvature >= 0:
        return ""
    return f"λ={number(curvature)}: {_factor(summary, 'bottom')}"


def _factor(summary: dict[str, Any], direction: str) -> str:
    """A contraction a step, measured beside theory's, with digits enough to tell both from 1."""
    found, theory = (summary.get(f"{direction}_contraction{suffix}") for suffix in ("", "_theory"))
    if found is None:
        return f"×{_contraction(theory)} a step in theory" if theory is not None else "not measured"
    beside = f" (theory ×{_contraction(theory)})" if theory is not None else ""
    return f"×{_contraction(found)} a step{beside}"


def _contraction(value: float) -> str:
    if not math.isfinite(value):
        return number(value)
    return f"{value:.{min(max(2 - math.floor(math.log10(abs(1 - value) or 1e-7)), 2), 7)}f}"


def _next_step(summary: dict[str, Any]) -> str:
    if summary.get("change_actual") is None:
        return ""
    text = f"loss {summary['change_actual']:+.3g}"
    if summary.get("change_predicted") is not None:
        text += f"  (predicted {summary['change_predicted']:+.3g})"
    best = summary.get("best_step")
    if best is None or math.isinf(best):
        return text + (", downhill without an end by its model" if best == math.inf else "")
    return f"{text}, best {number(best, 3)}× as long"


def _index(summary: dict[str, Any]) -> str:
    """How many eigenvalues are negative, and the rank: exact to rounding, or a lower bound of how many."""
    size, exact = number(summary.get("parameters"), 12), summary.get("index")
    if exact is not None:
        return f"{exact} of {size}, rank {number(summary.get('rank'), 12)}"
    low, high = summary.get("index_low"), summary.get("index_high")
    if low is None:
        return ""
    return f"{'' if low == high else '≥ '}{low} of {size}"


def _effective(summary: dict[str, Any]) -> str:
    """The condition number that an adaptive method sees, where it is not the Hessian's own."""
    if summary.get("sharpness_residual") is None:
        return ""
    names = ("condition_number", "condition_number_positive", "condition_number_bound")
    found = condition_number({name: summary.get(f"effective_{name}") for name in names})
    return f"condition number {found}" if found else ""


def _noise(summary: dict[str, Any]) -> str:
    if summary.get("batch_sharpness") is None:
        return ""
    sharp, trace = (
        f"{number(summary[name])} ± {number(summary[f'{name}_stderr'], 2)}" if summary.get(name) is not None else "–"
        for name in ("batch_sharpness", "trace_noise")
    )
    return f"{sharp}, tr(HΣ) {trace}"


def _steps_to_target(summary: dict[str, Any]) -> str:
    if summary.get("target_loss") is None:
        return ""
    found = summary.get("steps_to_target")
    return f"{'not reached' if found is None else found}  (loss ≤ {number(summary['target_loss'])})"
