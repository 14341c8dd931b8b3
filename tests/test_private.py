"""Keys and the environment stay out of a run's folder and its report, whatever is run and however it ends."""

import base64
import json
import os
import subprocess

import pytest
from helpers import call
from wandb.util import get_core_path

from curvexp.errors import ConfigError
from curvexp.report.__main__ import main as report
from curvexp.store import secrets
from curvexp.track import wandb_run

VALUES = {  # unique, so that each is found wherever it stands
    "WANDB_API_KEY": "5ec7e7" + "a1b2c3d4e5f60718" * 2 + "ff",
    "LAB_TOKEN": "tok-93bfa81c7d55",
    "AWS_SECRET_ACCESS_KEY": "aws-0c6d1f72be9e",
    "DB_PASSWORD": "pass-70aa41b2ce11",
    "LAB_COLOUR": "colour-1f9d22aa7c",  # no secret, and no business of a run's either
}
NETRC = "netrc" + "0d9c8b7a65f4" * 2
LAB = """
import os
def raising(*, preprocess, dtype):
    token = os.environ["LAB_TOKEN"]
    raise RuntimeError(f"GET https://lab.example/data?token={token}: 403")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to run in, a home with a key in .netrc, an environment of secrets."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {NETRC}\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {**VALUES, "HOME": str(home), "NETRC": str(home / ".netrc"), "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield tmp_path / "work"
    wandb_run.leave(None)  # the next test's settings are read anew


def told(folder):
    """All that a folder tells: every file, name and link, and what W&B's own reader makes of its logs."""
    for path in sorted(folder.rglob("*")):
        yield path, os.fsencode(path.name)
        if path.is_symlink():
            yield path, os.fsencode(os.readlink(path))
        elif path.is_file():
            yield path, path.read_bytes()
        if path.suffix == ".wandb":
            command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
            yield path, subprocess.run([*command, str(path.parent)], capture_output=True, check=True).stdout


def held(folder):
    """Which of the values stand where, plain or in base64."""
    found = []
    for path, data in told(folder):
        for name, value in {**VALUES, "netrc": NETRC}.items():
            forms = [value.encode(), base64.b64encode(value.encode()).rstrip(b"=")[:-1]]
            found += [(name, str(path))] * any(form in data for form in forms)
    return found


SMALL = ["problem=quadratic", "problem.dimension=4", "steps=10", "probe.every=5"]


def test_no_key_and_no_variable_enters_a_folder_or_the_report(here, monkeypatch, capsys):
    (here / "lab.py").write_text(LAB)
    (here / "conf/problem").mkdir(parents=True)
    (here / "conf/problem/raising.yaml").write_text("_target_: lab.raising\n_partial_: true\n")
    monkeypatch.syspath_prepend(here)
    offline = ["track=wandb", "track.mode=offline", "track.artifact=true"]
    assert call(*SMALL, *offline, "checkpoint.every=5", "hydra.run.dir=runs/tracked") == 0
    assert call("--config-dir", "conf", "problem=raising", "hydra.run.dir=runs/failed") == 1
    assert call("-m", *SMALL, "seed=0,1", "hydra/launcher=vmap", "hydra.sweep.dir=runs/sweep") == 0
    assert report(["runs"]) == 0
    assert (here / "runs/report.html").exists()
    assert list((here / "runs/tracked/wandb").glob("offline-run-*/*.wandb"))
    assert held(here / "runs") == []
    trace = (here / "runs/failed/traceback.txt").read_text()
    assert "token=$LAB_TOKEN: 403" in trace  # told by its name
    assert "token=$LAB_TOKEN: 403" in json.loads((here / "runs/failed/summary.json").read_text())["reason"]
    assert all(value not in "".join(capsys.readouterr()) for value in (*VALUES.values(), NETRC))


@pytest.mark.parametrize(
    "typed",
    [
        "track.entity=${oc.env:WANDB_API_KEY}",
        "+track.tags=[a,'x ${oc.env:LAB_TOKEN}']",
        "track.entity=tok-93bfa81c7d55",
    ],
)
def test_a_key_by_mistake_is_refused_by_its_variable_and_nothing_is_written(here, capsys, typed):
    typed = typed.replace("+track.tags", "track.tags")
    assert call(*SMALL, "track=wandb", "track.mode=offline", typed, "hydra.run.dir=run") == 2
    said = capsys.readouterr().err
    assert "holds the value of the environment variable" in said
    assert not set(VALUES.values()) & {value for value in VALUES.values() if value in said}
    assert not (here / "run").exists()


def test_a_variable_that_a_person_asks_for_and_that_is_no_secret_is_recorded(here):
    """As a run that is gone on with needs it: ${oc.env:NAME} stands in config.json by its value."""
    assert (
        call(*SMALL, "track=wandb", "track.mode=disabled", "track.tags=['${oc.env:LAB_COLOUR}']", "hydra.run.dir=run")
        == 0
    )
    assert json.loads((here / "run/config.json").read_text())["track"]["tags"] == [VALUES["LAB_COLOUR"]]
    assert [name for name, _ in held(here / "run")] == ["LAB_COLOUR"]


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("WANDB_API_KEY", "12345678", True),
        ("github_token", "12345678", True),
        ("MY_APIKEY", "12345678", True),
        ("AWS_SECRET_ACCESS_KEY", "12345678", True),
        ("KEYBOARD", "12345678", False),
        ("MONKEY", "12345678", False),
        ("TOKENIZERS_PARALLELISM", "12345678", False),
        ("SHORT_KEY", "1234567", False),
    ],
)
def test_a_variable_is_a_secret_by_its_name(monkeypatch, name, value, secret):
    monkeypatch.setenv(name, value)
    assert secrets.hidden(f"a{value}b") == (f"a${name}b" if secret else f"a{value}b")
    config = {"track": {"tags": ["x", f"a{value}b"]}}
    if secret:
        with pytest.raises(ConfigError, match=rf"track\.tags\.1: holds the value of the environment variable {name}"):
            secrets.check(config)
    else:
        secrets.check(config)
