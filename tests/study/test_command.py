"""Studies from a shell: the list, one run, one of a person's own, refusals, and reproduce."""

import json
import sys
from pathlib import Path

import pytest

from curvexp import load_runs
from curvexp.app.studies import __main__ as listing
from curvexp.app.studies import compose, names
from curvexp.app.studies.command import asked_for, run
from curvexp.errors import ConfigError
from curvexp.report import __main__ as report

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

FUNCTION = """
from curvexp.study import Result, equal


def half(*, times=2, miss=0.0):
    return Result([equal("a half times two is one", 1.0, 0.5 * times + miss, absolute=1e-12, because="exact")], {"times": [times]})
"""
YAML = "_target_: {module}.half\nstatement: A half.\nsource: none\ntimes: 2\n"

RUNS_FUNCTION = """
import jax.numpy as jnp

from curvexp.problem import Problem
from curvexp.study import Result, at_most, recorded


def falls(runs, *, below=1.0):
    found = recorded(runs, "descent")
    ends = [run.scalars["loss"][-1] / run.scalars["loss"][0] for run in found]
    lrs = [run.config["optim.lr"] for run in found]
    return Result([at_most("the loss falls", below, ends, because="a comparison")], {"lrs": lrs})


def broken(*, preprocess, dtype):
    def loss(params, data):
        raise RuntimeError("no such loss")

    return Problem("broken", lambda key: jnp.zeros(2), loss, ())
"""
RUNS_YAML = """
_target_: {module}.falls
statement: A loss falls.
source: none
below: 1.0
lrs: [0.01, 0.02]
steps: 20
overrides: [problem=bowl, optim=sgd, probe.every=10, "steps=${{study.steps}}"]
runs:
  descent: ["optim.lr=${{sweep:${{study.lrs}}}}"]
  never: ["optim.lr=${{sweep:null}}"]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch, request):
    module = f"lab_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(FUNCTION)
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "half.yaml").write_text(YAML.format(module=module))
    (tmp_path / f"{module}_runs.py").write_text(RUNS_FUNCTION)
    (tmp_path / "conf" / "study" / "falls.yaml").write_text(RUNS_YAML.format(module=f"{module}_runs"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "conf")


def test_every_study_can_be_composed_and_has_its_number():
    found = [compose(name) for name in names()]
    numbers = [study.number for study in found]
    assert numbers == sorted(set(numbers))
    assert all(study.statement and study.source for study in found)


def test_the_list_names_them_all_and_those_of_ones_own(mine, capsys):
    assert listing.main(["--config-dir", mine]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in [*names(), "half"])


def test_a_study_of_ones_own_passes_and_leaves_its_files(mine, tmp_path, capsys):
    assert run(["+study=half", f"hydra.run.dir={tmp_path}/out"], config_dir=mine) == 0
    assert "pass" in capsys.readouterr().out
    finding = json.loads((tmp_path / "out" / "finding.json").read_text())
    assert (finding["verdict"], finding["options"]) == ("pass", {"times": 2})
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == {"times": [2]}


def test_a_failed_verdict_is_shown_and_is_exit_code_1(mine, tmp_path, capsys):
    assert run(["+study=half", "study.times=3", f"hydra.run.dir={tmp_path}/out"], config_dir=mine) == 1
    assert "fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides, word",
    [
        (["+study=level_set"], "level_sets"),
        (["+study=level_sets", "+study.levels=2"], "study.levels"),
        (["+study=level_sets", "study.levels=2"], "Did you mean level"),
        (["+study=level_sets", "study.angles=many"], "study.angles"),
        (["+study=level_sets", "study.angles=0"], "study.angles"),
        (["+study=level_sets", "study.precision=half"], "study.precision"),
        (["+study=level_sets", "optim=sgd"], "optim=sgd"),
    ],
)
def test_refusals_name_the_key(overrides, word, capsys):
    assert run(overrides) == 2
    assert word in capsys.readouterr().err


def test_a_file_that_is_not_yaml_is_named(mine, capsys):
    (Path(mine) / "study" / "bad.yaml").write_text("a: [1")
    assert listing.main(["--config-dir", mine]) == 2
    assert "bad.yaml" in capsys.readouterr().err


def test_a_missing_folder_is_refused(capsys):
    assert listing.main(["--config-dir", "/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_the_runs_of_a_study_lie_in_folders_that_the_report_shows_beside_its_claims(mine, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["+study=falls", f"hydra.run.dir={out}"], config_dir=mine) == 0
    assert json.loads((out / "data.json").read_text()) == {"lrs": [0.01, 0.02]}
    found = load_runs(out)
    assert found.runs[["run", "status", "config.optim.lr"]].values.tolist() == [
        ["runs/descent/0", "completed", 0.01],
        ["runs/descent/1", "completed", 0.02],
    ]
    assert set(found.spectra["step"]) == {0, 10, 20}
    capsys.readouterr()
    assert report.main([str(out), "--no-page"]) == 0
    shown = capsys.readouterr().out
    assert "study falls: pass" in shown
    assert "bowl" in shown


def test_runs_that_have_ended_are_judged_anew_and_not_trained_again(mine, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["+study=falls", f"hydra.run.dir={out}"], config_dir=mine) == 0
    files = sorted(out.rglob("*.jsonl"))
    before = [file.read_bytes() for file in files]
    assert len(files) == 4
    assert run(["+study=falls", "study.below=0.001", f"hydra.run.dir={out}"], config_dir=mine) == 1
    assert [file.read_bytes() for file in files] == before  # with the seconds in them
    assert run(["+study=falls", "study.lrs=[0.02]", f"hydra.run.dir={out}"], config_dir=mine) == 2
    assert "hydra.run.dir" in capsys.readouterr().err
    assert run(["+study=falls", "study.lrs=[0.01]", f"hydra.run.dir={out}"], config_dir=mine) == 0
    assert json.loads((out / "data.json").read_text()) == {"lrs": [0.01]}  # the other run is none of its own


def test_a_run_that_fails_is_told_with_its_reason(mine, tmp_path, capsys):
    file, out = Path(mine) / "study" / "falls.yaml", tmp_path / "out"
    whole = file.read_text()
    module = whole.split("_target_: ")[1].split(".")[0]
    (Path(mine) / "problem").mkdir()
    (Path(mine) / "problem" / "broken.yaml").write_text(f"_target_: {module}.broken\n_partial_: true\n")
    file.write_text(whole.replace("problem=bowl", "problem=broken"))
    assert run(["+study=falls", f"hydra.run.dir={out}"], config_dir=mine) == 1
    assert "its run descent/0 ended as failed: RuntimeError: no such loss" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "wrong, word",
    [
        ("optm=sgd", "runs.descent/0"),
        ("optim.lrr=1", "lrr"),
        ("record_every=many", "record_every=many"),
        ("optim.lr=[", "runs.descent"),
        ("problem.eigenvalues=[a]", "problem.eigenvalues"),
    ],
)
def test_a_wrong_override_is_refused_before_any_run(wrong, word, mine, tmp_path, capsys):
    file, out = Path(mine) / "study" / "falls.yaml", tmp_path / "out"
    file.write_text(file.read_text().replace("problem=bowl", f"problem=bowl, '{wrong}'"))
    assert run(["+study=falls", f"hydra.run.dir={out}"], config_dir=mine) == 2
    assert word in capsys.readouterr().err
    assert not (out / "runs").exists()


def test_a_sweep_is_every_choice_with_every_number_and_of_nothing_there_is_no_run(mine):
    file = Path(mine) / "study" / "falls.yaml"
    file.write_text(
        file.read_text().replace("descent: [", "descent: ['seed=range(0,2)', 'preprocess=raw,normalized', ")
    )
    runs = compose("falls", config_dir=mine).runs
    assert [run.name for run in runs] == [f"descent/{number}" for number in range(8)]
    assert [(run.config["seed"], run.names["preprocess"], run.config["optim"]["lr"]) for run in runs] == [
        (seed, name, lr) for seed in (0, 1) for name in ("raw", "normalized") for lr in (0.01, 0.02)
    ]
    assert runs[3].title == "descent/3 seed=0 preprocess=normalized optim.lr=0.02"
    with pytest.raises(ConfigError, match="expected a run"):
        compose("falls", ["study.lrs=null"], config_dir=mine)
    file.write_text(file.read_text().replace(".falls", ".broken"))
    with pytest.raises(ConfigError, match="takes no runs"):
        compose("falls", config_dir=mine)


def test_a_number_of_the_runs_is_checked_like_one_of_the_function(mine, capsys):
    for wrong in ("study.lrs=[a]", "study.steps=0", "study.steps=1.5", "study.step=1"):
        assert run(["+study=falls", wrong], config_dir=mine) == 2
        assert wrong.split("=")[0].split("[")[0] in capsys.readouterr().err


def test_only_a_study_is_asked_for():
    assert asked_for(["+study=level_sets"])
    assert asked_for(["study=level_sets"])
    assert not asked_for(["problem=mlp", "study.seeds=2"])


def test_reproduce_writes_the_findings_keeps_what_is_done_and_says_what_failed(mine, tmp_path, capsys):
    import reproduce

    arguments = ["half", "--out", str(tmp_path / "out"), "--config-dir", mine]
    assert reproduce.main(arguments) == 0
    assert json.loads((tmp_path / "out" / "findings.json").read_text())["findings"][0]["verdict"] == "pass"
    assert "| a half times two is one | 1 | 1 |" in (tmp_path / "out" / "findings.md").read_text()
    capsys.readouterr()
    assert reproduce.main(arguments) == 0
    assert "kept" in capsys.readouterr().out
    file = Path(mine) / "study" / "half.yaml"
    file.write_text(file.read_text().replace("times: 2", "times: 3"))  # other numbers: not what was kept
    assert reproduce.main(arguments) == 1
    assert "1 fail" in capsys.readouterr().out
    assert reproduce.main(["thirds", "--config-dir", mine]) == 2
