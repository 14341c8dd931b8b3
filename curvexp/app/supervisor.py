"""A sweep's process under the eye of another: a crash ends one job, and the sweep goes on, or ends in its table.

`python -m curvexp -m` forks before JAX is loaded. The child runs the sweep; the parent waits, passes on the signals that were sent to it,
and ends with the child's exit code. Where the child dies by a signal (a segmentation fault, the kernel's kill for want of memory), or is
ended by a library's exit(), the parent records the job that ran as failed, and forks anew for the jobs that are left. Of jobs that went
in step the one that crashed is not known: those go on one by one. A parent that is killed takes its child along. On Linux alone: it needs
sigwaitinfo and prctl.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curvexp import console
from curvexp.store import ending

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
WISHES = (*PASSED_ON, signal.SIGQUIT)  # signals by which a person or a queue ends a process: no crash
OF_THE_KERNEL = 128  # SI_KERNEL: a terminal sends such a signal to the child as well
LEFT = "left"  # the note of a child that Python itself ends, by whatever exit code
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
IN_THIS_PROCESS = ("BasicLauncher", "VmapLauncher")
OF_A_LIST = (
    "OnceSweeper",
    "BasicSweeper",
)  # sweepers whose jobs the overrides alone tell, so that a new process has the same

_notes: list[int] = []  # in the child: the file that its parent reads


class Sweep(NamedTuple):
    """What the parent knows of a sweep.

    Attributes:
        folder: its own. since: when it began, in seconds since 1970. listed: whether another process has the same jobs by the same words.
        in_step: whether they go in step. line: the command that goes on with it. code: the exit code, once the table is printed.
    """

    folder: Path
    since: float
    listed: bool
    in_step: bool
    line: str
    code: int | None = None


def possible() -> bool:
    """Whether this process can be forked and watched."""
    alone = threading.active_count() == 1 and sys.gettrace() is None  # no other thread, no debugger
    return alone and sys.platform == "linux" and hasattr(signal, "sigwaitinfo") and "jax" not in sys.modules


def supervised(words: Sequence[str], again: Callable[[list[str], Sweep, bool], list[str]]) -> list[str]:
    """What the child is to run: the words, and after a crash those that go on with the sweep. The parent does not return.

    Args:
        words: the command line. again: (words, sweep, one by one) -> the command line that goes on with it; empty where none can.

    Raises:
        SystemExit: in the parent, with the exit code.
    """
    words = list(words)
    while True:
        with tempfile.TemporaryFile(buffering=0) as notes, tempfile.TemporaryFile(buffering=0) as trace:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, *PASSED_ON))
            child = _fork(notes.fileno(), trace.fileno())
            if child is None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return words
            status = _wait(child)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            facts: dict[str, Any] = {}
            for line in _read(notes).splitlines():
                facts |= json.loads(line)
            left = facts.pop(LEFT, False)
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                if number in WISHES:
                    _die(number)
                why = ", for want of memory or by a person" if number == signal.SIGKILL else ""
                name = f"its process died by {signal.Signals(number).name}{why}"
            elif left:
                sys.exit(os.waitstatus_to_exitcode(status))
            else:  # not by way of Python: os._exit, or a library's exit()
                name = f"its process was ended from within, with exit code {os.waitstatus_to_exitcode(status)}"
            sweep = Sweep(**{**facts, "folder": Path(facts["folder"])}) if facts else None
            words = _after(name, sweep, words, again, _read(trace))


def note(**facts: Any) -> None:
    """Tells the parent, where there is one, of the sweep that this process runs."""
    if _notes:
        with contextlib.suppress(OSError):  # a full disk
            os.write(_notes[0], json.dumps(facts).encode() + b"\n")


def began(folder: Path, *, sweeper: str, launcher: str, line: str) -> None:
    """Tells the parent that a sweep begins.

    Args:
        folder: the sweep's. sweeper, launcher: their _target_. line: the command that goes on with it.
    """
    listed = sweeper.endswith(OF_A_LIST) and launcher.endswith(IN_THIS_PROCESS)
    note(folder=str(folder.absolute()), since=time.time(), listed=listed, in_step="Vmap" in launcher, line=line)


def _after(
    name: str,
    sweep: Sweep | None,
    words: list[str],
    again: Callable[[list[str], Sweep, bool], list[str]],
    trace: str,
) -> list[str]:
    """The command line that goes on after a crash; where there is none the sweep ends here, in its table.

    Args:
        name: of the crash, in a sentence.
    """
    if sweep is None:
        console.refuse(f"{name} before the first job began")
        sys.exit(1)
    if sweep.code is not None:
        console.refuse(f"{name} after the sweep's table was made")
        sys.exit(sweep.code)
    jobs = ending.unfinished(sweep.folder, sweep.since)
    several = len(jobs) > 1 and sweep.in_step
    further = again(words, sweep, several) if jobs else []
    shown = [f"#{job.relative_to(sweep.folder)}" for job in jobs]
    if several and further:
        console.err().print(console.printable(f"{', '.join(shown)}: {name}; they go on one by one"))
        return further
    recorded = ending.end(jobs, name, trace)
    for job in shown:
        console.err().print(f"[bold]{console.printable(job)}[/] [red]failed[/]: {name}")
    if further and recorded:
        return further
    from curvexp.report import summarize

    try:
        summarize(sweep.folder, console.out(), page=True)
    finally:
        console.err().print(f"Go on with it: {console.printable(sweep.line)}")
    sys.exit(1)


def _fork(notes: int, trace: int) -> int | None:
    """The child's number; None in the child."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    parent, child = os.getpid(), os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed meanwhile
        os._exit(1)
    _notes[:] = [os.dup(notes)]
    atexit.register(note, **{LEFT: True})
    if not faulthandler.is_enabled():
        faulthandler.enable(os.dup(trace))
    return None


def _wait(child: int) -> int:
    """How the child ended; signals that were not sent by a terminal, which sends them to the child as well, are passed on."""
    while True:
        found = signal.sigwaitinfo((signal.SIGCHLD, *PASSED_ON))
        if found.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif found.si_code != OF_THE_KERNEL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, found.si_signo)


def _die(number: int) -> None:
    """Ends this process as the child ended: by a signal that was meant for both."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


def _read(file: Any) -> str:
    """What the child wrote."""
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))
