"""A stranger's run folder is data: whatever lies in it, all readers end, no link leads out of it, and nothing in it is run."""

import contextlib
import html.parser
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import call
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from curvexp import load_densities, load_ledger, load_planes, load_runs, report
from curvexp.report import __main__ as command
from curvexp.report.page import assets

FUZZ = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck),
        "phases": [Phase.explicit, Phase.generate]}  # fmt: skip
WITHIN = 60.0  # seconds for one folder, on a loaded machine
SECRET = "the-secret-4c1f9b"  # in files outside, to which links lead
VARIABLE = "the-variable-77aa02"  # in the environment
MARKUP = "<script>alert('MARK7')</script>"
TEXTS = [
    *(MARKUP, "</script><img src=x onerror=MARK7>", "\x1b]0;MARK7\x07", "[red]MARK8", "[link=file:///]MARK8[/link]"),
    *("\u202eMARK9", "\ud800", "a\nb", "x" * 3000, "", "&lt;b&gt;", "%{customdata}", "../../..", "=1+1", "__class__"),
    *("${oc.env:MARK_SECRET}", "${oc.create:{_target_: os.mkdir, path: SENTINEL}}", "???", "os.system", "\\[", "'\""),
]
VALUES = [
    *("null", "true", "-1", "0", "1e-320", "1e308", "-1e308", "NaN", "Infinity", "-Infinity", "9" * 400, "9" * 5000),
    *("[]", "{}", "[[]]", "[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, '{"a":' * 60 + "1" + "}" * 60, "[1,[2]]"),
    *(json.dumps(dict.fromkeys(map(str, range(300)), 1)), json.dumps([0.5] * 400), '"completed"', '"running"'),
    '{"_target_": "os.mkdir", "path": "SENTINEL"}',
    '{"_target_": "curvexp.app.build._shared", "path": "optim", "node": "{\\"_target_\\": \\"os.mkdir\\", \\"path\\": \\"SENTINEL\\"}"}',
    '{"_target_": "jax.numpy.load", "file": "PICKLE", "allow_pickle": true}',
    *map(json.dumps, TEXTS),
]


class Bomb:
    """What leaves a folder behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@contextlib.contextmanager
def inside(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    """Runs with checkpoints and planes; a sweep with a diverged and a failed one; a study's finding."""
    folder = tmp_path_factory.mktemp("genuine")
    small = ["problem=quadratic", "problem.dimension=4", "steps=10", "probe.every=5"]
    with inside(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert call(*small, "optim=momentum", "checkpoint.every=5", "hydra.run.dir=one") == 0
        assert call("problem=bowl", "steps=10", "probe.every=5", "hydra.run.dir=bowl") == 0
        assert call("-m", *small, "optim.lr=0.005,10,-1", "hydra.sweep.dir=sweep") == 1
        assert call("+study=best_step", "hydra.run.dir=study") == 0
    (folder / "sweep/report.html").unlink()
    return folder


@pytest.fixture(scope="module")
def network(genuine):
    """The same with a network's run, with densities."""
    typed = ["problem=mlp", "problem/data=gaussian", "problem.data.samples=30", "problem.data.features=2", "steps=4"]
    typed += [
        "problem.hidden=[2]",
        "probe=density",
        "probe.k=1",
        "probe.every=4",
        "landscape=all",
        "checkpoint.every=4",
    ]
    with inside(genuine), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert call(*typed, "hydra.run.dir=net") == 0
    return genuine


@pytest.fixture(scope="module")
def outside(genuine, tmp_path_factory):
    """What links lead to: files with a secret, a run of that name, a pickle."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.txt").write_text(SECRET)
    shutil.copytree(genuine / "bowl", folder / "run")
    for name in ("summary.json", "config.json"):
        found = json.loads((folder / "run" / name).read_text())
        (folder / "run" / name).write_text(json.dumps({**found, "problem": SECRET, "seed": SECRET}))
    return folder


# ---- mutations --------------------------------------------------------------------------------------------------------------------


class Place:
    """A mutated folder: where it is, and what lies beside it."""

    def __init__(self, folder, outside):
        self.folder, self.outside = folder, outside
        self.sentinel = folder.parent / "sentinel"
        self.pickle = folder.parent / "evil.npy"
        np.save(self.pickle, np.array([Bomb(self.sentinel)], object), allow_pickle=True)

    def filled(self, text):
        return text.replace("SENTINEL", str(self.sentinel)).replace("PICKLE", str(self.pickle))

    def file(self, random, *, among=("*.json", "*.jsonl", "*.yaml")):
        found = sorted(p for form in among for p in self.folder.rglob(form) if p.is_file() and not p.is_symlink())
        return random.choice(found) if found else None


def whole_bytes(change):
    """A mutation that changes the bytes of a file."""

    def mutate(place, random):
        among = ("*",) if random.random() < 0.3 else ("*.json", "*.jsonl", "*.yaml")
        path = place.file(random, among=among)
        if path is not None and 0 < path.stat().st_size < 2**22:
            path.write_bytes(change(bytearray(path.read_bytes()), random, place))

    return mutate


def truncated(data, random, place):
    return data[: random.randrange(len(data))]


def flipped(data, random, place):
    for _ in range(random.choice([1, 1, 8])):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def inserted(data, random, place):
    at = random.randrange(len(data) + 1)
    piece = random.choice([b"\0" * 50, b"\xff\xfe", b"\n\n", b"{", b"],[", MARKUP.encode(), b"\x1b[31m", b"[" * 3000])
    return data[:at] + piece + data[at:]


def without_lines(data, random, place):
    lines = bytes(data).splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    random.shuffle(lines)
    return b"".join(lines)


def doubled(data, random, place):
    return bytes(data) * random.choice([2, 3])


def value(place, random):
    """A JSON value at a random place in a file, or a key, or both twice, in place of what is there."""
    path = place.file(random, among=("*.json", "*.jsonl"))
    if path is None or path.stat().st_size > 2**20:
        return
    lines = (
        path.read_text("utf-8", "replace").splitlines()
        if path.suffix == ".jsonl"
        else [path.read_text("utf-8", "replace")]
    )
    if not lines:
        return
    number = random.randrange(len(lines))
    new = place.filled(random.choice(VALUES))
    with contextlib.suppress(ValueError, RecursionError):
        lines[number] = put(json.loads(lines[number]), new, random)
    path.write_text("\n".join(lines) + "\n", "utf-8", "surrogateescape")


def put(node, new, random):
    """JSON text of the node with `new`, JSON text too, somewhere in it."""
    here, hole = node, "\x00hole"
    while True:
        inner = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not inner:
            return new
        key = random.choice(inner)
        if isinstance(here[key], dict | list) and here[key] and random.random() < 0.7:
            here = here[key]
            continue
        break
    how = random.random()
    if how < 0.2 and isinstance(here, dict) and new.startswith('"'):
        here[json.loads(new)] = here.pop(key)
        return json.dumps(node)
    if how < 0.3 and isinstance(here, dict):  # the key twice
        here[f"{hole}2"] = 0
        return json.dumps(node).replace(json.dumps(f"{hole}2") + ": 0", f"{json.dumps(key)}: {new}")
    here[key] = hole
    return json.dumps(node).replace(json.dumps(hole), new)


def swapped(place, random):
    one, other = place.file(random), place.file(random)
    if one is not None and one != other:
        mine = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(mine)


def gone(place, random):
    path = place.file(random, among=("*",))
    if path is not None:
        path.unlink()


def instead(place, random):
    """A folder, a pipe, a sparse file, a pickle or a link in a file's place."""
    path = place.file(random)
    if path is None:
        return
    path.unlink()
    kind = random.choice(["folder", "pipe", "sparse", "pickle", "link", "link", "link"])
    if kind == "folder":
        path.mkdir()
        (path / path.name).mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(2 ** random.choice([31, 40]))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(place.sentinel)))
    else:
        path.symlink_to(target(place, random))


def target(place, random):
    choices = [place.outside / "secret.txt", place.outside / "run", place.outside / "run/summary.json", "/dev/zero"]
    choices += [
        "/etc/passwd",
        "..",
        ".",
        "nowhere",
        place.folder,
        place.outside / "run/config.json",
        "/proc/self/environ",
    ]
    return random.choice(choices)


def linked(place, random):
    """A link under a name that readers or writers use, or under its own."""
    folders = sorted(p for p in place.folder.rglob("*") if p.is_dir() and not p.is_symlink())
    names = [
        "run",
        "summary.json",
        "metrics.jsonl",
        "finding.json",
        "landscape.json",
        "params.npz",
        "report.html",
        "report.csv",
        ".lock",
    ]
    names += [
        "traceback.txt",
        "checkpoints",
        ".hydra",
        "wandb",
        f".report.html.{os.getpid()}",
        f".summary.json.{os.getpid()}",
    ]
    path = random.choice([place.folder, *folders]) / random.choice(names)
    if not os.path.lexists(path):
        path.symlink_to(target(place, random))
    elif path.is_dir() and not path.is_symlink():
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(target(place, random))


def unknown(place, random):
    """Files and folders that no run has, with names that are markup, or long, or no Unicode."""
    names = [
        b"a\nb",
        MARKUP.replace("/", "").encode(),
        b"\xff\xfe",
        "ü\u202e".encode(),
        b"[red]MARK8",
        b"\x1b]0;MARK7\x07",
    ]
    names += [b"x" * 250, b"model.pkl", b"-rf", b"finding.json", b"summary.json"]
    name = os.fsencode(place.folder) + b"/" + random.choice(names)
    if os.path.lexists(name):
        return
    if random.random() < 0.5:
        shutil.copytree(os.fsencode(place.folder / "bowl" if (place.folder / "bowl").is_dir() else place.folder), name)
    else:
        with open(name, "wb") as file:
            file.write(pickle.dumps(Bomb(place.sentinel)))


def deep(place, random):
    path = place.folder / "/".join(["d"] * random.choice([40, 400, 1000]))
    path.mkdir(parents=True, exist_ok=True)
    source = place.file(random, among=("*.json",))
    if source is not None:
        shutil.copy(source, path / source.name)


MUTATIONS = [
    *map(whole_bytes, (truncated, flipped, inserted, without_lines, doubled)),
    *(value, value, value, value, value, swapped, gone, instead, instead, linked, unknown, deep),
]
MUTATED = st.lists(st.tuples(st.sampled_from(MUTATIONS), st.randoms(use_true_random=False)), min_size=1, max_size=3)


PARTS = ("one", "bowl", "sweep", "study")


@contextlib.contextmanager
def mutated(source, outside, parts, mutations):
    """A copy of these parts of the folder, in a temporary one, with these mutations done to it."""
    parent = Path(tempfile.mkdtemp())
    try:
        for part in parts:
            shutil.copytree(source / part, parent / "runs" / part, symlinks=True)
        place = Place(parent / "runs", outside)
        before = seen(outside)
        for mutate, random in mutations:
            with contextlib.suppress(OSError, RecursionError):  # one that meets what the one before has made
                mutate(place, random)
        yield place
        assert not place.sentinel.exists(), "something was run"
        assert seen(outside) == before, "something was written outside"
    finally:
        subprocess.run(["rm", "-rf", str(parent)], check=True)  # however deep


def seen(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- reading ----------------------------------------------------------------------------------------------------------------------


class Balanced(html.parser.HTMLParser):
    """A page whose elements are closed in their order, and the names of all of them."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.names, self.scripts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        assert not {key for key, _ in attrs if key.startswith("on")}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def check_page(text):
    found = Balanced()
    found.feed(text)
    found.close()
    assert found.open == []
    assert "img" not in found.names
    assert found.names.count("script") == 4
    json.loads(found.scripts[0])
    for raw in (MARKUP, "onerror=MARK7>", "\x1b", "\x07", "\u202eMARK9"):
        assert raw not in text.replace("&gt;", ""), raw


def check_terminal(text):
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "Traceback" not in text, text
    assert set(re.findall(r"(.{0,5})MARK8", text)) <= {"[red]", ":///]", "put '"}, text  # the last: of the grammar


def read(place, arguments):
    """All that reads a folder; its exit code, after checks of what it gave."""
    frames = [*load_runs(place.folder), load_ledger(place.folder), load_densities(place.folder)]
    texts = [frame.to_csv() for frame in frames]
    texts.append(str([{**plane, "loss": None} for plane in load_planes(place.folder)]))
    screen = io.StringIO()
    drawn = "--html" not in arguments  # a page takes longest
    report.summarize(place.folder, Console(file=screen, width=200, highlight=False), page=drawn)
    arguments = [part.replace("DIR", str(place.folder)).replace("OUT", str(place.folder.parent)) for part in arguments]
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        code = command.main(arguments)
    assert code in (0, 2), screen.getvalue()
    check_terminal(screen.getvalue())
    pages = [path for path in (place.folder / "report.html", place.folder.parent / "page.html") if path.is_file()]
    for path in pages:
        assert not path.is_symlink()
        text = path.read_text("utf-8")
        check_page(text)
        texts.append(text)
    for text in (*texts, screen.getvalue()):
        assert SECRET not in text
        assert VARIABLE not in text
        assert "root:x:0" not in text
    return code


COMMANDS = [
    ["DIR", "--html", "OUT/page.html"],
    ["DIR", "--by", "problem,lr", "--no-page"],
    ["DIR", "--where", "steps > 0 and optim == 'sgd'", "--html", "OUT/page.html"],
    ["DIR", "--csv", "OUT/tables", "--parquet", "OUT/tables", "--no-page"],
    ["--compare", "DIR", "GENUINE", "--by", "optim,lr"],
    ["--compare", "GENUINE", "DIR"],
]


@pytest.fixture
def short_pages(monkeypatch):
    """Pages without the 5 MB of scripts that are the same in all."""
    monkeypatch.setattr(assets, "plotly", lambda: "plotly")
    monkeypatch.setattr(assets, "datatables", lambda kind: "datatables")
    monkeypatch.setenv("MARK_SECRET", VARIABLE)
    monkeypatch.setenv("COLUMNS", "200")


def fuzz_reading(genuine, outside, examples, among=PARTS):
    """Folders mutated, and how the command ended, {exit code: how often}."""
    ends = {}

    @settings(**FUZZ, max_examples=examples)
    @given(
        parts=st.lists(st.sampled_from(among), min_size=1, max_size=2, unique=True),
        mutations=MUTATED,
        arguments=st.sampled_from(COMMANDS),
    )
    def every_folder_is_read(parts, mutations, arguments):
        begun = time.monotonic()
        with mutated(genuine, outside, parts, mutations) as place:
            code = read(place, [part.replace("GENUINE", str(genuine)) for part in arguments])
        assert time.monotonic() - begun < WITHIN
        ends[code] = ends.get(code, 0) + 1

    every_folder_is_read()
    return ends


# ---- going on ---------------------------------------------------------------------------------------------------------------------


OVERRIDES = [  # of a stranger's sweep
    *(
        "hydra/launcher=joblib",
        "+hydra.callbacks.x._target_=os.mkdir",
        "+hydra.callbacks.x.path=SENTINEL",
        "hydra.sweep.dir=SENTINEL",
    ),
    *(
        "hydra.searchpath=[file:///tmp]",
        "+problem@hydra.callbacks.x=quadratic",
        "hydra.sweeper._target_=os.mkdir",
        "hydra.job.chdir=true",
    ),
    *("preprocess._target_=os.mkdir", "+preprocess.path=SENTINEL", "optim._target_=os.mkdir", "+optim.path=SENTINEL"),
    *(
        "probe._target_=jax.numpy.load",
        "+probe.file=PICKLE",
        "+probe.allow_pickle=true",
        "trust=[os,posix,jax]",
        "retry=[diverged]",
    ),
    *("track=wandb", "track.project=${oc.env:MARK_SECRET}", "+track.tags=[${oc.env:MARK_SECRET}]", "resume=SENTINEL"),
    *(
        "problem.matrix=${oc.create:{_target_: os.mkdir, path: SENTINEL}}",
        "problem.dimension=${steps}",
        "--config-dir=/tmp",
    ),
    *(
        "seed=range(0,1000000000)",
        "seed=range(1000000)",
        "seed=0,1",
        "+study=best_step",
        "-m",
        "--cfg=job",
        "steps=12",
        "~problem",
        "~track",
    ),
    *(
        " trust=[os]",
        "hydra.launcher._target_=os.mkdir",
        "optim=adam,sgd",
        "optim.lr=[red]MARK8",
        f"seed='{MARKUP}'",
        "seed='\x1b]0;MARK7'",
    ),
]
YAML = [
    "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nhydra: {overrides: {task: [*c,*c,*c]}}\n",
    "hydra: {overrides: {task: !!python/object/apply:os.mkdir [SENTINEL]}}\n",
    "hydra: {overrides: {task: [!!python/name:os.system '']}}\n",
    "hydra: {overrides: {task: '${oc.env:MARK_SECRET}'}}\n",
    "hydra: " + "[" * 3000 + "]" * 3000,
    "hydra: {overrides: {task: 7}}",
    "hydra: {overrides: {task: []}}",
    "\x00\x01",
]


def other_overrides(place, random):
    """Overrides of a stranger's in the file of a sweep, among those that are there or without them; or a file of YAML's tricks."""
    path = place.folder / "multirun.yaml"
    if not path.is_file() or path.is_symlink():
        return
    if random.random() < 0.2:
        path.write_text(place.filled(random.choice(YAML)))
        return
    more = [place.filled(random.choice(OVERRIDES)) for _ in range(random.choice([1, 1, 3]))]
    head, task, rest = path.read_text("utf-8", "replace").partition("    task:\n")
    path.write_text(head + task + "".join(f"    - {json.dumps(override)}\n" for override in more) + rest)
    if random.random() < 0.5:  # jobs that were not begun
        shutil.rmtree(place.folder / random.choice(["0", "1"]), ignore_errors=True)


ON = st.lists(
    st.tuples(st.sampled_from([*MUTATIONS, value, value, instead]), st.randoms(use_true_random=False)),
    min_size=1,
    max_size=2,
)
ON_SWEEP = st.lists(
    st.tuples(st.sampled_from([*MUTATIONS, *[other_overrides] * 8]), st.randoms(use_true_random=False)),
    min_size=1,
    max_size=2,
)


def go_on(place, arguments):
    """The exit code of going on with a mutated folder, after checks of what it left."""
    screen = io.StringIO()
    with inside(place.folder.parent), contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        code = call(*arguments)
    assert code in (0, 1, 2), screen.getvalue()
    check_terminal(screen.getvalue())
    assert VARIABLE not in screen.getvalue()
    for path in place.folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**24:
            data = path.read_bytes()
            assert SECRET.encode() not in data, path
            assert VARIABLE.encode() not in data, path
    return code


def fuzz_going_on(genuine, outside, part, mutations, arguments, examples):
    """How many ended how, {exit code: how often}."""
    ends = {}

    @settings(**FUZZ, max_examples=examples)
    @given(mutations=mutations)
    def every_folder_is_gone_on_with_or_refused(mutations):
        begun = time.monotonic()
        with mutated(genuine / part, outside, [""], mutations) as place:
            code = go_on(place, arguments)
        assert time.monotonic() - begun < WITHIN
        ends[code] = ends.get(code, 0) + 1

    every_folder_is_gone_on_with_or_refused()
    return ends


# ---- tests ------------------------------------------------------------------------------------------------------------------------


def test_every_mutated_folder_is_read(genuine, outside, short_pages):
    assert sum(fuzz_reading(genuine, outside, 5).values()) >= 5


def test_every_mutated_run_is_gone_on_with_or_refused(genuine, outside, short_pages):
    fuzz_going_on(genuine, outside, "one", ON, ["resume=runs", "steps=15"], 15)


def test_every_mutated_sweep_is_gone_on_with_or_refused(genuine, outside, short_pages):
    fuzz_going_on(genuine, outside, "sweep", ON_SWEEP, ["-m", "resume=runs", "track=off"], 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_mutated_folders(network, outside, short_pages):
    genuine = network
    read = fuzz_reading(genuine, outside, 80, (*PARTS, "net"))
    runs = fuzz_going_on(genuine, outside, "one", ON, ["resume=runs", "steps=15"], 250)
    runs |= {"net": fuzz_going_on(genuine, outside, "net", ON, ["resume=runs", "steps=8"], 10)}
    sweeps = fuzz_going_on(genuine, outside, "sweep", ON_SWEEP, ["-m", "resume=runs", "track=off"], 40)
    count = (
        sum(read.values())
        + sum(sum(v.values()) if isinstance(v, dict) else v for v in runs.values())
        + sum(sweeps.values())
    )
    print(f"{count} folders mutated: all read, 0 links followed, 0 things run")
    print(f"by exit code: read {read}, runs gone on with {runs}, sweeps {sweeps}")


# ---- what was found once ----------------------------------------------------------------------------------------------------------


def lines(name, change):
    """Changes each line of a file, given its number and what it holds."""

    def mutate(place, random):
        path = place.folder / name
        held = [json.loads(line) for line in path.read_text().splitlines()]
        for number, line in enumerate(held):
            line.update(change(number))
        path.write_text("".join(json.dumps(line) + "\n" for line in held))

    return mutate


def changed(name, change):
    """Changes a JSON file by a function of what it holds."""

    def mutate(place, random):
        path = place.folder / name
        held = json.loads(path.read_text())
        change(held)
        path.write_text(json.dumps(held))

    return mutate


def written(name, text):
    return lambda place, random: (place.folder / name).write_text(text)


def pipe(name):
    def mutate(place, random):
        (place.folder / name).unlink(missing_ok=True)
        os.mkfifo(place.folder / name)

    return mutate


def at_depth(names):
    """A finding so many folders deep."""

    def mutate(place, random):
        with inside(place.folder):
            for name in names:
                os.mkdir(name)
                os.chdir(name)
            Path("finding.json").write_text("{}")

    return mutate


def link(name, to="secret.txt"):
    def mutate(place, random):
        path = place.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(place.outside / to)

    return mutate


def of_plane(**keys):
    return changed("bowl/landscape.json", lambda held: held["planes"][0].update(keys))


def of_claim(**keys):
    return changed("study/finding.json", lambda held: held["claims"][0].update(keys))


HUGE, INF = 10**400, float("inf")
LONG = json.dumps({"status": "completed", "a" * 10**6: dict.fromkeys(map(str, range(20_000)), 1)})
READ = {
    "losses further apart than a float": lines("bowl/metrics.jsonl", lambda i: {"loss": 1e308 if i else 1e-308}),
    "losses of both signs": lines("bowl/metrics.jsonl", lambda i: {"loss": 1.7e308 * (-1) ** i}),
    "no finite eigenvalue": lines("bowl/spectrum.jsonl", lambda i: {"eigenvalues": [None, None]}),
    "one finite eigenvalue": lines("bowl/spectrum.jsonl", lambda i: {"eigenvalues": [None, 1.0]}),
    "an infinite gradient": lines("bowl/metrics.jsonl", lambda i: {"grad_norm": INF}),
    "a point mass": lines("bowl/spectrum.jsonl", lambda i: {"density": {"x": [0, 0, 0], "density": [0, 0, INF]}}),
    "whole numbers no float holds": changed("bowl/summary.json", lambda held: held.update(condition_number_bound=HUGE, target_loss=HUGE)),
    "a plane of such numbers": of_plane(eigenvalues=[HUGE, 1]),
    "a plane of one axis": of_plane(axes=["x"]),
    "a plane of columns": changed("bowl/landscape.json", lambda held: held["planes"][0].update(x=[[v] for v in held["planes"][0]["x"]])),
    "a plane of no width": changed("bowl/landscape.json", lambda held: held["planes"][0].update(x=[1] * len(held["planes"][0]["x"]))),
    "planes without number": changed("bowl/landscape.json", lambda held: held.update(planes=held["planes"][:1] * 200)),
    "a prediction no float holds": of_claim(prediction=HUGE),
    "half a character": of_claim(statement="\ud800", verdict="\ud800"),
    "claims without number": changed("study/finding.json", lambda held: held.update(claims=held["claims"] * 5000)),
    "a pipe for a finding": pipe("study/finding.json"),
    "a pipe for a plane": pipe("bowl/landscape.json"),
    "a depth beyond paths and stacks": at_depth(["d"] * 1050 + ["d" * 200] * 12),
    "a long key over many": written("bowl/summary.json", LONG),
    "a link where the page is begun": link(f".report.html.{os.getpid()}"),
    "a link for the page": link("report.html"),
    "a link for the table": link(f".report.csv.{os.getpid()}"),
}  # fmt: skip


OF_A_STUDY = ("a prediction no float holds", "half a character", "claims without number", "a pipe for a finding")


@pytest.mark.parametrize("case", READ)
def test_what_stopped_a_reader_once_is_read(case, genuine, outside, short_pages):
    part = "study" if case in OF_A_STUDY else "bowl"
    with mutated(genuine, outside, [part], [(READ[case], None)]) as place:
        read(place, ["DIR", "--no-page"])


def test_two_sweeps_of_which_one_has_a_word_where_the_other_has_a_number_are_compared(
    genuine, outside, short_pages, capsys
):
    word = changed("sweep/0/config.json", lambda held: held["optim"].update(lr="auto"))
    with mutated(genuine, outside, ["sweep"], [(word, None)]) as place:
        assert command.main(["--compare", str(genuine / "sweep"), str(place.folder), "--by", "optim,lr"]) == 0
    assert "medians over pairs" in capsys.readouterr().out


def test_tables_of_many_runs_take_an_interval_without_all_resamples(genuine):
    low, high = report.tables.interval(np.arange(100_000.0))
    assert 49_000 < low < 50_000 < high < 51_000


def in_config(**keys):
    return changed("config.json", lambda held: held.update(keys))


def of_problem(**keys):
    return changed("config.json", lambda held: held["problem"].update(keys))


SCHEDULE = {
    "_target_": "curvexp.app.build._shared",
    "path": "optim",
    "node": '{"_target_": "os.mkdir", "path": "SENTINEL"}',
}
SHELL = {"_target_": "os.system", "command": "mkdir SENTINEL"}
REFUSED = {  # what a folder asks for, whether the person names packages, and a word of the refusal
    "a file of pickles": (of_problem(matrix={"_target_": "jax.numpy.load", "file": "PICKLE", "allow_pickle": True}), [], "no part of"),
    "a file's bytes": (of_problem(matrix={"_target_": "jax.numpy.fromfile", "file": "/etc/passwd"}), [], "no part of"),
    "a function by way of text": (in_config(preprocess=SCHEDULE), [], "no part of a run"),
    "a removal": (in_config(preprocess={"_target_": "curvexp.app.checkpoint.remove", "run": "x"}), [], "no part of a run"),
    "a function by way of a module": (in_config(probe={"_target_": "flax.linen.module.jax.profiler.start_server"}), [], "no part of a run"),
    "a made function": (of_problem(matrix="${oc.create:{_target_: os.mkdir, path: SENTINEL}}"), [], "an interpolation"),
    "a variable": (changed("config.json", lambda held: held["track"].update(name="${oc.env:MARK_SECRET}")), [], "an interpolation"),
    "the system's shell": (in_config(problem=SHELL), ["trust=[os,posix]"], "blocklisted"),
    "the shell for an optimizer": (in_config(optim=SHELL), ["trust=[os,posix]"], "blocklisted"),
    "the shell for a schedule": (
        changed("config.json", lambda held: held["optim"].update(schedule=SHELL)),
        ["trust=[os,posix]"],
        "blocklisted",
    ),
    "records elsewhere": (link("metrics.jsonl"), [], "a link out of the folder"),
    "spectra elsewhere": (link("spectrum.jsonl"), [], "a link out of the folder"),
    "a traceback elsewhere": (link("traceback.txt"), [], "a link out of the folder"),
    "checkpoints elsewhere": (link("checkpoints", "run"), [], "a link out of the folder"),
    "W&B's files elsewhere": (link("wandb", "run"), [], "a link out of the folder"),
    "Hydra's files elsewhere": (link(".hydra/config.yaml"), [], "a link out of the folder"),
    "a pipe": (pipe("traceback.txt"), [], "neither a file nor a folder"),
    "a deep config": (written("config.json", '{"a":' * 900 + "1" + "}" * 900), [], "expected a run's folder"),
}  # fmt: skip


def replaced_names(place):
    """Puts the sentinel's and the pickle's path for their names in the config."""
    path = place.folder / "config.json"
    path.write_text(place.filled(path.read_text()))


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_strangers_run_asks_for_is_refused(case, genuine, outside, short_pages, capsys):
    mutate, trust, word = REFUSED[case]
    with mutated(
        genuine / "one", outside, [""], [(mutate, None), (lambda place, random: replaced_names(place), None)]
    ) as place:
        assert go_on(place, ["resume=runs", "steps=15", *trust]) == 2
        screen = io.StringIO()
        with inside(place.folder.parent), contextlib.redirect_stderr(screen):
            assert call("resume=runs", "steps=15", *trust) == 2
        assert word in " ".join(screen.getvalue().split())


def with_override(*texts, fresh=False):
    def mutate(place, random):
        path = place.folder / "multirun.yaml"
        head, task, rest = path.read_text().partition("    task:\n")
        more = "".join(f"    - {json.dumps(place.filled(text))}\n" for text in texts)
        path.write_text(f"{head}{task}{more}{rest}")
        if fresh:
            shutil.rmtree(place.folder / "0")

    return mutate


def folder_for(name):
    def mutate(place, random):
        (place.folder / name).unlink()
        (place.folder / name).mkdir()

    return mutate


MAKES = ["preprocess._target_=os.mkdir", "+preprocess.path=SENTINEL"]
CALLBACKS = [
    "+hydra.callbacks.x._target_=os.mkdir",
    "+hydra.callbacks.x.path=SENTINEL",
    "+problem@hydra.callbacks.y=bowl",
]
SWEEPS = {  # what a stranger's sweep has among its overrides, the exit code, and a word of what is said
    "a function, its jobs begun": (with_override(*MAKES), 2, "not a trusted"),
    "a function, a job not begun": (with_override(*MAKES, fresh=True), 2, "not a trusted"),
    "trust of its own": (with_override(*MAKES, "trust=[os,posix]", fresh=True), 2, "not a trusted"),
    "callbacks": (with_override(*CALLBACKS, fresh=True), 1, "before"),
    "a flag": (with_override("--config-dir=/tmp"), 2, "multirun.yaml"),
    "a variable": (with_override("+track.name=${oc.env:MARK_SECRET}"), 2, "asks for something of this machine"),
    "jobs without number": (with_override("seed=range(0,1000000000)"), 2, "expected at most 100000"),
    "aliases": (written("multirun.yaml", YAML[0]), 2, "aliases"),
    "a tag": (written("multirun.yaml", YAML[1]), 2, "tags"),
    "too many levels": (written("multirun.yaml", YAML[4]), 2, "multirun.yaml"),
    "a job elsewhere": (link("0", "run"), 2, "a link out of the folder"),
    "a folder for a file": (folder_for("0/.hydra/config.yaml"), 2, "expected a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", SWEEPS)
def test_what_a_strangers_sweep_asks_for_is_not_done(case, genuine, outside, short_pages):
    mutate, code, word = SWEEPS[case]
    with mutated(genuine / "sweep", outside, [""], [(mutate, None)]) as place:
        screen = io.StringIO()
        with contextlib.redirect_stderr(screen), inside(place.folder.parent):
            assert call("-m", "resume=runs") == code
        assert word in " ".join(screen.getvalue().split())
        check_terminal(screen.getvalue())
