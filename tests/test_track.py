"""W&B: an offline run read back holds what was logged; no key, no server and no service process ever stops or delays a run."""

import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from wandb.util import get_core_path

from curvexp import track
from curvexp.errors import ConfigError
from curvexp.record import Reading, Record
from curvexp.sink import RunEnd, RunStart
from curvexp.track import wandb_run, wandb_settings

ROOT = Path(track.__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a W&B key, in the environment or in a file."""
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb_run.WandbRun, "unreachable", False)
    yield tmp_path
    wandb_run.leave(None)  # the next test's settings are read anew


def record(step, *, eigenvalues=None, **scalars):
    values = None if eigenvalues is None else np.array(eigenvalues, np.float64)
    extra = {"trace": {"mean": 4.0, "stderr": 0.5}, "density": {"x": np.zeros(3)}}
    reading = None if values is None else Reading(values, np.zeros(len(values)), None, True, {}, extra)
    return Record(step=step, scalars={"loss": 1.0 / (step + 1), **scalars}, reading=reading, state=None, seconds=0.5)


def follow(tracker, folder, records, *, group=None, status="completed"):
    """One run in the tracker, from check to finish."""
    folder.mkdir(exist_ok=True)
    tracker.check()
    config = {"optim": {"lr": 0.1}, "seed": 0}
    tracker.start(RunStart(folder, config, "#3", names={"problem": "mlp"}, group=group))
    for item in records:
        tracker.append(item)
    tracker.finish(
        RunEnd(status, None, {"status": status, "loss": 0.25, "lambda_max": None, "condition_number": np.inf})
    )


def read_back(folder):
    """The lines of a run's transaction log by type, as `wandb leet inspect --json RUN` prints them."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    return read_back_part(run)


def read_back_part(run):
    """The same of one of a run's parts."""
    (log,) = run.glob("*.wandb")
    command = [
        get_core_path(),
        "leet",
        "inspect",
        "--no-observability",
        "--json",
        "--run-file",
        str(log),
        str(run.parent),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    return {kind: [line[kind] for line in lines if line["type"] == kind] for kind in {line["type"] for line in lines}}


def test_an_offline_run_read_back_holds_all_that_was_logged(home):
    records = [record(0, eigenvalues=[0.0, 1.0, 4.0], accuracy=0.5, lr=None), record(7), record(10, worst=np.nan)]
    tracker = track.wandb(project="p", tags=["a", "b"])
    follow(tracker, home / "run", records, group="sweeps/1", status="diverged")
    back = read_back(home / "run")
    assert tracker.address is not None
    assert Path(tracker.address).parent == home / "run" / "wandb"

    run, marked = back["run"]
    assert marked["tags"] == ["a", "b", "diverged"]
    named = {key: run[key] for key in ("project", "run_group", "job_type", "display_name", "tags")}
    assert named == {
        "project": "p",
        "run_group": "sweeps/1",
        "job_type": "mlp",
        "display_name": "#3",
        "tags": ["a", "b"],
    }
    assert run["config"]["update"]["optim"] == {"lr": 0.1}
    assert run["config"]["update"]["seed"] == 0
    (rule,) = [metric for metric in back["metric"] if metric.get("glob_name") == "*"]
    assert rule["step_metric"] == "step"

    history = [line["item"] for line in back["history"]]
    assert [line["step"]["num"] for line in back["history"]] == [0, 7, 10]
    assert [item["step"] for item in history] == [0, 7, 10]
    logged = [{key for key in item if not key.startswith("_")} for item in history]
    scalars = {"step", "timing/seconds", "loss/loss"}
    assert logged[0] - {key for key in logged[0] if key.startswith("curvature/eigenvalues.")} == scalars | {
        *("loss/accuracy", "curvature/trace.mean", "curvature/trace.stderr")
    }
    assert logged[1:] == [scalars, scalars | {"other/worst"}]
    assert [item["loss/loss"] for item in history] == [1.0, 1 / 8, 1 / 11]
    assert history[0]["curvature/eigenvalues._type"] == "histogram"
    assert sum(history[0]["curvature/eigenvalues.values"]) == 3
    assert (history[0]["curvature/eigenvalues.bins"][0], history[0]["curvature/eigenvalues.bins"][-1]) == (0.0, 4.0)
    assert history[2]["other/worst"] == "NaN"

    summary = {}
    for line in back["summary"]:
        summary |= line.get("update", {})
    assert (summary["status"], summary["loss"], summary["condition_number"]) == ("diverged", 0.25, "Infinity")
    assert back["exit"][-1]["exit_code"] == 0


def test_the_runs_of_a_sweep_in_one_process_are_runs_of_their_own_in_one_group(home):
    endings = {"completed": 0, "skipped": 0, "failed": 1, "interrupted": 130}  # W&B shows the last two as failed
    for job, status in enumerate(endings):
        follow(track.wandb(), home / str(job), [record(0), record(job + 1)], group="g", status=status)
    logs = [read_back(home / str(job)) for job in range(4)]
    assert len({log["run"][0]["run_id"] for log in logs}) == 4
    assert {log["run"][0]["run_group"] for log in logs} == {"g"}
    assert [[line["step"]["num"] for line in log["history"]] for log in logs] == [[0, 1], [0, 2], [0, 3], [0, 4]]
    assert [log["exit"][-1].get("exit_code", 0) for log in logs] == list(endings.values())


def test_wandb_takes_its_share_of_the_loop_and_the_rest_before_a_checkpoint_and_at_the_end(home, monkeypatch):
    seconds, logged = [0.0], []

    class Slow:  # a record takes 1 s of a loop that itself takes 1 s a record
        def log(self, values, step, commit):
            seconds[0] += 1.0
            logged.append((step, values["loss/loss"]))

    monkeypatch.setattr(wandb_run.time, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(wandb_run, "BEHIND", 40)
    tracker = track.wandb(mode="offline")
    tracker.run = Slow()
    for step in range(100):
        seconds[0] += 1.0
        tracker.append(record(step))
        assert len(tracker.waiting) <= 40
        if step == 39:
            assert len(logged) == 2  # at once, and once more when 34 s were over, 3 % of which is 1 s
            assert tracker.memory() is not None
            assert len(logged) == 40
    assert len(logged) >= 60
    monkeypatch.setattr(wandb_run, "leave", lambda run: None)
    tracker.finish(RunEnd("completed", None, {}))  # which Slow has nothing for: it is given up, after the last record
    assert logged == [(step, 1 / (step + 1)) for step in range(100)]


def test_of_a_ledger_the_scalars_alone_are_logged():
    ledger = {"operator": "hessian", "since": 5, "contraction": np.ones(2)}
    reading = Reading(np.ones(2), np.zeros(2), None, True, {}, {"ledger": ledger})
    found = wandb_run.logged(
        Record(step=3, scalars={"top_contraction": 0.5, "best_step": None}, reading=reading, state=None)
    )
    assert set(found) == {"step", "curvature/eigenvalues", "curvature/top_contraction"}


@pytest.mark.parametrize(
    "values",
    [[1.0], [2.0, 2.0 + 4e-16], [0.0, 0.0], [-1e300, 1e300], [5e-324, 1e-323], [1.0, np.nan, np.inf], [np.nan]],
)
def test_every_spectrum_has_a_histogram_that_counts_its_finite_values(values):
    counts, edges = wandb_run.histogram(np.array(values))
    assert counts.sum() == np.isfinite(values).sum()
    assert len(edges) == 65
    assert (np.diff(edges) > 0).all()


def test_online_without_a_key_is_refused_before_the_run(home):
    with pytest.raises(ConfigError, match=r"track\.mode=online.*wandb login"):
        track.wandb(mode="online").check()


def test_a_key_that_is_none_is_named(home, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    with pytest.raises(ConfigError, match="WANDB_API_KEY invalid"):
        track.wandb().check()


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"mode": "on"}, r"track\.mode=on: expected one of auto"),
        ({"project": "a/b"}, r"track\.project=a/b"),
        ({"project": ""}, r"track\.project="),
        ({"tags": "abc"}, r"track\.tags=abc"),
        ({"tags": [""]}, r"track\.tags="),
        ({"timeout": 0}, r"track\.timeout=0"),
        ({"timeout": float("nan")}, r"track\.timeout=nan"),
        ({"timeout": True}, r"track\.timeout=True"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(setting, message):
    with pytest.raises(ConfigError, match=message):
        track.wandb(**setting)


@pytest.mark.parametrize(
    "variable, value, mode, words",
    [
        ("WANDB_MODE", "offlin", "auto", r"WANDB_MODE=offlin: expected online, offline or disabled"),
        ("WANDB_MODE", "", "auto", r"WANDB_MODE=: expected online, offline or disabled"),
        ("WANDB_MODE", "offlin", "offline", r"WANDB_MODE=offlin: expected"),
        ("WANDB_INIT_TIMEOUT", "soon", "offline", r"WANDB_INIT_TIMEOUT=soon: .*number.* variable WANDB_INIT_TIMEOUT"),
        ("WANDB_BASE_URL", "nowhere", "auto", r"WANDB_BASE_URL=nowhere: .*URL"),
    ],
)
def test_a_wrong_variable_is_refused_by_name_before_the_run(home, monkeypatch, variable, value, mode, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=words):
        track.wandb(mode=mode).check()


@pytest.mark.parametrize("value, mode", [("dryrun", "offline"), ("offline", "offline"), ("disabled", "disabled")])
def test_the_variable_decides_where_the_mode_is_auto(home, monkeypatch, value, mode):
    monkeypatch.setenv("WANDB_MODE", value)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    tracker = track.wandb()
    tracker.check()
    assert tracker.mode == mode


def test_off_and_disabled_write_nothing(home, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for number, tracker in enumerate([track.off(), track.wandb(mode="disabled"), track.wandb()]):
        follow(tracker, home / str(number), [record(0)])
        assert list((home / str(number)).iterdir()) == []


def test_whatever_wandb_raises_is_told_once_and_the_run_goes_on(home, monkeypatch, caplog):
    tracker = track.wandb(mode="offline")
    tracker.start(RunStart(home, {}, "n"))

    def broken(*args, **kwargs):
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(tracker.run, "log", broken)
    with caplog.at_level(logging.WARNING, "curvexp.track"):
        for step in range(3):
            tracker.append(record(step))
        tracker.finish(RunEnd("completed", None, {}))
    assert [entry.getMessage() for entry in caplog.records if entry.name == "curvexp.track"] == [
        "W&B failed, the run goes on without it; its own files are whole: out of order"
    ]


SWEEP = """
    import logging, os, pathlib, signal, subprocess, sys, time
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    from curvexp import track
    from curvexp.record import Record
    from curvexp.sink import RunEnd, RunStart

    def job(name, kill=False):
        tracker = track.wandb(timeout=2)
        tracker.check()
        folder = pathlib.Path(name)
        folder.mkdir()
        tracker.start(RunStart(folder, {}, name, group="g", note=lambda text: None))
        for step in range(5):
            tracker.append(Record(step, {"loss": 1.0}, None, None, 0.0))
            if kill and step == 2:
                children = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True)
                (service,) = [line.split()[0] for line in children.stdout.splitlines() if b"wandb-core" in line]
                os.kill(int(service), signal.SIGKILL)
                time.sleep(0.3)
        tracker.finish(RunEnd("completed", None, {"loss": 1.0}))
"""


def sweep(home, calls, *, stdin=subprocess.DEVNULL, **environment):
    """What a process prints that runs these jobs, and the seconds it took."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SWEEP) + calls],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, time.monotonic() - begun


def test_a_killed_service_ends_the_tracking_of_one_run_only(home):
    printed, _ = sweep(home, "job('a', kill=True); job('b')")
    (line,) = printed.splitlines()
    assert line.startswith("W&B failed, the run goes on without it")
    assert len(read_back(home / "b")["history"]) == 5


def test_without_a_key_no_one_is_asked_and_no_server_called(home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        terminal, inside = os.openpty()  # with a terminal to ask at, W&B would
        try:
            proxies = {name: address for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
            monkeypatch.delenv("WANDB_ERROR_REPORTING")
            printed, _ = sweep(home, "job('a')", stdin=inside, WANDB_BASE_URL=address, NO_PROXY="", **proxies)
        finally:
            os.close(terminal)
            os.close(inside)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert printed == ""
    assert len(read_back(home / "a")["history"]) == 5


def test_with_a_key_and_no_server_the_runs_go_on_offline_after_one_wait_and_one_warning(home):
    key = "a1" * 20
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    printed, seconds = sweep(home, "job('a'); job('b')", WANDB_BASE_URL=address, WANDB_API_KEY=key)
    (line,) = printed.splitlines()
    assert line.startswith("W&B cannot be reached, runs are kept offline in a/wandb")
    assert seconds < 30
    assert all(len(read_back(home / name)["history"]) == 5 for name in "ab")
    held = [path for path in home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert held == []


def test_where_its_folder_cannot_be_made_the_run_goes_on_and_it_is_told_once(home, caplog):
    (home / "run").mkdir()
    (home / "run/wandb").write_text("in the way")
    with caplog.at_level(logging.WARNING, "curvexp.track"):
        follow(track.wandb(mode="offline"), home / "run", [record(0), record(1)])
    (told,) = [entry.getMessage() for entry in caplog.records if entry.name == "curvexp.track"]
    assert told.startswith("W&B failed, the run goes on without it")
    assert (home / "run/wandb").read_text() == "in the way"


def test_what_goes_on_offline_is_a_second_part_in_the_same_group_that_names_the_first(home):
    first = track.wandb(mode="offline")
    follow(first, home / "run", [record(0), record(5)], status="interrupted")
    assert first.identity is not None
    memory = json.loads(json.dumps(first.memory()))
    second = track.wandb(mode="offline")
    second.start(RunStart(home / "run", {}, "#3", before={"wandb": first.identity}, kept={"tracker": memory}))
    second.append(record(10))
    second.finish(RunEnd("completed", None, {}))
    parts = sorted((home / "run/wandb").glob("offline-run-*"))
    assert len(parts) == 2
    logs = [read_back_part(part) for part in parts]
    (one, *_), (other, *_) = (log["run"] for log in logs)
    if "continues" in one["config"]["update"]:  # of one second, their names decide which comes first
        one, other = other, one
    assert other["config"]["update"]["continues"] == one["run_id"] == first.identity["id"]
    assert other["run_id"] != one["run_id"]
    assert other["run_group"] == one["run_group"]
    assert other["display_name"] == "#3 (continued)"


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_what_goes_on_online_keeps_its_id_where_the_first_part_has_one_there(home, monkeypatch, mode):
    """No server here: what W&B is asked for is what is tested."""
    asked = []
    tracker = track.wandb(mode="online")
    monkeypatch.setattr(wandb_settings, "has_key", lambda: True)
    monkeypatch.setattr(tracker, "_init", lambda run, mode: asked.append((run, mode)))
    before = {"id": "abc", "mode": mode, "group": "g"}
    tracker.start(RunStart(home, {}, "n", before={"wandb": before}))
    ((run, made),) = asked
    assert made == "online"
    assert run["group"] == "g"
    if mode == "online":
        assert (run["id"], run["resume"]) == ("abc", "allow")
        assert "continues" not in run["config"]
    else:
        assert "id" not in run
        assert run["config"]["continues"] == "abc"
