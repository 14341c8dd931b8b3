"""Command lines made up at random: each ends as a run, a refusal with exit code 2, or a failure that its folder tells of."""

import collections
import contextlib
import functools
import io
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import curvexp
from curvexp.__main__ import main
from curvexp.app.keys import GROUPS, conf_folder
from curvexp.store.folder import ENDINGS

ROOT = Path(__file__).parents[2]
SECONDS = 60  # that a command line may take in this process, its programs compiled anew
NEVER_OURS = {".cache", "scikit_learn_data"}  # a library's, under HOME
INSIDE_A_RUN = {".hydra", "wandb", "checkpoints"}

# ---- what is typed ----------------------------------------------------------------------------------------------------------------

CONTROL = [
    *("\x00", "\x07", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\r", "\n", "\t", "a\u202eb", "\u200b", "\udcff", "\ufffe"),
]  # fmt: skip
TEXTS = [
    *("", " ", "a b", "auto", "all", "off", "x" * 5000, "[red]x[/red]", "[/]", "[link=http://x]y[/link]", "<script>1</script>"),
    *("λ", "日本", "🙂", "e\u0301", "../../x", "a/b", "/", ".", "..", "~", "a.b", "a,b", "a=b", "=", "@", "#", "\\", "\\\\", "$"),
    *("%s", "{}", "{", "}", "[", "]", "(", ")", "'", '"', "'a", '"a', "''", '""', "'a b'", '"a\\"b"', "a:b", ":", ";", "|", "*"),
    *("?", "!", "`", "null", "None", "yes", "no", "True", "-", "--", "+", "++", "nan", "_target_", "__class__", "0x10", "1_000"),
    *("1e", "1.2.3", "٣"),
]  # fmt: skip
NUMBERS = [
    *("0", "-0.0", "1", "-1", "2", "3", "0.5", "0.9", "1.0", "7", "40", "1e-3", "5e-324", "1e-310", "1e-45", "1e30", "1e38"),
    *("1e39", "1e100", "1e154", "1e200", "1e308", "-1e308", "1e309", "-1e400", str(10**400), str(-(10**400)), str(2**31)),
    *(str(2**31 - 1), str(2**32), str(2**53 + 1), str(2**63), str(2**63 - 1), str(-(2**63)), str(2**64), "nan", "-nan", "inf"),
    *("-inf", "1" * 5000),
]  # fmt: skip
LISTS = [
    *("[]", "[[]]", "[1]", "[1,2]", "[0]", "[-1]", "[nan]", "[inf,1]", "[1e308,1]", "[1,2,3,4]", "[1,[2]]", "[[1,2],[2,1]]"),
    *("[[1]]", "[[1,2],[3]]", "[a]", "[true]", "[null]", "[1,a]", f"[{10**400}]", "[1e-320,1]", "[4]", "[2,2]", "[''" + "]"),
    *("[{}]", "[???]", "{}", "{a:1}", "{a:{b:[1,{c:2}]}}", "{_target_:optax.sgd}", "{'':1}", "{1:2}", "{null:1}", "{every:1}"),
    *("{every:1,seconds:2,keep:3}", "[" * 40 + "]" * 40, "[" * 400 + "]" * 400, "{a:" * 30 + "1" + "}" * 30),
    *("[" + ",".join("1" * 3000) + "]", "[1,", "{a:", "[[[", "{a}"),
]  # fmt: skip
INTERPOLATIONS = [
    *("${steps}", "${seed}", "${nowhere}", "${problem}", "${optim}", "${problem.dimension}", "${.}", "${..seed}", "${...}"),
    *("${}", "${", "$", "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.env:NOT_THERE,3}", "${oc.decode:'3'}", "${oc.decode:'['}"),
    *("${oc.create:{a:1}}", "???", "${now:%Y}", "${now:}", "${now:%}", "${hydra:job.name}", "${hydra:run.dir}"),
    *("${hydra:nowhere}", "${nosuch:1}", "${oc.select:steps}", "${oc.dict.keys:problem}", "${oc.deprecated:seed}", "a${steps}b"),
    *("${${seed}}", "\\${steps}", "${hydra.run.dir}", "${python_version:x}"),
]  # fmt: skip
BOOLEANS = ["true", "false", "null", "on", "OFF"]
SWEEPS = [
    *("1,2", "0,1,1", "1,,2", ",", "1,", "range(1,3)", "range(3)", "range(0)", "range(0,1,0)", "range(3,1)", "range(0,1e308)"),
    *("range(a)", "range(0,1000000000000)", "range(0,1,1e-300)", "range(0,inf)", "range(nan)", "choice(1,2)", "choice()"),
    *("choice(a,b)", "glob(*)", "glob([s*],exclude=x)", "glob(", "interval(0,1)", "interval(1,0)", "interval(a,b)"),
    *("shuffle(1,2)", "sort(2,1)", "sort(a,1)", "tag(x,1,2)", "shuffle(range(1,3))", "sort(range(0,1,-1))", "int(3.5)"),
    *("float(x)", "str([1])", "json_str({a:1})", "bool(2)", "cast(", "extend_list(1)", "nosuch(1)", "int(1,2)"),
    *("float(range(1,3))", "auto,1", "nan,inf", "[1],[2]", "{a:1},{a:2}", "'a,b',c", "''" + ",a"),
]  # fmt: skip
TARGETS = [  # never one that does harm where it is called
    *("optax.sgd", "optax.nothing", "builtins.print", "os.getcwd", "os.system", "jax.numpy.sin", "curvexp.problem.mlp", "''"),
    *("'..'", "a b", "42", "null", "optax", ".", "curvexp", "builtins.int", "builtins.dict", "builtins.ValueError"),
    *("collections.deque", "[]", "true", "curvexp.optim.sgd", "curvexp.probe.off", "optax.adam", "optax.constant_schedule"),
    *("sys.exit", "curvexp.nothing", "a..b", "λ.x"),
]  # fmt: skip
FOLDERS = [  # below the folder that the command line runs in, or nowhere
    *("out", "a/b", ".", "''", "' '", "λ", "'a b'", "'a\\x00b'", "x" * 300, "a=b", "file", "file/x", "/proc/x", "/dev/null"),
    *("/dev/null/x", "null", "42", "[a]", "{a:1}", "${nowhere}", "'\x1b[31mred'", "'[red]'", "true", "../here/x", "'\udcff'"),
    *("'a\nb'", "${hydra.run.dir}", "???"),
]  # fmt: skip
OPTIONS = {group: tuple(sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml"))) for group in GROUPS}
OPTIONS |= {"problem.data": tuple(sorted(p.stem for p in (ROOT / "conf/problem/data").glob("*.yaml")))}
OPTIONS |= {"optim.schedule": ("cosine", "warmup_cosine", "null")}
OPTIONS["track"] = ("off",)  # wandb starts a service: chosen by name below, with modes that reach no network
SLOW_TO_COMPILE = ("least_squares", "logistic", "mlp")
LAUNCHERS = ("basic", "vmap")
STUDIES = ("quadratic_calculus", "eigen_directions", "level_sets", "scale_invariance")  # of a second or less
FLAGS = [
    *(["--cfg", "job"], ["--cfg", "all"], ["--cfg", "hydra"], ["--cfg", "job", "--resolve"], ["--cfg", "job", "-p", "optim"]),
    *(["--cfg", "x"], ["--cfg", "job", "-p", "nowhere"], ["--cfg"], ["--info"], ["--info", "defaults"], ["--info", "config"]),
    *(["--info", "searchpath"], ["--info", "x"], ["--resolve"], ["--help"], ["--hydra-help"], ["--version"], ["--nosuch"]),
    *(["-x"], ["--"], ["-"], ["-m"], ["--multirun"], ["-m", "--cfg", "job"], ["--run"], ["-r", "-m"]),
    *(["--config-dir", "nowhere"], ["--config-dir", "."], ["--config-dir", "file"], ["--config-dir", ""], ["--config-dir=λ"]),
    *(["--config-name", "nowhere"], ["--config-name", ""], ["--config-name", "config"], ["--config-name", "../x"]),
    *(["--config-name", "problem/mlp"], ["--config-path", "nowhere"], ["--config-path", ""], ["-cp", "/proc"]),
    *(["--experimental-rerun", "nowhere"], ["--experimental-rerun", "file"], ["--shell-completion"], ["-sc", "query=bash"]),
    *(["-sc", "install=x"], ["--package"], ["-p", "optim"], ["--multirun=3"], ["--cfg=job"], ["-c", "job"], ["-mc"], ["--mult"]),
    *(["--config-name"], ["--config-dir"]),
]  # fmt: skip
SMALL = ("steps=3", "problem.dimension=4")


CHOSEN = (  # whose keys are typed: the first that is quick to compile, and all
    (),
    ("optim=momentum", "optim/schedule=cosine", "probe=exact", "track=wandb"),
    ("optim=adam", "probe=density", "problem.dimension=12", "hydra/launcher=vmap", "hydra/sweeper=basic"),
    ("optim=adamw", "problem=bowl"),
    ("problem=mlp", "preprocess=batchnorm"),
    ("problem=least_squares", "problem/data=gaussian"),
    ("problem=logistic", "problem/data=openml"),
)


@functools.cache
def keys(slow):
    """Every key of the composed configs, Hydra's own among them, each with the options that have it."""
    found = {}
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        for chosen in CHOSEN if slow else CHOSEN[:4]:
            composed = compose("config", overrides=list(chosen), return_hydra_config=True)
            for key in _leaves(OmegaConf.to_container(composed, resolve=False)):
                found.setdefault(key, []).append(chosen)
    return dict(sorted(found.items()))


def _leaves(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def values(key):
    """What is typed for a key."""
    if key.endswith("_target_"):
        return st.sampled_from(TARGETS)
    if re.fullmatch(r"hydra\.(run\.dir|sweep\.dir|sweep\.subdir|output_subdir|runtime\.\w+)", key):
        return st.sampled_from(FOLDERS)
    if key == "track.mode":
        return st.sampled_from([*TEXTS[:20], *BOOLEANS, "disabled", "online", *LISTS[:5]])
    if key in ("steps", "problem.data.timeout"):  # others may be as large as they like
        return st.sampled_from([*NUMBERS, *TEXTS, *LISTS, *INTERPOLATIONS, *BOOLEANS])
    kinds = (NUMBERS, TEXTS, LISTS, INTERPOLATIONS, BOOLEANS, CONTROL, SWEEPS)
    listed = st.sampled_from(kinds).flatmap(st.sampled_from)
    made = st.one_of(
        st.integers(-(2**70), 2**70).map(str),
        st.floats().map(repr),
        st.text(max_size=12),
        st.text(st.characters(codec=None), max_size=6).map(lambda text: "'" + text.replace("'", "") + "'"),
    )
    return st.one_of(listed, listed, listed, made)


@st.composite
def settings_of_keys(draw, problems):
    hydras = [key for key in keys(bool(problems)) if key.startswith("hydra")]
    ours = [key for key in keys(bool(problems)) if not key.startswith("hydra")]
    key = draw(st.sampled_from(draw(st.sampled_from([ours, ours, hydras]))))
    plain = draw(st.booleans()) and key != "track.mode"  # what is likely to be taken
    value = draw(st.sampled_from([*NUMBERS, *NUMBERS, *BOOLEANS, *LISTS]) if plain else values(key))
    sign = "" if plain else draw(st.sampled_from(["", "", "", "", "", "", "+", "++", "~"]))
    form = draw(
        st.sampled_from(["{}{}={}"] * 12 + ["{}{}", "{}{}@x={}", "{}{}.x={}", "{}{}.0={}", "{} {}={}", "{}{}={}={}"])
    )
    chosen = draw(st.sampled_from(keys(bool(problems))[key]))
    modes = ["track.mode=disabled"] if "track=wandb" in chosen and not key.startswith("track") else []
    return [*chosen, *modes, form.format(sign, key, value, value)]


@st.composite
def choices(draw, problems):
    group = draw(
        st.sampled_from(
            [
                *OPTIONS,
                *OPTIONS,
                "optim.schedule",
                "hydra/launcher",
                "hydra/sweeper",
                "hydra/job_logging",
                "hydra/help",
                "study",
            ]
        )
    )
    sign = draw(st.sampled_from(["", "", "", "", "+", "++", "~"]))
    if group == "hydra/launcher":
        right = list(LAUNCHERS)
    elif group.startswith("hydra/"):
        right = ["default", "disabled", "none", "once", "basic"]
    elif group == "study":
        right, sign = list(STUDIES), "+"
    else:
        right = [name for name in OPTIONS[group] if name not in SLOW_TO_COMPILE or name in problems]
    option = draw(
        st.one_of(
            st.sampled_from(right),
            st.sampled_from(right),
            st.sampled_from([*TEXTS, *CONTROL, *LISTS[:8], *INTERPOLATIONS, *SWEEPS]),
        )
    )
    if group == "problem" and draw(st.booleans()):
        option = "quadratic"
    extra = draw(st.sampled_from(["", "", "", "", "@x", "@_global_"]))
    words = [f"{sign}{group}{extra}={option}"]
    if group == "study":
        words += draw(
            st.lists(st.sampled_from(NUMBERS + TEXTS + LISTS).map(lambda value: f"study.seeds={value}"), max_size=1)
        )
        words += draw(
            st.lists(
                st.sampled_from(
                    ["study.nosuch=1", "study.precision=x", "study.number=x", "steps=1", "study=1", "study.dimension=2"]
                ),
                max_size=1,
            )
        )
    return words


@st.composite
def goings_on(draw):
    key = draw(st.sampled_from(["resume", "retry", "trust", "resume", "hydra.sweep.dir"]))
    value = draw(st.sampled_from([*FOLDERS, *TEXTS[:12], *LISTS, "failed", "[failed,skipped]", "[os]", "run", "run"]))
    return [f"{key}={value}"]


@st.composite
def lines(draw, problems=()):
    """A command line, small where it is a run: of the problems whose programs take long to compile these alone are chosen."""
    words = list(SMALL) if draw(st.integers(0, 9)) else []
    part = st.one_of(
        settings_of_keys(problems),
        settings_of_keys(problems),
        settings_of_keys(problems),
        settings_of_keys(problems),
        choices(problems),
        goings_on(),
    )
    for some in draw(st.lists(part, min_size=1, max_size=draw(st.sampled_from([1, 1, 1, 3])))):
        words += some
    if any("problem" in word and "=" in word and not word.startswith("problem.d") for word in words):
        words = [word for word in words if word != "problem.dimension=4"]
    if not any("steps=" in word for word in words):
        words.insert(0, "steps=3")
    flag = draw(st.sampled_from([[]] * 6 + [["-m"]] * 3 + [None]))
    flag = draw(st.sampled_from(FLAGS)) if flag is None else flag
    return [*flag, *words] if draw(st.booleans()) else [*words, *flag]


# ---- how it ends ------------------------------------------------------------------------------------------------------------------


class Ending(NamedTuple):
    """How a command line ended: `run`, `refused`, `failed`, `shown` for a flag that only prints, and what it printed."""

    how: str
    code: int
    out: str
    err: str


class Hang(BaseException):
    """It took longer than SECONDS."""


def ending(words, here, *, seconds=SECONDS):
    """Runs a command line in this process, in a folder of its own, and holds it to what is promised."""
    before, out, err = sorted(here.rglob("*")), io.StringIO(), io.StringIO()
    with (
        _at(here),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True),
    ):
        warnings.simplefilter("default")
        with _watched(seconds) as hung:
            try:
                main(list(words))
                code = 0
            except SystemExit as end:
                code = 0 if end.code is None else end.code
            except Hang:
                code = None
            finally:
                sys.stdout.flush()
    assert not hung, f"it hangs: {hung[0]}"
    return judged(code, out.getvalue(), err.getvalue(), words, here, before)


def judged(code, out, err, words, here, before):
    """The ending, held to what is promised.

    Raises:
        AssertionError: it breaks the promise.
    """
    told = f"exit {code}\n{out[-3000:]}\n{err[-6000:]}"
    assert code in (0, 1, 2), told
    assert "Traceback" not in out + err, told
    assert "\x1b" not in out + err, told  # no terminal: what is typed is no escape sequence
    made = [path for path in sorted(here.rglob("*")) if path not in before and not NEVER_OURS & {*path.parts}]
    if code == 2:
        assert err.strip(), told
        assert not made, f"{made}\n{told}"
        return Ending("refused", code, out, err)
    runs = {}
    if here.is_dir():
        frame = curvexp.load_runs(here).runs
        runs = {here.resolve() / str(row["run"]): row for _, row in frame.iterrows()}
    statuses = []
    for folder in {path.parent for path in made if path.is_file()} | {path for path in made if path.is_dir()}:
        inside = [folder, *folder.parents]
        owner = next((path for path in inside if path in runs), None)
        if owner is None:
            whole = any(folder in path.parents for path in runs) or (folder / "finding.json").exists()
            assert whole, f"{folder} is no run\n{told}"
        elif owner == folder:
            row = runs[owner]
            statuses.append(row["status"])
            assert row["status"] in ENDINGS, f"{folder}: {row['status']}\n{told}"
            assert row["status"] not in ("failed", "skipped") or isinstance(row["reason"], str), told
            ours = not any("_target_" in word for word in words)
            assert not (ours and (folder / "traceback.txt").exists()), (folder / "traceback.txt").read_text() + told
    assert code == 1 or "failed" not in statuses, told
    if code == 1:
        assert err.strip() or "failed" in out, told
    if not made:
        return Ending("shown", code, out, err)
    return Ending("failed" if "failed" in statuses else "run", code, out, err)


@contextlib.contextmanager
def folder():
    """A folder to run in, whose parents are of the test's too: what is written to ../../x is seen."""
    with tempfile.TemporaryDirectory() as root:
        here = Path(root).resolve()
        (here / "up" / "up" / "here").mkdir(parents=True)
        (here / "up" / "up" / "here" / "file").write_text("a file")
        yield here


@contextlib.contextmanager
def _at(root):
    before, argv, place = os.getcwd(), sys.argv, dict(os.environ)
    os.chdir(root / "up" / "up" / "here")
    os.environ |= {"WANDB_MODE": "disabled", "HOME": str(root / ".cache")}
    os.environ.pop("WANDB_API_KEY", None)
    sys.argv = ["curvexp"]
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(place)


@contextlib.contextmanager
def _watched(seconds):
    """Raises Hang after so many seconds, and yields a list that then says where it stood; a timer that was set goes on afterwards."""
    hung, begun = [], time.monotonic()

    def late(number, frame):
        hung.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        raise Hang

    handler = signal.signal(signal.SIGALRM, late)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield hung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 0.001), every)


# ---- the promise ------------------------------------------------------------------------------------------------------------------


def endings(lines, number, *, seconds=math.inf, derandomize, run=ending):
    """How so many command lines ended, counted; the first that breaks the promise is shown as it was typed."""
    counts, begun, tried = collections.Counter(), time.monotonic(), set()

    @settings(
        max_examples=10 * number,  # of which some are alike, for hypothesis varies what it found
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a command line is short enough as it is found
        suppress_health_check=list(HealthCheck),
    )
    @given(lines)
    def each(words):
        kind = frozenset(words)
        if time.monotonic() - begun < seconds and len(tried) < number and kind not in tried:
            with folder() as here:
                counts[run(words, here).how] += 1
            tried.add(kind)

    each()
    return counts


def told(counts):
    """The counts in a line."""
    return (
        f"{counts.total()} command lines: {counts['run']} runs, {counts['refused']} refused, {counts['failed']} recorded failures, "
        f"{counts['shown']} only shown, 0 tracebacks"
    )


def test_a_command_line_ends_as_a_run_a_refusal_or_a_recorded_failure():
    """In a process of its own: what a command line leaves in one, such as how it logs, is no other test's matter."""
    found = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("30 command lines: ")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_command_lines_end_as_runs_refusals_or_recorded_failures():
    counts = endings(lines(SLOW_TO_COMPILE), 1000, seconds=210, derandomize=False)
    print("\n" + told(counts))
    assert counts["refused"] > counts["run"] > 0


def in_a_process(words, here):
    """The ending of a command line in a process of its own."""
    before = sorted(here.rglob("*"))
    with _at(here):
        found = subprocess.run(
            [sys.executable, "-m", "curvexp", *words],
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=240,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
        )
    return judged(found.returncode, found.stdout, found.stderr, words, here, before)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_command_lines_in_processes_of_their_own_end_so_too():
    as_argv = lines().filter(lambda words: not any("\0" in word for word in words))
    counts = endings(as_argv, 40, seconds=150, derandomize=False, run=in_a_process)
    print("\n" + told(counts) + ", in processes of their own")
    assert counts["refused"] > 0


if __name__ == "__main__":
    COUNTS = endings(lines(), 30, derandomize=True)
    assert COUNTS["refused"] > 5
    assert COUNTS["run"] > 0
    print(told(COUNTS))
