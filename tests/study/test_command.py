"""Studies from a shell: the list, one run, one of a person's own, refusals, and reproduce."""

import json
import sys
from pathlib import Path

import pytest

from curvexp.app.studies import __main__ as listing
from curvexp.app.studies import compose, names
from curvexp.app.studies.command import asked_for, run

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

FUNCTION = """
from curvexp.study import Result, equal


def half(*, times=2, miss=0.0):
    return Result([equal("a half times two is one", 1.0, 0.5 * times + miss, absolute=1e-12, because="exact")], {"times": [times]})
"""
YAML = "_target_: {module}.half\nstatement: A half.\nsource: none\ntimes: 2\n"


@pytest.fixture
def mine(tmp_path, monkeypatch, request):
    module = f"lab_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(FUNCTION)
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "half.yaml").write_text(YAML.format(module=module))
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
