"""Sweeps by launcher: what each job leaves is the basic launcher's, to rounding."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import call

import curvexp
from curvexp.app.launch import cluster as curvexp_cluster
from curvexp.app.launch import jobs as jobs_of_sweep

ROOT = Path(__file__).parents[1]
CLOCKS = ("seconds", "probe_seconds")
SWEEP = [  # 36 runs of three problems; some diverge at the largest learning rate
    "problem=bowl,rosenbrock,logistic",
    *("seed=0,1,2", "optim=momentum", "optim.lr=1e-4,2e-3,1e-2,1"),
    *("steps=30", "probe.every=15", "precision=float64", "record_every=15", "landscape=off"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def close(found, wanted, *, rtol, atol=0.0, where=""):
    """Equality of what JSON holds: numbers to rounding, clocks aside."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            if key not in CLOCKS:  # a contraction is a ratio of components, some of them near rounding
                loose = 1e-2 if key.endswith("contraction") else rtol
                close(found[key], wanted[key], rtol=loose, atol=atol, where=f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            close(one, other, rtol=rtol, atol=atol, where=f"{where}[{index}]")
    elif isinstance(wanted, float) and not isinstance(wanted, bool):
        assert found == pytest.approx(wanted, rel=rtol, abs=atol, nan_ok=True), where
    else:
        assert found == wanted, where


def losses(folder):
    return [[line["loss"] for line in lines(folder / str(number) / "metrics.jsonl")] for number in jobs(folder)]


def jobs(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_jobs_that_differ_in_numbers_alone_are_composed_once():
    batch = [
        [f"problem={problem}", f"seed={seed}", f"optim.lr={lr}", "problem.hidden=[3]", "target=auto"]
        for problem in ("a", "b")
        for seed in range(4)
        for lr in (0.1, 1e-2)
    ]
    assert jobs_of_sweep.distinct(batch) == [batch[0], batch[8]]
    assert jobs_of_sweep.read(batch, 5)[1].number == 6
    assert jobs_of_sweep.read(batch)[1].varied == {"seed": 0, "optim.lr": 0.01}


HYDRAS = "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def test_basic_leaves_what_hydras_own_launcher_leaves(here):
    typed = [
        "problem=bowl,rosenbrock",
        "optim=sgd,momentum",
        "seed=0,1",
        "optim.lr=0.005,1e-3",
        "steps=20",
        "probe.every=10",
    ]
    typed += ["record_every=10", "target=null", "hydra.job.name='1e3'"]
    for name, chosen in (("hydra", [HYDRAS, "hydra/sweeper=basic"]), ("basic", [])):
        assert call("-m", *typed, f"hydra.sweep.dir={name}", *chosen) == 0
    files = sorted(path.relative_to(here / "hydra") for path in (here / "hydra").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(here / "basic") for path in (here / "basic").rglob("*") if path.is_file())
    assert len(jobs(here / "basic")) == 16
    for number in range(16):
        one, other = here / "basic" / str(number), here / "hydra" / str(number)
        assert (one / "config.json").read_text() == (other / "config.json").read_text()
        for name in ("metrics.jsonl", "spectrum.jsonl"):
            close(lines(one / name), lines(other / name), rtol=0, where=name)  # bit for bit: the same programs
        for name in ("config", "overrides", "hydra"):
            found, wanted = (yaml.safe_load((path / f".hydra/{name}.yaml").read_text()) for path in (one, other))
            if name == "hydra":
                found, wanted = (known["hydra"] for known in (found, wanted))
                assert str(found["job"].pop("id")) == str(wanted["job"].pop("id"))
                for known in (
                    found,
                    wanted,
                ):  # of the sweep: its folder, its launcher and sweeper, and what was typed for them
                    for key in ("sweep", "launcher", "sweeper"):
                        known.pop(key)
                    known["runtime"]["output_dir"] = Path(known["runtime"]["output_dir"]).name
                    known["runtime"]["choices"] = {k: v for k, v in known["runtime"]["choices"].items() if "/" not in k}
                    known["overrides"].pop("hydra")
            assert found == wanted, name


@pytest.mark.parametrize("chosen", [HYDRAS, "hydra/launcher=basic", "hydra/launcher=vmap"])
def test_a_sweeps_folder_may_depend_on_the_job(here, chosen):
    assert call("-m", "problem=bowl", "steps=5", "probe=off", "seed=1,2", "hydra.sweep.dir=sweep/${seed}", chosen) == 0
    found = sorted(path.parent for path in here.rglob("summary.json"))
    assert found == [here / "sweep" / "1" / "0", here / "sweep" / "2" / "1"]


@pytest.mark.parametrize(
    ("overrides", "overruled"),
    [
        (["optim.lr=0.1", "seed=1", "optim=momentum"], False),
        (["optim={lr: 0.2}", "optim.lr=0.1"], False),
        (["optim.lr=0.1", "optim={lr: 0.2}"], True),
        (["optim.lr=0.1", "++optim.lr=0.2"], True),
        (["optim.schedule.decay_steps=5", "~optim.schedule"], True),
        (["optim.lr=0.1", "optim.lr_scale=0.2"], False),
    ],
)
def test_a_number_is_overruled_by_what_sets_it_later(overrides, overruled):
    assert jobs_of_sweep.read([overrides])[0].overruled is overruled


@pytest.mark.parametrize(
    "typed", [["checkpoint.keep=3,2", "checkpoint={keep: 3}"], ["checkpoint={keep: 3}", "checkpoint.keep=3,2"]]
)
def test_where_two_overrides_set_one_key_the_later_one_holds(here, typed):
    typed = ["problem=bowl", "steps=5", "probe=off", "seed=1,2", *typed]
    for name, chosen in (("hydra", HYDRAS), ("basic", "hydra/launcher=basic"), ("vmap", "hydra/launcher=vmap")):
        assert call("-m", *typed, f"hydra.sweep.dir={name}", chosen) == 0
    wanted, *found = (
        [(here / n / str(j) / "config.json").read_text() for j in range(4)] for n in ("hydra", "basic", "vmap")
    )
    assert found == [wanted, wanted]


def test_a_persons_callback_gets_each_jobs_own_config(here, monkeypatch):
    (here / "seen.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "ended = []\n"
        "class Seen(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        ended.append((config, job_return))\n"
    )
    monkeypatch.syspath_prepend(str(here))
    typed = ["problem=bowl", "steps=5", "probe=off", "seed=3,4", "+hydra.callbacks.seen._target_=seen.Seen"]
    for chosen in ("basic", "vmap"):
        assert call("-m", *typed, f"hydra/launcher={chosen}", f"hydra.sweep.dir={chosen}") == 0
    import seen

    assert [(config.seed, config.hydra.job.num) for config, _ in seen.ended] == [(3, 0), (4, 1)] * 2
    for config, found in seen.ended:
        assert found.cfg.seed == config.seed
        assert found.hydra_cfg.hydra.job.num == config.hydra.job.num
        assert found.overrides[-1] == f"seed={config.seed}"
        assert math.isfinite(found.return_value)


def test_a_callback_that_begins_with_each_job_meets_one_job_at_a_time(here, monkeypatch, capsys):
    (here / "paired.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "calls = []\n"
        "class Paired(Callback):\n"
        "    def on_job_start(self, config, **kwargs):\n"
        "        calls.append(('start', config.hydra.job.num))\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        calls.append(('end', config.hydra.job.num))\n"
        "class Ended(Callback):\n"
        "    on_job_end = Paired.on_job_end\n"
    )
    monkeypatch.syspath_prepend(str(here))
    import paired

    typed = ["-m", "problem=bowl", "steps=2", "probe=off", "seed=5,6", "hydra/launcher=vmap"]
    pickled = "+hydra.callbacks.p._target_=hydra.experimental.callbacks.PickleJobInfoCallback"
    assert call(*typed, "+hydra.callbacks.mine._target_=paired.Paired", pickled, "hydra.sweep.dir=a") == 0
    assert paired.calls == [("start", 0), ("end", 0), ("start", 1), ("end", 1)]
    assert "one after the other, for on_job_start of PickleJobInfoCallback, Paired" in capsys.readouterr().err.replace(
        "Paired, PickleJobInfoCallback", "PickleJobInfoCallback, Paired"
    )
    for job in ("0", "1"):
        assert {path.name for path in (here / "a" / job / ".hydra").glob("*.pickle")} == {
            "config.pickle",
            "job_return.pickle",
        }
    paired.calls.clear()
    assert call(*typed, "+hydra.callbacks.mine._target_=paired.Ended", "hydra.sweep.dir=b") == 0
    assert paired.calls == [("end", 0), ("end", 1)]
    assert "2 in one program" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", ["basic", "vmap"])
def test_what_hydra_does_around_a_job_is_done(here, chosen):
    (here / "told.py").write_text(
        "import os\n"
        "def gravity(**options):\n"
        "    from curvexp.problem import bowl\n"
        "    assert os.environ['TOLD'] == 'yes'\n"
        "    return bowl(**options)\n"
    )
    typed = ["-m", "curvexp", "-m", "problem=bowl", "problem._target_=told.gravity", "steps=5", "probe=off", "seed=0,1"]
    typed += [
        "+hydra.job.env_set={TOLD: 'yes'}",
        "hydra.job.chdir=true",
        f"hydra/launcher={chosen}",
        "hydra.sweep.dir=sweep",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{here}"}
    found = subprocess.run([sys.executable, *typed], cwd=here, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert ("one after the other" in found.stderr) == (chosen == "vmap")
    assert len(jobs(here / "sweep")) == 2


def test_vmap_leaves_what_basic_leaves(here):
    typed = [
        "problem.dimension=12",
        "precision=float64",
        "steps=30",
        "probe.every=15",
        "seed=0,1",
        "optim.lr=0.005,0.018,0.2",
    ]
    assert call("-m", *typed, "hydra.sweep.dir=basic", "hydra/sweeper=basic") == 0
    assert call("-m", *typed, "hydra.sweep.dir=vmap", "hydra/launcher=vmap") == 0
    assert jobs(here / "vmap") == jobs(here / "basic") == list(range(6))
    for number in range(6):
        one, other = here / "vmap" / str(number), here / "basic" / str(number)
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
        for name in ("config.json", "summary.json"):
            close(json.loads((one / name).read_text()), json.loads((other / name).read_text()), rtol=1e-6, atol=1e-9)
        for name in ("metrics.jsonl", "spectrum.jsonl"):
            close(lines(one / name), lines(other / name), rtol=1e-4, atol=1e-7, where=name)
        for name in ("config.yaml", "overrides.yaml"):
            assert yaml.safe_load((one / ".hydra" / name).read_text()) == yaml.safe_load(
                (other / ".hydra" / name).read_text()
            )
        mine, theirs = (yaml.safe_load((path / ".hydra/hydra.yaml").read_text())["hydra"] for path in (one, other))
        assert mine["job"]["num"] == theirs["job"]["num"] == number
        assert mine["job"]["override_dirname"] == theirs["job"]["override_dirname"]
        assert mine["overrides"]["task"] == theirs["overrides"]["task"]
        assert mine.keys() == theirs.keys()
    for found, wanted in zip(losses(here / "vmap"), losses(here / "basic"), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    ends = [json.loads((here / "vmap" / str(number) / "summary.json").read_text()) for number in range(6)]
    assert [end["status"] for end in ends] == ["completed", "completed", "diverged"] * 2  # lr 0.2 is past 2/λmax = 0.02
    assert all(end["steps"] < 30 for end in ends[2::3])


def test_one_program_carries_the_jobs_and_it_is_said(here, capsys):
    typed = ["problem.dimension=8,9", "steps=10", "probe=off", "seed=range(3)", "hydra/launcher=vmap"]
    assert call("-m", *typed) == 0
    assert "6 jobs: 3 in one program, 3 in one program" in " ".join(capsys.readouterr().err.split())


def test_condition_number_target_and_noise_are_traced(here, capsys):
    typed = ["problem.dimension=8", "steps=20", "probe=off", "hydra/launcher=vmap", "optim.lr=0.005"]
    assert call("-m", *typed, "problem.condition_number=10,50,100", "target=1e-2,1e-1", "hydra.sweep.dir=one") == 0
    assert "6 jobs: 6 in one program" in " ".join(capsys.readouterr().err.split())
    typed = ["problem=least_squares", "problem.data=gaussian", "problem.data.samples=30", "problem.data.features=4"]
    typed += ["steps=20", "probe=off", "hydra/launcher=vmap", "optim=adamw", "optim.learning_rate=0.01"]
    assert call("-m", *typed, "problem.data.noise=0.1,0.2", "optim.weight_decay=1e-4,1e-2") == 0
    assert "4 jobs: 4 in one program" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("batch_size", [7, 50])
def test_minibatches_are_drawn_as_alone_also_beside_a_job_that_ended(here, batch_size):
    typed = ["problem=logistic", "problem.data=wine", "preprocess=normalized", "precision=float64", "probe=off"]
    typed += [f"batch_size={batch_size}", "steps=60", "record_every=7", "seed=0,1", "optim.lr=0.1,1e6", "diverge_at=10"]
    assert call("-m", *typed, "hydra.sweep.dir=basic") == 0
    assert call("-m", *typed, "hydra.sweep.dir=vmap", "hydra/launcher=vmap") == 0
    for found, wanted in zip(losses(here / "vmap"), losses(here / "basic"), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-10)
    ends = [json.loads((here / "vmap" / str(number) / "summary.json").read_text())["status"] for number in range(4)]
    assert ends == ["completed", "diverged"] * 2


def test_a_failed_and_a_skipped_job_harm_no_other(here):
    typed = ["problem.dimension=8", "steps=10", "probe=off", "hydra/launcher=vmap"]
    assert call("-m", *typed, "optim.lr=0.01,-1,0.005") == 1
    ends = [json.loads((here / path).read_text()) for path in sorted(here.glob("multirun/*/*/?/summary.json"))]
    assert [end["status"] for end in ends] == ["completed", "failed", "completed"]
    assert "optim.lr=-1" in ends[1]["reason"]


def test_max_batch_parts_the_jobs(here, capsys):
    typed = ["problem.dimension=8", "steps=10", "probe=off", "hydra/launcher=vmap"]
    assert call("-m", *typed, "seed=range(5)", "hydra.launcher.max_batch=2") == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.count("2 jobs: 2 in one program") == 2
    assert len(list(here.rglob("summary.json"))) == 5


def test_a_wrong_max_batch_is_refused(here, capsys):
    assert call("-m", "seed=0,1", "hydra/launcher=vmap", "hydra.launcher.max_batch=0") == 2
    assert "hydra.launcher.max_batch=0: expected" in capsys.readouterr().err


def test_tracked_runs_are_tracked_beside_each_other(here, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    typed = ["problem.dimension=8", "steps=20", "probe=off", "track=wandb", "seed=0,1", "hydra/launcher=vmap"]
    assert call("-m", *typed, "hydra.sweep.dir=out") == 0
    for number in (0, 1):
        assert list((here / f"out/{number}/wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_the_same_sweep_by_every_launcher_of_one_machine(here):
    """36 runs of three problems: basic = vmap = joblib."""
    _mixed(here, "basic")
    _mixed(here, "vmap", "hydra/launcher=vmap")
    _compared(here, "vmap")
    command(["-m", *SWEEP, "hydra.sweep.dir=joblib", "hydra/launcher=joblib"], here)
    _compared(here, "joblib")


def test_submitit_leaves_what_basic_leaves(here):
    typed = ["problem.dimension=12", "precision=float64", "steps=20", "seed=0,1"]
    assert call("-m", *typed, "hydra.sweep.dir=basic") == 0
    command(["-m", *typed, "hydra.sweep.dir=submitit_local", "hydra/launcher=submitit_local"], here)
    _compared(here, "submitit_local")


PREEMPTED = """
import os, pathlib, signal
import jax
from curvexp import probe

def preempted(*, k, every, mark, calls=0):
    inner, made = probe.top(k=k, every=every, dense_below=0), []

    def measure(loss, params, state, key):
        made.append(1)
        if len(made) == 4 and not pathlib.Path(mark).exists():
            pathlib.Path(mark).touch()
            os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does, with the signal that submitit asks for
            jax.jit(kill)(1.0)
        return inner.measure(loss, params, state, key)

    return inner._replace(measure=measure)

def kill(x):
    os.kill(os.getpid(), signal.SIGUSR2)  # while it is traced
    return x
"""


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_goes_on_from_a_checkpoint_of_that_moment(here):
    (here / "lab.py").write_text(PREEMPTED)
    (here / "conf/probe").mkdir(parents=True)
    (here / "conf/probe/preempted.yaml").write_text(
        f"_target_: lab.preempted\nk: 1\nevery: 10\nmark: {here / 'mark'}\n"
    )
    typed = [
        "--config-dir",
        str(here / "conf"),
        "-m",
        "probe=preempted",
        "seed=0,1",
        "problem.dimension=12",
        "steps=60",
    ]
    typed += ["optim=momentum", "precision=float64", "record_every=5", "landscape=off"]
    path = os.pathsep.join([str(ROOT), str(here)])
    command([*typed, "hydra.sweep.dir=queued", "hydra/launcher=submitit_local"], here, PYTHONPATH=path)
    assert (here / "mark").exists()
    logs = "".join(path.read_text() for path in (here / "queued/.submitit").rglob("*_log.*"))
    assert logs.count("goes on from step 25") == 1  # the record before the fourth reading, at step 30
    command([*typed, "hydra.sweep.dir=whole"], here, PYTHONPATH=path)
    for number, name in itertools.product((0, 1), ("metrics.jsonl", "spectrum.jsonl")):
        found, wanted = (lines(here / folder / str(number) / name) for folder in ("queued", "whole"))
        for line in (*found, *wanted):
            for clock in CLOCKS:
                line.pop(clock, None)
        assert found == wanted


TINY = ["problem.dimension=8", "precision=float64", "steps=20", "probe=off", "seed=range(6)"]

FORKS = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def nodes(monkeypatch):
    """A Ray cluster of two nodes of one CPU."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@FORKS
@pytest.mark.slow
def test_ray_leaves_what_basic_leaves_on_both_nodes(here, nodes, capsys):
    assert call("-m", *TINY, "hydra.sweep.dir=basic") == 0
    capsys.readouterr()
    typed = ["hydra.sweep.dir=ray", "hydra/launcher=ray", f"hydra.launcher.address='{nodes.address}'"]
    assert call("-m", *TINY, *typed) == 0
    shown = capsys.readouterr()
    assert len({line.split()[1] for line in shown.err.splitlines() if line.startswith("  node ")}) == 2
    assert (here / "ray/report.html").exists()
    _compared(here, "ray")
    assert not (here / "ray/.ray").exists()


@FORKS
@pytest.mark.slow
def test_what_a_node_without_the_sweeps_folder_records_comes_home(here, monkeypatch):
    """The node that the jobs run on sees an empty file system where the sweep's folder is."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    sweeps = here / "sweeps"
    sweeps.mkdir()
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a mount of its own needs root")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shipped, unpack = [], curvexp_cluster.unpack
    monkeypatch.setattr(curvexp_cluster, "unpack", lambda *given: shipped.append(unpack(*given)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    start = f"mount -t tmpfs tmpfs {sweeps} && exec {sys.executable} -m ray.scripts.scripts start"
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{start} --address={cluster.address} --num-cpus=1 --block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert call("-m", *TINY, "hydra.sweep.dir=basic") == 0
        typed = ["hydra.sweep.dir=sweeps/ray", "hydra/launcher=ray", f"hydra.launcher.address='{cluster.address}'"]
        assert call("-m", *TINY, *typed) == 0
        assert len(shipped) == 6
        (here / "ray").symlink_to(sweeps / "ray")
        _compared(here, "ray")
        assert len(curvexp.load_runs(sweeps).runs) == 6
        assert (sweeps / "ray/report.html").exists()
    finally:
        node.terminate()
        node.wait()
        cluster.shutdown()


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("retries", [1, 0])
def test_a_killed_worker_of_ray(here, nodes, retries, monkeypatch):
    """Job 2 kills its process once, when it starts: it is started again, or recorded as failed; the others complete."""
    mark = here / "killed"
    (here / "mine").mkdir()
    (here / "mine/killer.py").write_text(
        "import os, pathlib, signal\n"
        "from hydra.experimental.callback import Callback\n"
        "class Kill(Callback):\n"
        "    def on_job_start(self, config, **kwargs):\n"
        f"        mark = pathlib.Path({str(mark)!r})\n"
        "        if config.hydra.job.num == 2 and not mark.exists():\n"
        "            mark.touch()\n"
        "            pathlib.Path(config.hydra.runtime.output_dir, 'metrics.jsonl').touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = [str(ROOT), str(here / "mine")]
    monkeypatch.syspath_prepend(path[1])
    typed = ["hydra.sweep.dir=ray", "hydra/launcher=ray", f"hydra.launcher.address='{nodes.address}'"]
    typed += [f"hydra.launcher.max_retries={retries}", "+hydra.callbacks.kill._target_=killer.Kill"]
    typed += [f"hydra.launcher.runtime_env={{env_vars:{{PYTHONPATH:'{os.pathsep.join(path)}'}}}}"]
    assert call("-m", *TINY, *typed) == (0 if retries else 1)
    assert mark.exists()
    ends = [json.loads((here / f"ray/{number}/summary.json").read_text()) for number in range(6)]
    assert [end["status"] for end in ends] == ["completed", "completed", "completed" if retries else "failed"] + [
        "completed"
    ] * 3
    if not retries:
        assert "its worker died, 1 starts" in ends[2]["reason"]


def test_a_shipped_folder_is_unpacked_below_itself_only(tmp_path):
    import io
    import zipfile

    (tmp_path / "one/.hydra").mkdir(parents=True)
    (tmp_path / "one/.hydra/config.yaml").write_text("a: 1")
    curvexp_cluster.unpack(curvexp_cluster.pack(tmp_path / "one"), tmp_path / "two")
    assert (tmp_path / "two/.hydra/config.yaml").read_text() == "a: 1"
    for name in ("../out", "/out", "a/../../out"):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(ValueError, match="expected a file below it"):
            curvexp_cluster.unpack(made.getvalue(), tmp_path / "three")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("typed", ["max_retries=-1", "num_cpus=-1", "max_retries=1.5"])
def test_a_wrong_key_of_ray_is_refused(here, capsys, typed):
    pytest.importorskip("ray")
    assert call("-m", "seed=0,1", "hydra/launcher=ray", f"hydra.launcher.{typed}") == 2
    assert f"hydra.launcher.{typed}: expected" in capsys.readouterr().err


def command(arguments, cwd, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    found = subprocess.run(
        [sys.executable, "-m", "curvexp", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found


def _mixed(here, folder, *launched):
    assert call("-m", *SWEEP, f"hydra.sweep.dir={folder}", *launched) == 0
    assert jobs(here / folder) == list(range(36))


def _compared(here, name):
    for number in jobs(here / "basic"):
        one, other = here / name / str(number), here / "basic" / str(number)
        found, wanted = (json.loads((path / "summary.json").read_text()) for path in (one, other))
        for key in ("status", "problem", "optim", "steps", "seed", "steps_to_target"):
            assert found[key] == wanted[key], (number, key)
        for key in ("loss", "lambda_max", "lambda_min", "sharpness"):
            if wanted[key] is None or not math.isfinite(wanted[key]):
                assert found[key] == pytest.approx(wanted[key], nan_ok=True), (number, key)
            else:
                # sums in another order: the parameters' rounding is larger in λ than in the loss
                assert found[key] == pytest.approx(wanted[key], rel=1e-9 if key == "loss" else 1e-5), (number, key)
        wanted_losses = [line["loss"] for line in lines(other / "metrics.jsonl")]
        np.testing.assert_allclose([line["loss"] for line in lines(one / "metrics.jsonl")], wanted_losses, rtol=1e-9)


LONG = """
import json, sys, threading, time
from curvexp.__main__ import main

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

seen, ended = [], threading.Event()

def watch():
    while not ended.wait(1.0):
        seen.append(resident())

threading.Thread(target=watch, daemon=True).start()
sys.argv = ["curvexp"]
main(["problem.dimension=10", "probe=off", "steps=100000", "record_every=1", "optim.lr=0.01", "hydra.run.dir=out"])
ended.set()
print(json.dumps([seen[len(seen) // 10], max(seen)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_flat_over_a_record_a_step(here):
    found = subprocess.run(
        [sys.executable, "-c", LONG],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = json.loads(found.stdout.splitlines()[-1])
    assert len(lines(here / "out/metrics.jsonl")) == 100001
    assert after - before < 50e6
