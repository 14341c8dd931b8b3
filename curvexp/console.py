"""What a person sees of a run: a progress bar, or quiet lines where there is no terminal, and a small table at its end."""

import codecs
import contextlib
import math
import numbers
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from curvexp.record import SURE, Record
from curvexp.sink import RunEnd, RunStart

QUIET_SECONDS = 10.0  # between two lines where there is no terminal
IN_ASCII = {  # for a stream whose encoding lacks the character
    **{"→": "->", "–": "-", "−": "-", "≥": ">=", "≤": "<=", "±": "+-", "×": "x", "∞": "inf", "⁺": "+", "…": "...", "√": "sqrt"},
    **{"κ": "kappa", "λ": "lambda", "α": "alpha", "β": "beta", "Σ": "Sigma", "‖": "|", "½": "1/2", "²": "^2", "ᵀ": "'", "·": "*"},
    **dict(zip("▁▂▃▄▅▆▇█", "12345678", strict=True)),
}  # fmt: skip


class Stream(Console):
    """A console for any stream: a character that the stream cannot encode is shown in ASCII, and a reader that has gone ends nothing."""

    def render_str(self, text: str, **options: Any) -> Any:
        """The text as the stream can show it."""
        return super().render_str(encodable(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        """What follows is written nowhere: the run and its files do not depend on who reads along."""
        self.quiet = True
        nowhere(self.file)


def out() -> Console:
    """The console for results, standard output."""
    return Stream(soft_wrap=not sys.stdout.isatty(), highlight=False)


def err() -> Console:
    """The console for progress and errors, standard error; while a bar is shown its own, which draws it anew below what is printed."""
    return _live[-1].console if _live else Stream(stderr=True, soft_wrap=True, highlight=False)


def encodable(text: str, encoding: str) -> str:
    """The text with ASCII forms of the characters that the encoding lacks.

    >>> encodable("κ 1 → 2", "cp1252")
    'kappa 1 -> 2'
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_encodable(letter, encoding) for letter in text)
    return text


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Of what a stream cannot encode the ASCII forms: a handler of errors for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_encodable(letter, "ascii") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("curvexp", _replaced)


def _encodable(letter: str, encoding: str) -> str:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return IN_ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode()
    return letter


@contextlib.contextmanager
def any_stream() -> Iterator[None]:
    """Within, no character and no reader that has gone makes standard output or error raise, also what libraries print."""
    before = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    for stream, errors in before:
        if errors == "strict":
            stream.reconfigure(errors="curvexp")
    try:
        yield
    finally:
        for stream, errors in before:
            try:
                stream.reconfigure(errors=errors)  # it flushes
            except BrokenPipeError:
                nowhere(stream)


def nowhere(stream: Any) -> None:
    """Turns a stream whose reader has gone to the null device, so that nothing that is printed later raises."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Bar(Progress):
    """A live bar on standard error, gone when it stops."""

    def __init__(self) -> None:
        columns = (
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
        )
        super().__init__(*columns, console=err(), transient=True)

    def start(self) -> None:
        """Shows it."""
        super().start()
        _live.append(self)

    def stop(self) -> None:
        """Takes it away."""
        super().stop()
        if self in _live:
            _live.remove(self)


_live: list[Bar] = []


def refuse(message: str) -> None:
    """Prints an error of the person's making: what came, what was expected, the key to change."""
    err().print(f"[bold red]error:[/] {printable(message)}")


def printable(text: Any) -> str:
    """Text from a config, safe for a terminal: Rich's markup escaped, control characters shown as such."""
    return escape(visible(text))


def visible(text: Any) -> str:
    """The text with its control characters shown as such."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in str(text))


def note(title: str, text: str) -> None:
    """A line about a run, that stays."""
    err().print(f"{printable(title)}: {printable(text)}")


class Display:
    """The sink that shows one run's progress: a live bar on a terminal, else a line every few seconds."""

    bar: Bar | None = None

    def start(self, run: RunStart) -> None:
        """Shows the bar."""
        self.title, self.steps, self.figures = run.title, run.config["steps"], run.figures
        self.shown = time.monotonic()
        if err().is_terminal:
            self.bar = Bar()
            self.task = self.bar.add_task(printable(self.title), total=self.steps, figures="compiling")
            self.bar.start()

    def append(self, record: Record) -> None:
        """Shows where the run stands; a quiet display prints at most every few seconds."""
        if record.note:
            note(self.title, record.note)
        if self.bar:
            self.bar.update(self.task, completed=record.step, figures=figures(self.figures))
        elif time.monotonic() - self.shown > QUIET_SECONDS:
            self.shown = time.monotonic()
            err().print(f"{printable(self.title)}: step {record.step}/{self.steps}  {figures(self.figures)}")

    def finish(self, outcome: RunEnd) -> None:
        """Takes the bar away."""
        self.close()

    def close(self) -> None:
        """Takes the bar away, also of a run that goes on elsewhere."""
        if self.bar:
            self.bar.stop()


def figures(scalars: Mapping[str, Any]) -> str:
    """Loss, sharpness beside its threshold, condition number: as far as they were measured."""
    parts = [f"loss {number(scalars.get('loss'))}"]
    if scalars.get("sharpness") is not None:
        parts.append(f"sharpness {ratio(scalars)}")
    condition, operator = condition_number(scalars), scalars.get("operator")
    whose = "" if operator in (None, "hessian") else f" of {printable(operator)}"
    return "  ".join([*parts, f"κ{whose} {condition}"] if condition else parts)


def ratio(scalars: Mapping[str, Any]) -> str:
    """sharpness/threshold as the two numbers; how far over, where it is."""
    over = _over(scalars)
    return f"{number(scalars.get('sharpness'))}/{number(scalars.get('threshold'))}" + (f" ({over})" if over else "")


def condition_number(scalars: Mapping[str, Any]) -> str:
    """The condition number as it is known: exact, infinite with that of the positive part, or a lower bound named as one."""
    value, positive, bound = (scalars.get(f"condition_number{suffix}") for suffix in ("", "_positive", "_bound"))
    if value is not None:
        infinite = math.isinf(value) and positive is not None and math.isfinite(positive)
        return f"∞ ({number(positive)} above rounding)" if infinite else number(value)
    return f"≥ {number(bound)}" if bound is not None else ""


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


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1023
    return isinstance(value, numbers.Real)


def number(value: Any, digits: int = 4) -> str:
    """A number in a few digits; – where there is none."""
    if value is None:
        return "–"
    return "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:.{digits}g}"


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
    where = _over(summary) or f"{number(margin, 3)} of the threshold"
    return f"{number(summary['sharpness'])}{mark}  ({where}, {number(summary.get('threshold'))})"


def _over(scalars: Mapping[str, Any]) -> str:
    """`1.3× over the threshold`, where the sharpness stands above it by more than a rounding of the number shown."""
    margin = scalars.get("stability_margin")
    return f"{number(margin, 3)}× over the threshold" if margin is not None and margin >= 1.005 else ""


def _growth(summary: dict[str, Any]) -> str:
    """The sharpest direction, where its component grows from step to step."""
    theory = summary.get("top_contraction_theory")
    if not _over(summary) and (theory is None or theory <= 1.0005 or (summary.get("sharpness") or 0) <= 0):
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
