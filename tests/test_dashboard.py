"""The W&B dashboard shows what runs log: real runs, tracked offline and read back, held against the panels."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.util import get_core_path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "wandb_dashboard.py"


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "PYTHONPATH": str(ROOT), "WANDB_ERROR_REPORTING": "false", **more}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A tracked sweep of a bowl that converges and a dome that diverges, and of a small network with its planes and density."""
    home = tmp_path_factory.mktemp("tracked")
    for name, words in {
        "flat": ["problem=bowl,dome", "steps=30", "track.artifact=true"],
        "network": [
            "problem=logistic",
            "steps=20",
            "probe=density",
            "probe.every=10",
            "landscape=all",
        ],
    }.items():
        command = [sys.executable, "-m", "curvexp", "-m", *words, "track=wandb", f"hydra.sweep.dir={home / name}"]
        done = subprocess.run(
            command, cwd=home, env=environment(HOME=str(home)), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "W&B:" in done.stderr  # where to look
        assert "WARNING" not in done.stderr
    return home


def read_back(run):
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    command = [
        get_core_path(),
        "leet",
        "inspect",
        "--no-observability",
        "--json",
        "--run-file",
        str(log),
        str(log.parent.parent),
    ]
    lines = [
        json.loads(line)
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ]
    return {kind: [line[kind] for line in lines if line["type"] == kind] for kind in {line["type"] for line in lines}}


def logged(run):
    """Every key of a run's history; a histogram's or figure's parts counted as one."""
    keys = {key for line in read_back(run)["history"] for key in line["item"] if not key.startswith("_")}
    return {re.sub(r"\.(_type|bins|values|path|sha256|size|.*_type)$", "", key) for key in keys}


def dashboard():
    specification = importlib.util.spec_from_file_location("wandb_dashboard", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_panel_shows_a_key_that_runs_log(sweep):
    pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces")
    found = logged(sweep / "flat" / "0") | logged(sweep / "network" / "0")
    assert dashboard().history_keys() - found == set()
    summary = json.loads((sweep / "flat" / "0" / "summary.json").read_text())
    assert set(dashboard().SUMMARY_KEYS) <= set(summary)


def test_the_dry_run_prints_all_of_it_without_a_login(sweep, tmp_path):
    pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces")
    command = [sys.executable, str(SCRIPT), "--dry-run", "--sweep", "a/b"]
    done = subprocess.run(
        command,
        env=environment(HOME=str(tmp_path), NETRC=str(tmp_path / "none")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    for part in ("workspace", "report"):
        text = json.dumps(printed[part])
        assert {key for key in dashboard().history_keys() if f'"{key}"' not in text} == set()
    assert printed["report"]["filters"] == "Metric('Group') == 'a/b'"
    refused = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment(HOME=str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--entity" in refused.stderr


def test_a_tracked_run_read_back_has_its_figures_steps_extremes_and_files(sweep):
    runs = [sweep / "flat" / name for name in "01"]
    logs = [read_back(run) for run in runs]
    assert {log["run"][0]["run_group"] for log in logs} == {f"{sweep.name}/flat"}
    assert [(log["run"][-1].get("tags") or []) for log in logs] == [[], ["diverged"]]
    for run, log in zip(runs, logs, strict=True):
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        history = [line["item"] for line in log["history"]]
        assert [item["step"] for item in history[:-1]] == [record["step"] for record in records]
        assert [item["loss/loss"] for item in history[:-1]] == pytest.approx([record["loss"] for record in records])
        shown = {
            key.removesuffix("._type")
            for key, value in history[-1].items()
            if key.endswith("._type") and value == "plotly-file"
        }
        assert shown == {"curvature/spectrum", "loss/way", "loss/surface"}
        (table,) = run.glob(
            "wandb/offline-run-*/files/media/table/curvature/sharpness_and_threshold_table_*.table.json"
        )
        assert {row[1] for row in json.loads(table.read_text())["data"]} == {"sharpness", "threshold"}
        for key in shown:
            (file,) = run.glob(f"wandb/offline-run-*/files/{history[-1][f'{key}.path']}")
            assert json.loads(file.read_text())["data"]
        summary = {}
        for line in log["summary"]:
            summary |= line.get("update", {})
        written = json.loads((run / "summary.json").read_text())
        assert {key: summary[key] for key in ("status", "loss", "steps")} == {
            key: written[key] for key in ("status", "loss", "steps")
        }
        assert {"loss/loss": "min", "curvature/lambda_max": "max"}.items() <= {
            metric["name"]: next(kind for kind in ("min", "max") if metric["summary"].get(kind))
            for metric in log["metric"]
            if "summary" in metric
        }.items()
        kept = {entry["path"] for artifact in log["artifact"] for entry in artifact["manifest"]["contents"]}
        assert {"config.json", "summary.json", "metrics.jsonl", "spectrum.jsonl", "landscape.json"} <= kept


def test_the_sweep_file_runs_what_this_program_takes(tmp_path):
    file = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    assert (file["method"], file["metric"]) == ("bayes", {"name": "steps_to_target", "goal": "minimize"})
    assert file["command"][-1] == "${args_no_hyphens}"
    words = [word for word in file["command"] if "=" in word]
    values = [f"{name}={parameter['max']}" for name, parameter in file["parameters"].items()]
    command = [sys.executable, "-m", "curvexp", *words, *values, "--cfg", "job", "--resolve"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    composed = yaml.safe_load(done.stdout)
    assert (composed["optim"]["lr"], composed["optim"]["momentum"]) == (2.0, 0.99)
