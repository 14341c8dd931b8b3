"""The run's folder: what is written comes back, a kill loses nothing, and no folder, however damaged, stops the reader."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvexp import store
from curvexp.errors import ConfigError
from curvexp.record import Reading, Record
from curvexp.store import SUMMARY, RunFolder, folder, load_ledger, load_runs

ROOT = Path(store.__file__).parents[2]
HEAD = {"problem": "quadratic", "preprocess": "raw", "optim": "sgd", "seed": 0}


def record(step, *, reading=None, **scalars):
    return Record(step=step, scalars=scalars, reading=reading, state=object(), seconds=step / 4)


def reading(*eigenvalues, overlaps=True, complete=True, **extra):
    values = np.array(eigenvalues, np.float64)
    shares = np.full(len(values), 0.25) if overlaps else None
    return Reading(values, np.full(len(values), 1e-9), shares, complete, {}, extra)


def write(path, *, records=(), status="completed", config=None, **summary):
    folder = RunFolder(path)
    folder.start(config or {}, HEAD)
    for item in records:
        folder.append(item)
    folder.finish(status=status, **summary)
    return path


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
)
ARRAYS = st.lists(st.floats(), max_size=4).map(np.array)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_a_line_is_read_as_the_json_of_the_standard_library(line):
    """NaN, infinities, numbers of any size, unicode, arrays: whichever writer takes it, one line, and the same values."""
    data = folder._encoded(line)
    assert data.isascii()
    assert b"\n" not in data
    assert repr(json.loads(data)) == repr(json.loads(json.dumps(folder.jsonable(line))))


def test_a_run_comes_back_as_it_was_recorded(tmp_path):
    write(
        tmp_path / "a",
        records=[
            record(0, loss=2.5, grad_norm=np.float32(0.5), accuracy=None, reading=reading(-1.0, 3.0)),
            record(10, loss=0.1 + 0.2, reading=reading(0.5, overlaps=False, complete=False, trace={"mean": 4.0})),
        ],
        config={"optim": {"lr": "auto"}, "hidden": (3, 2), "seed": 0},
        loss=0.1 + 0.2,
        condition_number=math.inf,
        versions={"jax": "1.2"},
    )
    runs, metrics, spectra = load_runs(tmp_path)
    row = runs.iloc[0]
    assert (row["run"], row["status"], row["problem"], row["seed"]) == ("a", "completed", "quadratic", 0)
    assert row["loss"] == 0.1 + 0.2
    assert row["condition_number"] == math.inf
    assert np.isnan(row["lambda_max"])
    assert (row["config.optim.lr"], row["config.hidden"], row["versions.jax"]) == ("auto", "[3, 2]", "1.2")
    assert (row["records"], row["last_step"]) == (2, 10)
    assert metrics.columns.tolist() == ["run", "step", "seconds", "loss", "grad_norm", "accuracy"]
    assert metrics["step"].tolist() == [0, 10]
    assert metrics["seconds"].tolist() == [0.0, 2.5]
    assert metrics["loss"].tolist() == [2.5, 0.1 + 0.2]
    assert metrics["accuracy"].isna().all()
    assert spectra["index"].tolist() == [0, 1, 0]
    assert spectra["eigenvalue"].tolist() == [-1.0, 3.0, 0.5]
    assert spectra["step"].tolist() == [0, 0, 10]
    assert spectra["gradient_overlap"].tolist()[:2] == [0.25, 0.25]
    assert np.isnan(spectra["gradient_overlap"].iloc[2])
    assert spectra["complete"].tolist() == [True, True, False]


def test_the_files_hold_what_the_design_says(tmp_path):
    extra = {"trace": {"mean": 1.0, "stderr": 0.5}, "density": {"x": np.array([0.0, 1.0])}}
    write(
        tmp_path,
        records=[
            record(0, loss=math.nan, worst=-math.inf, accuracy=None, reading=reading(1.0, **extra)),
            record(5, loss=math.inf),
        ],
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [
        ["step", "seconds", "loss", "worst", "accuracy"],
        ["step", "seconds", "loss"],
    ]
    assert math.isnan(lines[0]["loss"])
    assert (lines[0]["worst"], lines[0]["accuracy"], lines[1]["loss"]) == (-math.inf, None, math.inf)
    assert [json.loads(line) for line in (tmp_path / "spectrum.jsonl").read_text().splitlines()] == [
        {
            **{"step": 0, "eigenvalues": [1.0], "residuals": [1e-9], "gradient_overlaps": [0.25], "complete": True},
            **{"trace": {"mean": 1.0, "stderr": 0.5}, "density": {"x": [0.0, 1.0]}},
        }
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary)[: len(SUMMARY)] == list(SUMMARY)
    assert summary["loss"] is None
    assert sorted(os.listdir(tmp_path)) == [".lock", "config.json", "metrics.jsonl", "spectrum.jsonl", "summary.json"]


def test_without_a_reading_there_is_no_spectrum_file(tmp_path):
    write(tmp_path, records=[record(0, loss=1.0)])
    assert not (tmp_path / "spectrum.jsonl").exists()


def test_a_record_is_one_write_of_one_line(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.start({}, HEAD)
    written = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: written.append(bytes(data)) or real(file, data))
    folder.append(record(0, loss=1.0, reading=reading(*range(1000))))
    assert len(written) == 2
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in written)


def test_a_line_that_the_disk_has_no_room_for_is_taken_back(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.start({}, HEAD)
    folder.append(record(0, loss=1.0))
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:7]))
    with pytest.raises(OSError, match="No space left"):
        folder.append(record(1, loss=0.5))
    monkeypatch.undo()
    folder.append(record(2, loss=0.25))
    folder.finish(status="completed")
    assert load_runs(tmp_path).metrics["step"].tolist() == [0, 2]
    assert load_runs(tmp_path).runs["status"].tolist() == ["completed"]


def test_a_summary_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.start({}, HEAD)

    def broken(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="No space left"):
        folder.update(loss=1.0)
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "running"
    assert sorted(os.listdir(tmp_path)) == [".lock", "config.json", "metrics.jsonl", "summary.json"]


KILLED = """
import sys
from curvexp.record import Record
from curvexp.store import RunFolder
folder = RunFolder(sys.argv[1])
folder.start({}, {"problem": "quadratic", "preprocess": "raw", "optim": "sgd", "seed": 0})
for step in range(10**9):
    folder.append(Record(step=step, scalars={"loss": 1.0 / (step + 1)}, reading=None, state=None, seconds=0.0))
    print(step, flush=True)
"""


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.05])
def test_a_kill_loses_no_record_that_was_acknowledged(tmp_path, pause):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        assert process.stdout is not None
        shown = int(process.stdout.readline())
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        shown = max([shown, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    runs, metrics, _ = load_runs(tmp_path)
    assert metrics["step"].tolist() == list(range(len(metrics)))
    assert len(metrics) > shown
    assert runs["status"].tolist() == ["running"]
    assert runs["reason"].tolist() == ["running or killed: no end was recorded"]
    assert runs["last_step"].tolist() == [len(metrics) - 1]


def test_a_torn_last_line_is_passed_over(tmp_path):
    write(tmp_path, records=[record(0, loss=1.0), record(1, loss=0.5)])
    data = (tmp_path / "metrics.jsonl").read_bytes()
    for length in range(len(data) // 2 + 1, len(data)):
        (tmp_path / "metrics.jsonl").write_bytes(data[:length])
        runs, metrics, _ = load_runs(tmp_path)
        assert metrics["step"].tolist() == [0]
        assert runs["status"].tolist() == ["completed"]


@pytest.mark.parametrize(
    "file, content, reason",
    [
        ("summary.json", b"", "not JSON"),
        ("summary.json", b"\xff\xfe{", "not JSON"),
        ("summary.json", b"[1, 2]", "expected a JSON object, got list"),
        ("summary.json", b'{"accuracy": 1}', "not of a run"),
        ("summary.json", b'{"status": ["completed"]}', "not of a run"),
        ("summary.json", b'{"a":' * 100_000, "not JSON"),
        ("summary.json", b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
        ("summary.json", json.dumps({str(i): i for i in range(20_000)}).encode(), "more than 10000 keys"),
        ("config.json", b"{", "not JSON"),
        ("metrics.jsonl", b'{"step": 0}\nnonsense\n{"loss": 1}\n', "2 damaged lines"),
        ("metrics.jsonl", b'{"step": 1.5}\n', "1 damaged line"),
        ("metrics.jsonl", b'{"step": ' + b"9" * 40 + b"}\n", "1 damaged line"),
        ("metrics.jsonl", b"\0" * 4096 + b"\n", "1 damaged line"),
        ("metrics.jsonl", b'{"step": [1\n2]}\n', "2 damaged lines"),
        ("metrics.jsonl", b"[" * 100_000 + b"\n", "1 damaged line"),
        ("spectrum.jsonl", b'{"step": 0, "eigenvalues": 3}\n', "without a spectrum"),
        ("spectrum.jsonl", b'{"step": 0, "eigenvalues": [1, 2], "residuals": [0]}\n', "without a spectrum"),
    ],
)
def test_a_damaged_or_foreign_run_is_unreadable_with_its_reason(tmp_path, file, content, reason):
    write(tmp_path / "good", records=[record(0, loss=1.0)])
    bad = write(tmp_path / "bad", records=[record(0, loss=1.0)])
    (bad / file).write_bytes(content)
    runs = load_runs(tmp_path).runs.set_index("run")
    assert runs.loc["good", "status"] == "completed"
    assert runs.loc["bad", "status"] == "unreadable"
    assert reason in runs.loc["bad", "reason"]
    assert file in runs.loc["bad", "reason"]


def test_values_of_wrong_types_become_missing_numbers(tmp_path):
    bad = write(tmp_path, records=[record(0, loss=1.0)])
    (bad / "summary.json").write_text(
        '{"status": "completed", "loss": {"a": 1}, "seed": "zero", "steps": [1], "problem": 7}'
    )
    line = {"step": 0, "run": "x", "loss": "low", "huge": 10**400, "list": [1, 2], "\ud800": 1.0}
    (bad / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (bad / "config.json").write_text(json.dumps({"name": "\ud800", "deep": {"nested": None}}))
    runs, metrics, _ = load_runs(tmp_path)
    assert runs[["loss", "seed", "steps"]].isna().all(axis=None)
    assert runs["problem"].tolist() == ["7"]
    assert runs["config.name"].tolist() == ["?"]
    assert metrics["run"].tolist() == ["."]
    assert metrics[["loss", "list"]].isna().all(axis=None)
    assert metrics["huge"].tolist() == [math.inf]


def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path):
    outside = write(tmp_path / "outside")
    inside = tmp_path / "inside"
    (inside / "linked_file").mkdir(parents=True)
    (inside / "linked_file" / "summary.json").symlink_to(outside / "summary.json")
    (inside / "linked_folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "pipe").mkdir()
    os.mkfifo(inside / "pipe" / "summary.json")
    (inside / "folder" / "summary.json").mkdir(parents=True)
    runs = load_runs(inside).runs.set_index("run")
    assert runs["status"].to_dict() == dict.fromkeys(["folder", "linked_file", "pipe"], "unreadable")
    assert "links are not followed" in runs.loc["linked_file", "reason"]


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    run = write(tmp_path, records=[record(0, loss=1.0)])
    with open(run / "metrics.jsonl", "ab") as file:
        file.truncate(2**31)  # sparse: takes no disk
    assert "over" in load_runs(tmp_path).runs.loc[0, "reason"]


def test_runs_are_found_at_any_depth_in_natural_order(tmp_path):
    for name in ("10", "9", "deep/er/1"):
        write(tmp_path / name)
    write(tmp_path / "9" / "wandb" / "copy")
    assert load_runs(tmp_path).runs["run"].tolist() == ["9", "10", "deep/er/1"]
    assert load_runs(tmp_path / "9").runs["run"].tolist() == ["."]


def test_a_folder_without_runs_gives_empty_frames_and_no_folder_an_error(tmp_path):
    runs, metrics, spectra = load_runs(tmp_path)
    assert runs.empty
    assert metrics.empty
    assert spectra.empty
    assert {"run", "status", "reason", "loss"} <= set(runs.columns)
    with pytest.raises(ConfigError, match="no such folder"):
        load_runs(tmp_path / "missing")


def test_a_folder_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.*file/run: cannot be written \(Not a directory\)"):
        RunFolder(tmp_path / "file" / "run").start({}, HEAD)


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_was(tmp_path):
    write(tmp_path, records=[record(0, loss=1.0)], loss=1.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.*expected a new folder"):
        second.start({}, HEAD)
    assert second.finish(status="failed", reason="refused")["status"] == "failed"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_value_that_json_cannot_hold_is_named(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"optim\.steps\[1\]=.*got object"):
        folder.start({"optim": {"steps": [1, object()]}}, HEAD)
    folder.finish(status="failed", reason="no JSON", **HEAD)
    assert load_runs(tmp_path).runs["reason"].tolist() == ["no JSON"]


def test_an_unknown_ending_is_a_defect(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start({}, HEAD)
    with pytest.raises(ValueError, match="expected one of completed"):
        folder.finish(status="done")


def test_jax_and_pandas_stay_unloaded_where_runs_are_written_and_jax_where_they_are_read():
    code = (
        "import sys, curvexp.store, curvexp.track; assert not {'jax', 'pandas', 'wandb', 'hydra'} & set(sys.modules)\n"
        "import curvexp.report.__main__; assert not {'jax', 'wandb', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_ledger_comes_back_a_row_a_direction_and_what_is_damaged_has_none(tmp_path):
    columns = {name: np.array([0.1, np.nan]) for name in store.detail.LEDGER}
    whole = {**columns, "eigenvalues": np.array([-1.0, 3.0]), "since": 5, "operator": "hessian", "loss_from": "model"}
    first = {**whole, "since": None}
    damaged = {**whole, "contraction": np.array([1.0])}
    records = [record(i, reading=reading(-1.0, 3.0, ledger=found)) for i, found in enumerate([first, whole, damaged])]
    write(tmp_path / "a", records=[*records, record(9, reading=reading(1.0))])
    write(tmp_path / "b", records=[record(0, loss=1.0)])
    (tmp_path / "b" / "spectrum.jsonl").write_text(
        '{"step": 1, "ledger": [3]}\n{"step": 2, "ledger": {"eigenvalues": 1}}\n'
    )
    found = load_ledger(tmp_path)
    assert found["run"].tolist() == ["a"] * 4
    assert found["step"].tolist() == [0, 0, 1, 1]
    assert found["index"].tolist() == [0, 1, 0, 1]
    assert found["eigenvalue"].tolist() == [-1.0, 3.0] * 2
    assert found["since"].isna().tolist() == [True, True, False, False]
    assert found["contraction"].isna().tolist() == [False, True] * 2
    assert set(found["operator"]) == {"hessian"}
    assert load_ledger(tmp_path / "b").columns.tolist() == found.columns.tolist()
    with pytest.raises(ConfigError, match="no such folder"):
        load_ledger(tmp_path / "c")
