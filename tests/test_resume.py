"""A resumed run is the run that was never interrupted, bit for bit; and what a folder may not make it do."""

import copy
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import call

from curvexp import optim, preprocess, probe, training
from curvexp import problem as problems
from curvexp.app import checkpoint, resume
from curvexp.app.resume import snapshots
from curvexp.errors import ConfigError

ROOT = Path(__file__).parents[1]
CLOCKS = ("seconds", "probe_seconds")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_clocks(path):
    return [{key: repr(value) for key, value in line.items() if key not in CLOCKS} for line in lines(path)]


def assert_same_records(one, other):
    """The text of every number is the same: the bits are."""
    for name in ("metrics.jsonl", "spectrum.jsonl"):
        assert (one / name).exists() == (other / name).exists(), name
        if (one / name).exists():
            assert without_clocks(one / name) == without_clocks(other / name), name
    found, wanted = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    for key in wanted.keys() - {*CLOCKS, "versions"}:
        assert repr(found[key]) == repr(wanted[key]), key


@functools.cache
def network():
    data = problems.data.gaussian(samples=60, features=5, classes=3)
    return problems.mlp(preprocess=preprocess.batchnorm(), dtype=jnp.float32, data=data, hidden=[6])


@functools.cache
def valley():
    return problems.quadratic(preprocess=preprocess.raw(), dtype=jnp.float32, dimension=8, condition_number=30.0)


CASES = {
    "quadratic": (valley, lambda: optim.momentum(lr="auto", momentum="auto"), lambda: probe.exact(every=6), None),
    "krylov": (
        network,
        lambda: optim.adam(lr="auto"),
        lambda: probe.top(k=2, every=6, check_every=2, dense_below=0),
        None,
    ),
    "minibatches": (network, lambda: optim.momentum(lr=0.05, momentum=0.9), lambda: probe.top(k=1, every=6), 16),
    "density": (network, lambda: optim.sgd(lr=0.05), lambda: probe.density(k=1, every=6, depth=8, vectors=2), 16),
}


def train(case, *, taken_up=None):
    problem, optimizer, watch, batch_size = CASES[case]
    return training.run(
        problem(),
        optimizer(),
        watch(),
        steps=20,
        key=jax.random.key(3),
        batch_size=batch_size,
        record_every=4,
        resume=taken_up,
    )


def same(one, other):
    """Records: every number, bit for bit."""
    assert one.step == other.step
    assert {k: repr(v) for k, v in one.scalars.items()} == {k: repr(v) for k, v in other.scalars.items()}
    assert repr(one.outcome) == repr(other.outcome)
    for found, wanted in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(other.state.params), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
    assert (one.reading is None) == (other.reading is None)
    if one.reading is not None:
        np.testing.assert_array_equal(one.reading.eigenvalues, other.reading.eigenvalues)
        np.testing.assert_array_equal(one.reading.residuals, other.reading.residuals)


@pytest.mark.parametrize(
    "case, stop",
    [
        pytest.param(case, stop, marks=[] if stop == 8 or case == "quadratic" else pytest.mark.slow)
        for stop in (0, 8, 18)
        for case in CASES
    ],
)
def test_a_run_from_a_checkpoint_on_the_disk_is_the_run_that_never_stopped(case, stop, tmp_path):
    """Stopped at the start, between two readings, and late in an epoch."""
    problem, optimizer, _, batch_size = CASES[case]
    whole = list(train(case))
    for record in train(case):
        if record.step == stop:
            (tmp_path / "metrics.jsonl").write_bytes(b"{}\n")
            resume.keep(tmp_path, record.snapshot, {}, {"sizes": {"metrics.jsonl": 3}}, most=2)
            break
    kept = resume.last(tmp_path, problem(), optimizer(), batch_size=batch_size)
    assert kept is not None
    rest = list(train(case, taken_up=kept.snapshot))
    assert [record.step for record in rest] == [record.step for record in whole if record.step > stop]
    for one, other in zip(rest, whole[-len(rest) :], strict=True):
        same(one, other)


# ---- checkpoints ----------------------------------------------------------------------------------------------------------------


def tree():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16)}
    rest = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float64(0.1),
        "counts": [np.uint32(7), (np.bool_(True), None)],
        "number": 0.1 + 0.2,
        "text": "naïve ∂",
        "vectors": jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), params),
    }
    return params, rest


def test_what_is_kept_comes_back_bit_for_bit(tmp_path):
    params, rest = tree()
    checkpoint.save(
        tmp_path, 5, {"params": params, "rest": rest}, {"nan": float("nan"), "list": [1, None]}, params=params
    )
    found = checkpoint.restore(tmp_path, 5, params=params)
    assert found.step == 5
    assert np.isnan(found.facts["nan"])
    assert found.facts["list"] == [1, None]
    assert jax.tree.structure(found.tree) == jax.tree.structure({"params": params, "rest": rest})
    for one, other in zip(jax.tree.leaves(found.tree), jax.tree.leaves({"params": params, "rest": rest}), strict=True):
        if isinstance(other, float | str) and not isinstance(other, np.generic):
            assert one == other
        else:
            assert one.dtype == other.dtype
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_the_last_two_stay(tmp_path):
    for step in (3, 5, 9):
        checkpoint.save(tmp_path, step, {"x": np.float32(step)}, {}, params={})
    assert checkpoint.steps(tmp_path) == [5, 9]


def test_what_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"probe\.inner: a set cannot be kept"):
        checkpoint.save(tmp_path, 1, {"probe": {"inner": {1}}}, {}, params={})
    with pytest.raises(TypeError, match="random key"):
        checkpoint.save(tmp_path, 1, {"key": jax.random.key(0)}, {}, params={})


def damage_every_file(folder, how):
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size:
            yield path, how(path.read_bytes())


@pytest.mark.parametrize("how", ["cut", "flipped", "emptied"])
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(tmp_path, how):
    """Whatever file of it is damaged: it is refused, or every bit of it is right."""
    params, rest = tree()
    checkpoint.save(tmp_path, 1, {"params": params, "rest": rest}, {"fact": 1}, params=params)
    good = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    refused = 0
    for path, data in good.items():
        if not data:
            continue
        middle = len(data) // 2
        path.write_bytes(
            {
                "cut": data[:middle],
                "emptied": b"",
                "flipped": data[:middle] + bytes([data[middle] ^ 64]) + data[middle + 1 :],
            }[how]
        )
        try:
            found = checkpoint.restore(tmp_path, 1, params=params)
        except checkpoint.Damaged:
            refused += 1
        else:
            for one, other in zip(jax.tree.leaves(found.tree["params"]), jax.tree.leaves(params), strict=True):
                assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
            assert found.facts == {"fact": 1}
        path.write_bytes(data)
    assert refused >= 3  # the text, the arrays and their index at least
    checkpoint.restore(tmp_path, 1, params=params)


def test_a_link_in_a_checkpoint_is_not_followed(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": np.float32(1)}, {}, params={})
    path = tmp_path / "checkpoints/1/facts/metadata"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(checkpoint.Damaged, match="no plain file"):
        checkpoint.restore(tmp_path, 1, params={})
    shutil.move(tmp_path / "checkpoints", tmp_path / "other")
    (tmp_path / "checkpoints").symlink_to(tmp_path / "other")
    assert checkpoint.steps(tmp_path) == []


# ---- the command line -------------------------------------------------------------------------------------------------------------

RUN = ["problem=quadratic", "problem.dimension=6", "optim=momentum", "steps=60", "record_every=5", "probe.every=20"]


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Sends this process a signal when a record of this step is written."""
    from curvexp.store import RunFolder

    append = RunFolder.append

    def sending(self, record):
        append(self, record)
        if record.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunFolder, "append", sending)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(here, monkeypatch, capsys, number, code):
    assert call(*RUN, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25, number)
        assert call(*RUN, "hydra.run.dir=part") == code
    assert json.loads((here / "part/summary.json").read_text())["status"] == "interrupted"
    assert "python -m curvexp resume=part" in capsys.readouterr().err
    assert call("resume=part") == 0
    assert_same_records(here / "part", here / "whole")
    assert "goes on from step 25" in capsys.readouterr().err


@pytest.mark.parametrize("sweep", [False, True], ids=["run", "sweep"])
def test_the_line_that_is_printed_goes_on_with_a_problem_of_ones_own(here, monkeypatch, capsys, sweep):
    own = "from curvexp.problem import bowl\ndef mine(**options):\n    return bowl(**options)\n"
    for package in ("mine", "other"):
        (here / f"{package}.py").write_text(own)
        (here / f"my conf/problem/{package}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (here / f"my conf/problem/{package}.yaml").write_text(f"_target_: {package}.mine\n_partial_: true\n")
    (here / "my conf/base.yaml").write_text("defaults: [config, _self_]\n")
    monkeypatch.syspath_prepend(here)
    typed = [
        "--config-dir",
        "my conf",
        "--config-name",
        "base",
        "problem=mine",
        "steps=60",
        "record_every=5",
        "probe=off",
    ]
    more = ["-m", "problem=mine,other,bowl", "hydra.sweep.dir=the sweep"] if sweep else ["hydra.run.dir=the run"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25)
        assert call(*typed, *more) == 130
    line = shlex.split(capsys.readouterr().err.split("Go on with it: ")[1].splitlines()[0])
    assert line[:3] == ["python", "-m", "curvexp"]
    assert line[-1] == ("trust=[mine,other]" if sweep else "trust=mine")
    assert call(*line[3:]) == 0
    found = [json.loads(path.read_text())["status"] for path in here.rglob("summary.json")]
    assert found == ["completed"] * (3 if sweep else 1)


def test_the_packages_that_trust_must_name_are_those_that_are_refused():
    config = {
        "problem": {"_target_": "mylab.p", "data": [{"_target_": "theirs.d"}]},
        "optim": {"_target_": "optax.adam"},
    }
    config |= {"probe": {"_target_": "curvexp.probe.off"}, "track": {"_target_": "optax._src.alias.sgd"}}
    found = resume.packages(config)
    assert found == ["mylab", "theirs", "optax"]
    resume.check_targets(config, found)
    for missing in found:
        with pytest.raises(ConfigError, match=rf"trust=\[{missing}\]"):
            resume.check_targets(config, [name for name in found if name != missing])


def test_records_past_the_checkpoint_are_cut(here, monkeypatch):
    assert call(*RUN, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25)
        assert call(*RUN, "hydra.run.dir=part") == 130
    with (here / "part/metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss": 1.0}\n{"step": 35, "lo')
    assert call("resume=part") == 0
    assert_same_records(here / "part", here / "whole")


def test_the_checkpoint_before_serves_where_the_last_is_damaged(here, monkeypatch, capsys):
    assert call(*RUN, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 45)
        assert call(*RUN, "hydra.run.dir=part", "checkpoint.every=20") == 130
    assert checkpoint.steps(here / "part") == [40, 45]
    path = here / "part/checkpoints/45/facts/metadata"
    path.write_bytes(path.read_bytes()[:-7])
    assert call("resume=part") == 0
    assert "the checkpoint of step 45 cannot be used" in capsys.readouterr().err
    one, other = here / "part", here / "whole"
    assert without_clocks(one / "metrics.jsonl") == without_clocks(other / "metrics.jsonl")


def test_a_checkpoint_of_another_version_is_told_and_the_run_begins_anew(here, monkeypatch, capsys):
    assert call(*RUN, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25)
        patch.setattr(snapshots, "CHECKPOINT_FORM", snapshots.CHECKPOINT_FORM - 1)
        assert call(*RUN, "hydra.run.dir=part") == 130
    assert call("resume=part") == 0
    assert "cannot be used, the one before it is taken: another version of curvexp made it" in capsys.readouterr().err
    assert without_clocks(here / "part/metrics.jsonl") == without_clocks(here / "whole/metrics.jsonl")


def test_a_run_without_a_usable_checkpoint_begins_anew(here, monkeypatch, capsys):
    assert call(*RUN, "hydra.run.dir=whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25)
        assert call(*RUN, "hydra.run.dir=part") == 130
    shutil.rmtree(here / "part/checkpoints")
    assert call("resume=part") == 0
    assert "begins anew" in capsys.readouterr().err
    assert_same_records(here / "part", here / "whole")


def test_steps_may_be_added_to_a_completed_run(here):
    assert call(*RUN, "hydra.run.dir=whole") == 0
    assert call(*[o for o in RUN if "steps" not in o], "steps=40", "checkpoint.every=20", "hydra.run.dir=part") == 0
    assert call("resume=part", "steps=60") == 0
    assert json.loads((here / "part/config.json").read_text())["steps"] == 60
    assert without_clocks(here / "part/metrics.jsonl") == without_clocks(here / "whole/metrics.jsonl")


@pytest.mark.parametrize(
    "more", [[], ["optim.lr=100", "steps=400"], ["target=0.5"]], ids=["steps", "diverged", "target"]
)
def test_a_run_that_lacks_but_its_summary_is_given_that(here, more):
    """As a kill between the last checkpoint and the summary leaves it."""
    assert call(*RUN, "checkpoint.every=5", *more, "hydra.run.dir=run") == 0
    path = here / "run/summary.json"
    before, records = json.loads(path.read_text()), without_clocks(here / "run/metrics.jsonl")
    assert before["status"] == ("diverged" if "optim.lr=100" in more else "completed")
    path.write_text(json.dumps({**before, "status": "running", "reason": None, "rate": None}))
    assert call("resume=run") == 0
    after = json.loads(path.read_text())
    clocks = dict.fromkeys(("seconds", "probe_seconds"))
    assert {**after, **clocks} == {**before, **clocks}
    assert without_clocks(here / "run/metrics.jsonl") == records


def test_fewer_steps_than_were_made_are_refused(here, monkeypatch, capsys):
    interrupt_at(monkeypatch, 40)
    assert call(*RUN, "hydra.run.dir=run") == 130
    for steps in (30, 40):
        assert call("resume=run", f"steps={steps}") == 2
        assert f"steps={steps}: the run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["optim.lr=0.1"], "optim.lr=0.1: a resumed run goes on under its own config"),
        (["seed=1"], "seed=1: a resumed run goes on under its own config"),
        (["steps=0"], "steps=0: expected an integer"),
        (["checkpoint.evry=5"], "checkpoint"),
        (["track=nowhere"], "track=nowhere: no such option"),
        (["steps=60,70"], "several values make a sweep"),
        ([], "this run is completed after 60 steps"),
    ],
)
def test_what_a_resumed_run_may_not_change_is_refused(here, capsys, typed, words):
    if not (here / "done").exists():
        assert call(*RUN, "hydra.run.dir=done") == 0
    before = {path: path.read_bytes() for path in (here / "done").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert call("resume=done", *typed) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert {path: path.read_bytes() for path in (here / "done").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "target", ["os.system", "curvexp.app.keys.os.system", "subprocess.run", "builtins.eval", "jax.numpy.np.save"]
)
def test_a_folder_that_names_another_packages_function_is_refused_by_name(here, capsys, target):
    assert call(*RUN, "steps=5", "hydra.run.dir=foreign") == 0
    path = here / "foreign/config.json"
    config = json.loads(path.read_text())
    config["problem"] = {"_target_": target, "command": "touch stolen"}
    path.write_text(json.dumps(config))
    capsys.readouterr()
    assert call("resume=foreign", "steps=50") == 2
    assert f"problem._target_={target}" in capsys.readouterr().err
    assert not (here / "stolen").exists()


def test_a_trusted_package_is_called(here, monkeypatch):
    (here / "mine.py").write_text(
        "from curvexp.problem import bowl\ndef mine(**options):\n    return bowl(**options)\n"
    )
    monkeypatch.syspath_prepend(here)
    assert call(*RUN, "steps=5", "hydra.run.dir=own") == 0
    config = json.loads((here / "own/config.json").read_text())
    config["problem"] = {"_target_": "mine.mine"}
    with pytest.raises(ConfigError, match=r"trust=\[mine\]"):
        resume.check_targets(config, [])
    resume.check_targets(config, ["mine"])
    resume.check_targets(config, "mine")  # as `trust=mine` on the command line


# ---- sweeps -----------------------------------------------------------------------------------------------------------------------

SWEEP = ["problem=quadratic", "problem.dimension=6", "seed=0,1,2", "optim.lr=0.005,10", "steps=40", "probe.every=20"]


@pytest.mark.parametrize("launcher", ["basic", "vmap"])
@pytest.mark.parametrize("again", [True, False])
def test_a_resumed_sweep_runs_only_what_has_not_ended(here, capsys, launcher, again):
    typed = [*SWEEP, f"hydra/launcher={launcher}"]
    assert call("-m", *typed, "hydra.sweep.dir=sweep") == 0
    shutil.copytree("sweep", "whole")
    shutil.rmtree("sweep/2")
    summary = here / "sweep/4/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "status": "running"}))
    untouched = {n: (here / f"sweep/{n}/metrics.jsonl").stat().st_mtime_ns for n in (0, 1, 3, 5)}
    capsys.readouterr()
    assert call("-m", *(typed if again else [typed[-1]]), "resume=sweep") == 0
    assert {n: (here / f"sweep/{n}/metrics.jsonl").stat().st_mtime_ns for n in (0, 1, 3, 5)} == untouched
    assert capsys.readouterr().err.count("before") == 4
    for number in (2, 4):
        one, other = here / f"sweep/{number}", here / f"whole/{number}"
        if launcher == "basic":
            assert_same_records(one, other)
        else:  # fewer rows in the program: sums in another order, in float32
            for found, wanted in zip(lines(one / "metrics.jsonl"), lines(other / "metrics.jsonl"), strict=True):
                np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-4)
        assert "resume" not in json.loads((one / "config.json").read_text())


def test_what_ended_badly_is_run_anew_on_wish(here):
    assert call("-m", *SWEEP, "hydra.sweep.dir=sweep") == 0
    before = {n: (here / f"sweep/{n}/metrics.jsonl").stat().st_mtime_ns for n in range(6)}
    assert call("-m", "resume=sweep", "retry=diverged") == 0
    for number in range(6):
        status = json.loads((here / f"sweep/{number}/summary.json").read_text())["status"]
        assert status == ("diverged" if number % 2 else "completed")
        changed = (here / f"sweep/{number}/metrics.jsonl").stat().st_mtime_ns != before[number]
        assert changed == (status == "diverged")


def test_a_sweep_of_another_config_is_not_written_over(here, capsys):
    assert call("-m", *SWEEP, "hydra.sweep.dir=sweep") == 0
    before = {path: path.read_bytes() for path in (here / "sweep").rglob("*.json*") if "report" not in path.name}
    assert call("-m", *SWEEP, "batch_size=null", "problem.condition_number=7", "resume=sweep") == 1
    assert "problem.condition_number=7" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_a_strangers_sweep_starts_no_launcher_or_callback_of_its_own(here):
    assert call("-m", *SWEEP, "hydra.sweep.dir=sweep") == 0
    path = here / "sweep/multirun.yaml"
    text = path.read_text().replace(
        "- steps=40", "- steps=40\n    - hydra.callbacks.x._target_=os.system\n    - +hydra.launcher.y=1"
    )
    path.write_text(text)
    assert resume.sweep_overrides(here / "sweep") == SWEEP


@pytest.mark.parametrize("name", ["0", "007", "1e3", "2026-11-25", "true"])
def test_a_folder_may_be_named_as_what_hydra_reads_as_another_type(here, monkeypatch, name):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 25)
        assert call(*RUN, "hydra.run.dir=part") == 130
    (here / "part").rename(name)
    assert call(f"resume={name}") == 0
    assert json.loads((here / name / "summary.json").read_text())["status"] == "completed"


def test_a_missing_folder_is_refused(here, capsys):
    assert call("resume=nowhere") == 2
    assert "resume=nowhere: no such folder" in capsys.readouterr().err
    (here / "empty").mkdir()
    assert call("resume=empty") == 2
    assert call("-m", "resume=empty") == 2
    assert "multirun.yaml" in capsys.readouterr().err


def test_one_folder_has_one_writer_and_a_dead_one_holds_nothing(here, capsys):
    """The lock is the system's: it ends with the process that held it."""
    assert call(*RUN, "hydra.run.dir=one") == 0
    summary = here / "one/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "status": "running"}))
    holder = "import filelock, time; lock = filelock.FileLock('one/.lock'); lock.acquire(); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], cwd=here, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        before = (here / "one/metrics.jsonl").read_bytes()
        capsys.readouterr()
        assert call("resume=one") == 1
        assert "another process writes this run" in capsys.readouterr().err
        assert (here / "one/metrics.jsonl").read_bytes() == before
        process.kill()
        process.wait()
    assert call("resume=one") == 0


# ---- kill -9 ----------------------------------------------------------------------------------------------------------------------


def command(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "curvexp", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("part", [0.5])
def test_a_killed_run_goes_on_without_a_lost_record(here, part):
    typed = [
        "problem=mlp",
        "problem/data=gaussian",
        "problem.hidden=[8]",
        "steps=6000",
        "checkpoint.every=500",
        "probe=off",
    ]
    process = command(*typed, "hydra.run.dir=killed", cwd=here)
    while len(checkpoint.steps(here / "killed")) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert call("resume=killed") == 0
    assert call(*typed, "hydra.run.dir=whole") == 0
    assert_same_records(here / "killed", here / "whole")


def test_a_key_that_has_come_since_at_its_default_is_no_change(tmp_path, monkeypatch):
    """As `probe.operator` is of a run that was recorded before probes had one."""
    monkeypatch.chdir(tmp_path)
    typed = ["problem=bowl", "steps=4", "probe=exact", "checkpoint.every=2"]
    assert call(*typed, "-m", "seed=3", "hydra.sweep.dir=sweep") == 0
    path = tmp_path / "sweep/0/config.json"
    config = json.loads(path.read_text())
    now = copy.deepcopy(config)
    del config["probe"]["operator"]
    path.write_text(json.dumps(config))
    resume.check_same(now, path.parent)
    now["probe"]["operator"] = "ggn"
    with pytest.raises(ConfigError, match=r"probe\.operator=ggn: the run in .* was recorded with absent"):
        resume.check_same(now, path.parent)
