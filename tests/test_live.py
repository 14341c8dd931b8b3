"""What a run or a sweep shows while it goes: names from configs are shown by their letters, and do nothing."""

import re

import pytest
from helpers import call

MARKUP, TITLE, SCRIPT = "[red]MARK8", "\x1b]0;MARK7\x07", "<script>alert('MARK7')</script>"
SMALL = ["problem=quadratic", "problem.dimension=4", "steps=10", "probe.every=5"]
TAGS = f'track.tags=["{MARKUP}","{TITLE}","{SCRIPT}"]'


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def here(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(request.param)))
    monkeypatch.setenv("TTY_INTERACTIVE", str(int(request.param)))
    return tmp_path


def shown(capsys, *texts):
    """What was shown, without the colours and moves of a terminal, after checks that the texts stand there by their letters."""
    found = "".join(capsys.readouterr())
    assert "\x07" not in found
    assert "\x1b]" not in found
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found)
    assert "\x1b" not in plain
    for text in texts:
        assert text in plain, plain
    assert set(re.findall(r"(.{0,5})MARK8", plain)) <= {"[red]"}
    return plain


SHOWN = (MARKUP, r"\x1b]0;MARK7\x07", SCRIPT)


def test_a_run_in_a_folder_of_a_hostile_name(here, capsys):
    folder = f"{MARKUP}{TITLE}"
    assert call(*SMALL, f'hydra.run.dir="{folder}"') == 0
    shown(capsys, r"[red]MARK8\x1b]0;MARK7\x07")
    assert call(*SMALL, f'hydra.run.dir="{folder}"') in (1, 2)  # it holds a run
    shown(capsys, r"[red]MARK8\x1b]0;MARK7\x07")
    assert call(f'resume="{folder}"') == 2
    shown(capsys, r"[red]MARK8\x1b]0;MARK7\x07")


@pytest.mark.parametrize("launcher", ["basic", "vmap"])
def test_a_sweep_whose_titles_are_hostile(here, capsys, launcher):
    typed = [*SMALL, "track=wandb", "track.mode=disabled", f"{TAGS},[a]", f"hydra/launcher={launcher}"]
    assert call("-m", *typed, "hydra.sweep.dir=sweep") == 0
    shown(capsys, *SHOWN)
    assert call("-m", "resume=sweep") == 0
    shown(capsys, *SHOWN, "before")


def test_a_value_that_is_refused_is_told_by_its_letters(here, capsys):
    for text, told in zip((MARKUP, TITLE, SCRIPT), SHOWN, strict=True):
        assert call(f'problem.law="{text}"') == 2
        shown(capsys, told)
    assert call("-m", *SMALL, f'optim.lr="{MARKUP}","{TITLE}","{SCRIPT}"', "seed=-1,0") in (1, 2)
    shown(capsys, MARKUP)


def test_warnings_of_wandb_name_folders_and_errors_by_their_letters(here, caplog, monkeypatch):
    from curvexp.track import wandb_run

    def broken(self, run, mode):
        raise RuntimeError(f"no {TITLE}")

    monkeypatch.setattr(wandb_run.WandbRun, "_init", broken)
    monkeypatch.setattr(wandb_run.WandbRun, "check", lambda self: setattr(self, "mode", "online"))
    monkeypatch.setattr(wandb_run.WandbRun, "unreachable", False)
    assert call(*SMALL, "track=wandb", f'hydra.run.dir="{MARKUP}{TITLE}"') == 0
    reached, failed = [entry.getMessage() for entry in caplog.records if entry.name == "curvexp.track"]
    assert r"[red]MARK8\x1b]0;MARK7\x07/wandb: no \x1b]0;MARK7\x07" in reached
    assert failed.endswith(r"no \x1b]0;MARK7\x07")
