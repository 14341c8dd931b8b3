"""Standard output and error for any terminal, pipe and encoding, and text that is safe to print there."""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape

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

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints; where the stream cannot be written, such as a file on a full disk, that is said on standard error, once."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self.on_broken_pipe()
            if self.file is not sys.stderr:
                err().print(f"what follows is not shown: standard output cannot be written ({error.strerror})")

    def on_broken_pipe(self) -> None:
        """What follows is written nowhere: the run and its files do not depend on who reads along."""
        self.quiet = True
        nowhere(self.file)


def out() -> Console:
    """The console for results, standard output."""
    return Stream(soft_wrap=not sys.stdout.isatty(), highlight=False)


def err() -> Console:
    """The console for progress and errors, standard error; while a bar is shown its own, which draws it anew below what is printed."""
    return live[-1] if live else Stream(stderr=True, soft_wrap=True, highlight=False)


live: list[Console] = []  # of the bars that are shown, the last one on top


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
    """Within, no character and no reader that has gone makes standard output or error raise, also what libraries print.

    A stream that was closed before the process began is the null device from then on.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
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
