"""The command line as a person uses it: every refusal names the key, every job leaves its records."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import call

from curvexp.__main__ import main

ROOT = Path(__file__).parents[1]
SMALL = ["problem.dimension=10", "steps=20"]


def command(*arguments, cwd, check=None, env=None, timeout=240):
    found = subprocess.run(
        [sys.executable, "-m", "curvexp", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **(env or {})},
        stdin=subprocess.DEVNULL,
    )
    if check is not None:
        assert found.returncode == check, found.stdout + found.stderr
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def summaries(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("summary.json"), key=_job_number)]


def _job_number(path):
    return int(path.parent.name) if path.parent.name.isdigit() else -1


REFUSALS = [  # what is typed, what the message must hold
    (["optim=sdg"], r"optim=sdg: .*adam.*Did you mean sgd"),
    (["problm=mlp"], r"problm=mlp: unknown key.*Did you mean problem"),
    (["optim.momentun=0.9", "optim=momentum"], r"optim\.momentun=0\.9: unknown key.*Did you mean optim\.momentum"),
    (["+optim.momentun=0.9", "optim=momentum"], r"optim\.momentun=0\.9: unknown key.*Did you mean momentum"),
    (["+stepz=3"], r"stepz: unknown key.*Did you mean steps"),
    (["+problem.dimensions=3"], r"problem\.dimensions=3.*Did you mean dimension"),
    (["problem=mlp", "problem.data=wines"], r"problem/data=wines.*Did you mean wine"),
    (["optim=sgd,momentum"], r"optim: several values.*-m"),
    (["optim.lr=-1"], r"optim\.lr=-1: expected"),
    (["optim.lr=0"], r"optim\.lr=0: expected"),
    (["optim.lr=nan"], r"optim\.lr=nan: expected"),
    (["optim.lr=1e30"], r"optim\.lr=1e\+30: expected"),
    (["steps=0"], r"steps=0: expected"),
    (["steps=-3"], r"steps=-3: expected"),
    (["steps=nan"], r"steps=nan: expected"),
    (["steps=10000000000"], r"steps=10000000000: expected"),
    (["seed=-1"], r"seed=-1: expected"),
    (["precision=float16"], r"precision=float16: expected float32, float64 or tensorfloat32"),
    (["probe.k=0"], r"probe\.k=0: expected"),
    (["probe.k=11"], r"probe\.k=11: expected 1 <= k <= 10, the number of parameters"),
    (["probe.every=0"], r"probe\.every=0: expected"),
    (["probe.tol=-1"], r"probe\.tol=-1: expected"),
    (["devices=0"], r"devices=0: expected a positive integer, or all"),
    (["problem=mlp", "devices=64"], r"devices=64: expected at most"),
    (["batch_size=4"], r"batch_size=4: .*no examples"),
    (["problem=mlp", "batch_size=100000"], r"batch_size=100000: expected an integer from 1 to 1437"),
    (["problem=mlp", "problem.hidden=[0]"], r"problem\.hidden"),
    (["problem.matrix=[[1,2],[3,4]]"], r"problem\.matrix"),
    (["problem.matrix=[[1,nan],[nan,4]]"], r"problem\.matrix"),
    (["problem.eigenvalues=[1,2,3]"], r"problem\.(eigenvalues|dimension)"),
    (["preprocess=batchnorm"], r"preprocess=batchnorm"),
    (["problem=mlp", "probe=exact", "probe.limit=100"], r"probe\.limit=100.*probe=top"),
    (["problem=mlp", "problem.data=openml", "problem.data.name=nothing-of-this-name"], r"openml"),
    (["track=wandb", "track.mode=online"], r"track\.mode=online"),
    (["hydra.run.dir=/proc/nowhere/x"], r"hydra\.run\.dir=/proc/nowhere/x"),
    (["optim._target_=optax.nothing"], r"optim\._target_=optax\.nothing: cannot be imported"),
    (["steps=${nowhere}"], r"nowhere"),
    (["steps"], r"steps"),
    (["target=-1"], r"target=-1: expected"),
    (["diverge_at=0"], r"diverge_at=0: expected"),
    (["--config-dir=/nowhere"], r"--config-dir=/nowhere"),
    # found by tests/faults/test_command_line.py
    (["optim=null"], r"optim=null: no such option; expected one of adagrad"),
    (["optim.schedule=null"], r"optim/schedule=null: no such option; expected one of cosine"),
    (["optim.schedule=warmup_cosine", "steps=3"], r"optim\.schedule: .*positive decay_steps"),
    (["optim.schedule=cosine", "optim.schedule.init_value=1" + "0" * 400], r"optim: .*OverflowError"),
    (["optim=adamw", "optim.weight_decay=[1]"], r"optim"),
    (["optim=adamw", "optim.weight_decay=a"], r"optim: .*TypeError"),
    (["problem.dimension=4", "problem.smallest=1e200"], r"precision=float32: the matrix of the problem has .*e\+201"),
    (["problem=bowl", "problem.start=[1e300,1]"], r"precision=float32: the start of the problem has"),
    (["target=1" + "0" * 400], r"target=1.*: expected a positive number"),
    (["diverge_at=1" + "0" * 400], r"diverge_at=1.*: expected a number above 1"),
    (["checkpoint.seconds=1" + "0" * 400], r"checkpoint\.seconds=1.*: expected seconds above 0"),
    (["probe.above=1" + "0" * 400], r"probe\.above=1.*: expected a positive number"),
    (["~seed"], r"seed: missing; expected a value, as in seed=0. Leave out ~seed"),
    (["~diverge_at", "-m"], r"diverge_at: missing"),
    (["problem=mlp", "~problem.data"], r"problem: missing a required .*'data'"),
    (["track=wandb", "~track.mode", "track.mode=disabled"], r"track\.mode=disabled: unknown key"),
    (
        ["problem=mlp", "preprocess=batchnorm", "preprocess.epsilon=1" + "0" * 400],
        r"preprocess\.epsilon=1.*: expected a number",
    ),
    (["optim=True"], r"optim=True: no such option"),
    (["preprocess=-0.27"], r"preprocess=-0\.27: no such option"),
    (["problem=mlp", "problem.data=nan"], r"problem/data=nan: no such option"),
    (["seed=" + "1" * 5000], r"seed=1+… \(5005 characters\): cannot be read as KEY=VALUE: .*4300 digits"),
    (["seed=" + "[" * 400 + "]" * 400], r"seed=\["),
    (["seed=\0"], r"seed=\\x00: expected text in UTF-8"),
    (["track.project=\udcff"], r"track\.project=\\udcff: expected text in UTF-8"),
    (["resume=" + "x" * 300], r"resume=x+: no such folder"),
    (["hydra.run.dir=''"], r"hydra\.run\.dir=: expected the name of a folder"),
    (["hydra.run.dir=null"], r"'hydra\.run\.dir' is not Optional"),
    (["hydra.run.dir=" + "x" * 300], r"hydra\.run\.dir=x+: .*too long"),
    (["hydra.run.dir=/dev/null/x"], r"hydra\.run\.dir=/dev/null/x: .*Not a directory"),
    (["track=wandb", r"track.artifact=\${steps}"], r"track\.artifact=.*an interpolation as text; expected a value"),
    (
        ["problem=mlp", r"problem.hidden=[\${steps}]"],
        r"problem\.hidden\.0=.*an interpolation as text; expected a value",
    ),
    (["hydra.job.chdir=${..seed}"], r"hydra\.job\.chdir: Interpolation key 'seed' not found"),
    (["hydra.runtime=${hydra:nowhere}"], r"hydra\.runtime=\$\{hydra:nowhere\}: ValueError.*HydraConfig was not set"),
    (["hydra.mode=MULTIRUN"], r"hydra\.mode=MULTIRUN: expected RUN without -m"),
    (["-m", "hydra.mode=RUN"], r"hydra\.mode=RUN: expected MULTIRUN beside -m"),
    (["~hydra.callbacks"], r"~hydra\.callbacks: .*does not support deletion"),
    (["~hydra.callbacks.report"], r"hydra\.callbacks\.report: expected"),
    (["hydra.callbacks.report._target_=builtins.print"], r"hydra\.callbacks\.report: expected"),
    (["hydra.verbose=1"], r"hydra\.verbose=1: expected"),
    (["hydra.launcher=false", "-m"], r"hydra\.launcher=False: expected a launcher with its _target_"),
    (["hydra/launcher=vmap", "hydra.launcher=3", "-m"], r"hydra\.launcher=3: expected a launcher with its _target_"),
    (["+hydra.job.env_set={'a=b':c}"], r"hydra\.job\.env_set"),
    (["hydra.output_subdir=metrics.jsonl"], r"hydra\.output_subdir=metrics\.jsonl: a run's own file has this name"),
    (["hydra.output_subdir=../x"], r"hydra\.output_subdir=\.\./x: it leads out"),
    (["hydra.hydra_logging.root=1"], r"Unable to configure root"),
    (["-m", "hydra.sweep.subdir=../x"], r"hydra\.sweep\.subdir=\.\./x: it leads out"),
    (["-m", "hydra.sweeper.max_batch_size=0"], r"hydra\.sweeper\.max_batch_size=0: expected"),
    (["-m", "hydra.sweeper.params=3"], r"hydra\.sweeper\.params=3: expected"),
    (["-m", "hydra.launcher._target_=os.system"], r"os\.system"),
    (["-m", "hydra.sweeper._target_=os.system"], r"os\.system"),
    (["-m", "seed=range(0,1000000000000)"], r"seed=range.*: a sweep of 1e\+12 jobs; expected at most"),
    (["-m", "seed=shuffle(range(0,1000000000000))"], r"seed=shuffle.*: a sweep of 1e\+12 jobs"),
    (["-m", "seed=range(0,1000)", "steps=range(1,1000)"], r"steps=range.*: a sweep of 9\.99e\+05 jobs"),
    (["-m", "optim.lr=range(0,1,1e-300)"], r"optim\.lr=range.*: a sweep of .* jobs"),
    (["-m", "optim.lr=range(0,inf)"], r"optim\.lr=range.*: it has no end"),
    (["-m", "seed=range(3,1)"], r"seed=range\(3,1\): there are no values"),
    (["-m", "optim.lr=interval(0,1)"], r"optim\.lr=interval.*: an interval is for"),
    (["-m", "optim=momentum,sgd", "optim.momentum=0.9"], r"Could not override 'optim.momentum'"),
    (["optim._target_=os.system"], r"os\.system"),
    (["--cfg", "x"], r"--cfg"),
    (["--cfg", "job", "optim.nosuch=1"], r"Could not override 'optim.nosuch'"),
    (["--cfg", "job", "-p", "nowhere"], r"nowhere"),
    (["--cfg", "job", "--resolve", "steps=${nowhere}"], r"nowhere"),
    (["--info", "x"], r"--info"),
    (["--resolve"], r"--resolve"),
    (["-m", "--cfg", "job"], r"Only one of"),
    (["--shell-completion"], r"subcommand"),
    (["--experimental-rerun", "nowhere"], r"nowhere does not exist|rerun"),
    (["--hydra-help", "steps"], r"steps"),
]


@pytest.mark.parametrize("typed, expected", REFUSALS, ids=[" ".join(typed)[:80] for typed, _ in REFUSALS])
def test_bad_input_is_refused_by_its_key_with_exit_code_2_and_nothing_written(
    typed, expected, here, capsys, monkeypatch
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(here))
    small = ["problem.dimension=10"] if not any("problem" in word for word in typed) else []
    small = ["problem.dimension=10"] if typed == ["problem.eigenvalues=[1,2,3]"] else small
    small = [] if typed[0].startswith("resume=") else small
    before = sorted(here.rglob("*"))
    assert call(*small, *typed) == 2
    shown = capsys.readouterr()
    assert re.search(expected, shown.err.replace("\n", " ")), shown.err
    assert "Traceback" not in shown.out + shown.err
    assert [path for path in sorted(here.rglob("*")) if not {".cache", "scikit_learn_data"} & {*path.parts}] == before


def test_a_run_leaves_config_summary_metrics_and_spectrum(here, capsys):
    assert call(*SMALL, "probe.every=10", "hydra.run.dir=out", "precision=float64", "seed=3") == 0
    shown = capsys.readouterr().out
    for word in ("completed", "rate", "theory", "λmax", "threshold", "condition number", "out"):
        assert word in shown
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["status"], summary["problem"], summary["optim"], summary["seed"]) == (
        "completed",
        "quadratic",
        "sgd",
        3,
    )
    assert (summary["steps"], summary["parameters"]) == (20, 10)
    assert summary["condition_number"] == pytest.approx(100, rel=1e-10)
    assert summary["lambda_max_start"] == pytest.approx(summary["lambda_max"], rel=1e-12)
    assert json.loads(Path("out/config.json").read_text())["steps"] == 20
    metrics = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [0, 10, 20]
    spectrum = [json.loads(line) for line in Path("out/spectrum.jsonl").read_text().splitlines()]
    assert np.allclose(spectrum[-1]["eigenvalues"], np.linspace(1, 100, 10), rtol=1e-10)
    assert Path("out/.hydra/overrides.yaml").is_file()


def test_precision_is_set_for_each_job(here):
    assert call("-m", *SMALL, "precision=float64,float32,float64") == 0
    one, two, three = (summary["loss"] for summary in summaries(here))
    assert one == three
    assert float(np.float32(two)) == two
    assert float(np.float32(one)) != one


def test_a_sweep_records_skips_and_failures_runs_the_rest_and_exits_with_1(here, capsys):
    assert call("-m", *SMALL, "preprocess=raw,batchnorm", "optim.lr=auto,-1") == 1
    found = summaries(here)
    assert [summary["status"] for summary in found] == ["completed", "failed", "skipped", "failed"]
    assert "optim.lr=-1" in found[1]["reason"]
    shown = capsys.readouterr()
    assert "batchnorm" in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert list(here.rglob("report.csv"))


def test_a_sweep_of_meaningless_combinations_alone_is_no_failure(here):
    assert call("-m", *SMALL, "preprocess=batchnorm", "seed=0,1") == 0
    assert [summary["status"] for summary in summaries(here)] == ["skipped", "skipped"]


def test_a_sweep_refuses_what_is_wrong_with_all_its_jobs(here, capsys):
    assert call("-m", "optim.lr=-1", "seed=0,1") == 2
    assert call("-m", "optim=sgd,adma", "seed=0,1") == 2
    assert "Did you mean adam" in capsys.readouterr().err
    assert not list(here.rglob("summary.json"))


def test_a_schedule_without_a_bound_diverges(here):
    assert call(*SMALL, "optim=momentum", "optim.schedule=cosine", "optim.schedule.init_value=inf", "probe=exact") == 0
    assert [summary["status"] for summary in summaries(here)] == ["diverged"]


def test_a_glob_of_options_makes_a_sweep(here):
    assert call("-m", *SMALL, "optim=glob(*,exclude=a*)", "probe=off") == 0
    assert sorted(summary["optim"] for summary in summaries(here)) == ["momentum", "nesterov", "rmsprop", "sgd"]


def test_what_stops_hydra_before_a_job_is_recorded_as_its_failure(here, capsys):
    assert call(*SMALL, "hydra.job_logging.root=1", "hydra.run.dir=out") == 1
    assert call("-m", *SMALL, "hydra.job_logging.root=1", "hydra.sweep.dir=sweep", "seed=1,2") == 1
    found = summaries(here)
    assert [summary["status"] for summary in found] == ["failed", "failed"]
    assert all("Unable to configure root" in summary["reason"] for summary in found)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(here, capsys):
    assert call(*SMALL, "hydra.run.dir=out") == 0
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert call(*SMALL, "seed=1", "hydra.run.dir=out") == 2
    assert "resume=out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_users_code_that_exits_is_a_failure_as_any_other(package):
    (package / "mylab.py").write_text(
        USER_PACKAGE.replace('raise RuntimeError("the disk of my lab is full")', "raise SystemExit(3)")
    )
    sys.modules.pop("mylab", None)
    assert call("--config-dir", "myconf", "-m", "problem=raising,quartic", "probe=off", "optim.lr=0.1", "steps=5") == 1
    bad, good = summaries(package)
    assert (bad["status"], good["status"]) == ("failed", "completed")
    assert bad["reason"] == "SystemExit: 3"
    assert call("--config-dir", "myconf", "problem=raising", "hydra.run.dir=alone") == 1
    sys.modules.pop("mylab", None)


def test_divergence_is_a_result(here, capsys):
    assert call("problem.dimension=10", "optim.lr=1", "steps=300", "hydra.run.dir=out") == 0
    assert json.loads(Path("out/summary.json").read_text())["status"] == "diverged"
    shown = capsys.readouterr().out
    assert "diverged" in shown
    assert "over the threshold" in shown
    assert "grows along" in shown


def test_the_ledger_stands_in_the_files_with_every_key_explained(here):
    typed = [
        "problem=least_squares",
        "problem.data=diabetes",
        "optim=adam",
        "batch_size=100",
        "steps=20",
        "probe.every=10",
    ]
    assert call(*typed, "probe=exact", "hydra.run.dir=whole") == 0
    assert call(*typed, "probe.dense_below=0", "probe.k=2", "hydra.run.dir=part") == 0
    pages = (ROOT / "docs/ledger.md").read_text()
    for folder in ("whole", "part"):
        last = json.loads(Path(folder, "metrics.jsonl").read_text().splitlines()[-1])
        spectrum = json.loads(Path(folder, "spectrum.jsonl").read_text().splitlines()[-1])
        assert last["probe_seconds"] > 0
        unexplained = {key for key in (*last, *spectrum["ledger"]) if f"`{key}`" not in pages}
        assert unexplained == {"step"}
        summary = json.loads(Path(folder, "summary.json").read_text())
        assert summary["stability_margin"] == pytest.approx(summary["sharpness"] / summary["threshold"])
    import curvexp

    rows = curvexp.load_ledger(".")
    assert rows.groupby(["run", "step"]).size().tolist() == [4, 4, 4, 11, 11, 11]
    assert set(rows["operator"]) == {"preconditioned"}


USER_PACKAGE = """
import jax.numpy as jnp, optax
from curvexp.optim import Optimizer
from curvexp.probe import Probe
from curvexp.preprocess import Preprocess
from curvexp.problem import Problem
from curvexp.record import Reading
import numpy as np

def init(key):
    return jnp.ones(3)

def loss(params, data):
    return (params**4).sum() / 4

def quartic(*, scale=1.0, preprocess, dtype):
    return Problem("quartic", init, loss, (), lower_bound=0.0)

def raising(*, preprocess, dtype):
    raise RuntimeError("the disk of my lab is full")

def sign(lr=0.1, schedule=None):
    return optax.sign_sgd(lr)

def halved():
    return Preprocess("halved", lambda inputs: lambda x: x / 2)

def gradient_only(every=5):
    def measure(loss, params, state, key):
        return Reading(np.zeros(0), np.zeros(0), None, complete=False, scalars={"mine": 7.0}, extra={}), state
    return Probe("gradient_only", measure, every)
"""


@pytest.fixture
def package(here, monkeypatch):
    (here / "mylab.py").write_text(USER_PACKAGE)
    for group, name, target in [
        ("problem", "quartic", "quartic"),
        ("problem", "raising", "raising"),
        ("optim", "sign", "sign"),
        ("preprocess", "halved", "halved"),
        ("probe", "mine", "gradient_only"),
    ]:
        file = here / "myconf" / group / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        extra = (
            "scale: 2.0\n_partial_: true\n" if name == "quartic" else "_partial_: true\n" if name == "raising" else ""
        )
        file.write_text(f"_target_: mylab.{target}\n{extra}")
    monkeypatch.syspath_prepend(str(here))
    return here


def test_a_problem_optimizer_and_probe_of_ones_own(package):
    typed = ["--config-dir", "myconf", "problem=quartic", "optim=sign", "probe=mine", "steps=10", "hydra.run.dir=out"]
    assert call(*typed) == 0
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["problem"], summary["optim"], summary["mine"]) == ("quartic", "sign", 7.0)
    assert summary["loss"] < summary["loss_start"]


def test_a_preprocessing_of_ones_own(package):
    typed = ["--config-dir", "myconf", "problem=least_squares", "problem.data=wine", "preprocess=halved", "steps=10"]
    assert call(*typed, "hydra.run.dir=out") == 0
    assert json.loads(Path("out/summary.json").read_text())["preprocess"] == "halved"


@pytest.mark.parametrize(
    "flags", [["--config-dir", "c", "--config-name", "mine"], ["-cd", "c", "-cn", "mine.yaml"]], ids=" ".join
)
def test_a_config_of_ones_own_stands_on_ours(here, flags):
    (here / "c/experiment").mkdir(parents=True)
    (here / "c/mine.yaml").write_text("defaults: [config, _self_]\nsteps: 3\nseed: 7\n")
    fast = "# @package _global_\ndefaults: [override /problem: bowl]\nseed: 8\n"
    (here / "c/experiment/fast.yaml").write_text(fast)
    assert call(*flags, "+experiment=fast", "hydra.run.dir=out") == 0
    config = json.loads(Path("out/config.json").read_text())
    assert (config["steps"], config["seed"], config["problem"]["_target_"]) == (3, 8, "curvexp.problem.bowl")


@pytest.mark.parametrize(
    "typed, expected",
    [
        (["--config-name=mien"], r"--config-name=mien: no such config; .*Did you mean mine\?"),
        (
            ["--config-name=bare"],
            r"--config-name=bare: it has no seed, .*Begin bare.yaml with `defaults: \[config, _self_\]`",
        ),
        (["--config-name=broken"], r"--config-name=broken: ParserError.*Change broken.yaml"),
        (["--config-name=mine", "problem=qudratic"], r"problem=qudratic: no such option; .*Did you mean quadratic\?"),
        (["--config-path=c"], r"--config-path=c: .*--config-dir=c"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_config_name_that_cannot_serve_is_refused_in_words(here, capsys, typed, expected):
    (here / "c").mkdir()
    for name, text in [("mine", "defaults: [config, _self_]"), ("bare", "steps: 3"), ("broken", "steps: [")]:
        (here / "c" / f"{name}.yaml").write_text(f"{text}\n")
    assert call("--config-dir", "c", *typed) == 2
    assert re.search(expected, capsys.readouterr().err.replace("\n", " "))
    assert [path.name for path in here.iterdir()] == ["c"]


def test_what_a_run_changes_of_the_process_comes_back(here, monkeypatch, capsys):
    import logging
    import warnings

    import jax
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        of_hydra = (GlobalHydra.instance().hydra, HydraConfig.instance().cfg)
        streams, root = (sys.stdout.errors, sys.stderr.errors), logging.getLogger()
        shown = (*warnings.filters,)
        return (
            sys.argv,
            dict(os.environ),
            os.getcwd(),
            shown,
            handlers,
            *of_hydra,
            streams,
            [*root.handlers],
            jax.config.jax_enable_x64,
        )

    (here / "mine").mkdir()
    initialize_config_dir(version_base="1.3", config_dir=str(here / "mine"))
    try:
        monkeypatch.setattr(sys, "argv", ["mine", "x"])
        before = state()
        small = ["problem=bowl", "steps=2", "probe=off", "precision=float64"]
        for words in (
            small,
            ["-m", *small, "+hydra.job.env_set={A_VARIABLE: b}"],
            ["problem=nosuch"],
            ["--cfg", "job"],
        ):
            with contextlib.suppress(SystemExit):
                main(words)
            assert state() == before
            assert sys.argv is before[0]
    finally:
        GlobalHydra.instance().clear()


def test_a_preprocessing_that_a_problem_ignores_is_refused_by_name(package, capsys):
    own = ["--config-dir", "myconf", "problem=quartic", "optim.lr=0.1", "probe=off", "steps=2"]
    assert call(*own, "preprocess=normalized", "hydra.run.dir=out") == 2
    assert re.search(
        r"preprocess=normalized has no meaning for problem=quartic.*preprocess=raw",
        capsys.readouterr().err.replace("\n", " "),
    )
    assert not (package / "out").exists()
    assert call(*own, "-m", "preprocess=raw,normalized,batchnorm") == 0
    assert [summary["status"] for summary in summaries(package)] == ["completed", "skipped", "skipped"]
    assert call("problem=mlp", "problem.hidden=[]", "preprocess=batchnorm", "steps=2", "probe=off") == 2
    assert "preprocess=batchnorm has no meaning for problem=mlp" in capsys.readouterr().err


def test_a_preprocessing_is_made_use_of_wherever_it_is_asked_for(package):
    """While the problem is built, when its loss is traced, or by its name."""
    (package / "theirs.py").write_text(
        "import jax.numpy as jnp, numpy as np\n"
        "from curvexp.problem import Problem\n"
        "def problem(*, how, preprocess, dtype):\n"
        "    x = np.arange(6, dtype=dtype).reshape(3, 2)\n"
        "    if how == 'built':\n"
        "        x = preprocess.fit(x)(x)\n"
        "    if how == 'named' and preprocess.name == 'centered':\n"
        "        x = x - x.mean(0)\n"
        "    def loss(w, data):\n"
        "        inputs = preprocess.fit(x)(x) if how == 'traced' else x\n"
        "        return ((inputs @ w - 1) ** 2).mean()\n"
        "    return Problem('theirs', lambda key: jnp.ones(2, dtype), loss, (), lower_bound=0.0)\n"
    )
    (package / "myconf/problem/theirs.yaml").write_text("_target_: theirs.problem\n_partial_: true\nhow: built\n")
    own = ["--config-dir", "myconf", "problem=theirs", "optim.lr=0.01", "probe=off", "steps=2", "preprocess=centered"]
    assert call(*own, "-m", "problem.how=built,named,traced,ignored") == 0
    assert [summary["status"] for summary in summaries(package)] == ["completed"] * 3 + ["skipped"]


def test_where_a_sweeper_fails_the_jobs_stay_recorded_and_reported(package, capsys):
    """As Optuna's does over a trial that failed: what it raises is its own, the jobs' records and the exit code are ours."""
    (package / "searching.py").write_text(
        "from hydra._internal.core_plugins.basic_sweeper import BasicSweeper\n"
        "class Searching(BasicSweeper):\n"
        "    def sweep(self, arguments):\n"
        "        jobs = [['problem=bowl', 'steps=2', 'probe=off', f'optim.lr={lr}'] for lr in (0.1, -1)]\n"
        "        self.launcher.launch(jobs, initial_job_idx=0)\n"
        "        raise ValueError('Values were told.')\n"
    )
    import searching
    from hydra.core.plugins import Plugins

    Plugins.instance().register(searching.Searching)
    Plugins.instance().class_name_to_class["hydra_plugins.searching.Searching"] = searching.Searching
    chosen = [
        "hydra/sweeper=basic",
        "hydra.sweeper._target_=hydra_plugins.searching.Searching",
        "hydra.sweep.dir=sweep",
    ]
    assert call("-m", *chosen, "problem=bowl", "optim.lr=interval(-1,1)") == 1
    assert [summary["status"] for summary in summaries(package)] == ["completed", "failed"]
    shown = capsys.readouterr()
    assert "error: ValueError: Values were told" in shown.err
    assert "2 runs: 1 completed, 1 failed" in shown.out
    assert (package / "sweep/report.html").exists()


def test_a_sweep_whose_table_cannot_be_made_does_not_exit_with_0(here, capsys, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("curvexp.report.summarize", broken)
    assert call("-m", "problem=bowl", "steps=2", "probe=off", "optim.lr=-1,-2") == 1
    assert call("-m", "problem=bowl", "steps=2", "probe=off", "seed=0,1") == 1
    assert "the report was not made: RuntimeError: Could not determine home directory." in capsys.readouterr().err


@pytest.mark.slow
def test_no_encoding_and_no_reader_that_has_gone_changes_how_a_sweep_ends(here):
    typed = ["-m", "problem=bowl", "steps=2", "optim.lr=0.1", "seed=0,1"]
    found = command(*typed, "hydra.sweep.dir=a", cwd=here, check=0, env={"PYTHONIOENCODING": "cp1252"})
    assert "kappa start -> end" in found.stdout
    line = shlex.join([sys.executable, "-m", "curvexp", *typed, "hydra.sweep.dir=b"])
    report = shlex.join([sys.executable, "-m", "curvexp.report", "a", "--html", "c.html"])
    for piped in (f"{line} | head -1", f"{report} | head -1"):
        found = subprocess.run(
            ["bash", "-c", f"{piped}; exit ${{PIPESTATUS[0]}}"],
            cwd=here,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        )
        assert (found.returncode, found.stdout) == (0, "bowl\n"), found.stderr
        assert "Broken" not in found.stderr
    for page in ("a/report.html", "b/report.html", "c.html"):
        assert "κ" in (here / page).read_text(encoding="utf-8")


def test_a_users_problem_that_raises_leaves_its_traceback_in_its_folder(package, capsys):
    assert call("--config-dir", "myconf", "-m", "problem=quartic,raising", "probe=off", "optim.lr=0.1", "steps=5") == 1
    good, bad = summaries(package)
    assert (good["status"], bad["status"]) == ("completed", "failed")
    assert "the disk of my lab is full" in bad["reason"]
    (trace,) = package.rglob("traceback.txt")
    assert "mylab.py" in trace.read_text()
    assert "Traceback" not in capsys.readouterr().err
    assert call("--config-dir", "myconf", "problem=raising", "hydra.run.dir=alone") == 1
    assert "the disk of my lab is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed",
    [
        "probe=off landscape=off problem="
        + ",".join(sorted(path.stem for path in (ROOT / "conf/problem").glob("*.yaml"))),
        "optim=" + ",".join(sorted(path.stem for path in (ROOT / "conf/optim").glob("*.yaml"))),
        "probe=" + ",".join(sorted(path.stem for path in (ROOT / "conf/probe").glob("*.yaml"))),
    ],
)
def test_every_option_of_a_group_runs_as_it_stands(here, typed):
    """Problems without a probe or planes: tests/problem/test_conf.py has the spectrum of each."""
    assert call("-m", *typed.split(), "steps=3") == 0
    assert {summary["status"] for summary in summaries(here)} <= {"completed", "diverged"}
    assert len(summaries(here)) == 1 + typed.count(",")


def test_any_optax_optimizer_and_schedule_from_the_command_line(here):
    typed = [*SMALL, "optim=adamw", "optim.learning_rate=0.05", "optim.schedule=cosine", "hydra.run.dir=out"]
    assert call(*typed) == 0
    metrics = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in metrics] == pytest.approx([0.05, 0.025, 0.0], abs=1e-8)


OPTAX = {
    "chained": """
_target_: optax.chain
_args_:
  - {_target_: optax.clip_by_global_norm, max_norm: 1.0}
  - {_target_: optax.adam, learning_rate: 0.1}
""",
    "factored": "{_target_: optax.adafactor, learning_rate: 0.1, min_dim_size_to_factor: 16}",
    "prodigal": "{_target_: optax.contrib.prodigy, learning_rate: 1.0, betas: [0.9, 0.99]}",
    "ahead": "{_target_: optax.lookahead, fast_optimizer: {_target_: optax.sgd, learning_rate: 0.1}, sync_period: 2, slow_step_size: 0.5}",
}  # fmt: skip


def test_optax_optimizers_of_parts_switches_and_lists(here, capsys):
    """Nested targets are made as Hydra makes them; whole numbers stay; what cannot step is refused in a sentence."""
    folder = here / "myconf" / "optim"
    folder.mkdir(parents=True)
    for name, text in OPTAX.items():
        (folder / f"{name}.yaml").write_text(text)
    small = ["--config-dir", "myconf", "problem=bowl", "probe=off", "landscape=off", "steps=2"]
    assert call(*small, "-m", "optim=chained,factored,prodigal") == 0
    assert [summary["status"] for summary in summaries(here)] == ["completed"] * 3
    capsys.readouterr()
    assert call(*small, "optim=ahead") == 2
    assert "no second set of parameters" in " ".join(capsys.readouterr().err.split())


def test_of_an_optimizer_without_a_known_operator_the_run_says_so(here, capsys):
    assert (
        call(
            "problem=bowl",
            "landscape=off",
            "steps=2",
            "optim=adamw",
            "optim._target_=optax.nadamw",
            "hydra.run.dir=out",
        )
        == 0
    )
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["sharpness"] is summary["threshold"] is summary["stability_margin"] is None
    assert summary["lambda_max"] == pytest.approx(10.0, rel=1e-5)  # float32
    words = capsys.readouterr()
    assert "no sharpness and no threshold" in " ".join((words.out + words.err).split())


def test_help_and_cfg_load_no_jax(here):
    script = (
        "import sys; sys.argv = ['curvexp', *{!r}]\n"
        "from curvexp.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules, 'pandas' in sys.modules, 'wandb' in sys.modules)"
    )
    for typed in (["--help"], ["--cfg", "job"]):
        found = subprocess.run(
            [sys.executable, "-c", script.format(typed)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
            timeout=60,
        )
        assert found.stdout.splitlines()[-1] == "False False False"


def test_import_is_light():
    script = "import sys, curvexp; print([m for m in ('hydra', 'wandb', 'pandas', 'altair', 'plotly', 'jax') if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
    script = (
        "import sys, curvexp\n"
        "[getattr(curvexp, name) for name in curvexp.__all__]\n"
        "print([m for m in ('hydra', 'wandb', 'pandas', 'plotly') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_ends_the_run_as_interrupted(here, number, code):
    process = _running(here)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    (summary,) = summaries(here)
    assert summary["status"] == "interrupted"


def test_kill_leaves_every_shown_record_readable_and_the_report_says_not_finished(here):
    process = _running(here)
    lines = next(here.rglob("metrics.jsonl")).read_bytes().count(b"\n")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    import curvexp

    runs = curvexp.load_runs(here)
    assert runs.runs["status"].tolist() == ["running"]
    assert len(runs.metrics) >= lines > 0
    report = subprocess.run(
        [sys.executable, "-m", "curvexp.report", str(here)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert report.returncode == 0
    assert "running or killed" in report.stdout


def _running(here):
    """A long run, already recording."""
    process = subprocess.Popen(
        [sys.executable, "-m", "curvexp", "problem.dimension=30", "steps=100000000", "hydra.run.dir=out"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        metrics = here / "out" / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") > 5:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the run did not begin in 120 s")


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_value_that_json_has_no_form_for_is_named_and_nothing_is_written(here, capsys, multirun):
    (here / "mine" / "problem").mkdir(parents=True)
    (here / "mine" / "problem" / "own.yaml").write_text("_target_: own.problem\nlabel: !!binary aGk=\n")
    (here / "own.py").write_text("def problem(*, label, **given):\n    raise AssertionError('built')\n")
    sys.path.insert(0, str(here))
    before = sorted(here.rglob("*"))
    try:
        assert call("--config-dir", "mine", *multirun, "problem=own", "steps=5") == 2
    finally:
        sys.path.remove(str(here))
    error = capsys.readouterr().err.replace("\n", " ")
    assert re.search(r"problem\.label=b'hi': expected what JSON can hold, got bytes.*Change problem\.label", error), (
        error
    )
    assert sorted(path for path in here.rglob("*") if "__pycache__" not in str(path)) == before
