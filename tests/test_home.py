"""A user without a home, or with one that cannot serve, is given a temporary one."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from curvexp import home

ROOT = Path(__file__).parents[1]
UID = 43210  # of no entry in passwd
AS_NOBODY = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", sys.executable, "-c"]


@pytest.fixture
def as_nobody(tmp_path):
    """Runs Python code as a user without an entry in passwd; without HOME where the variables name none."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("becoming another user needs the rights of root, and setpriv")
    for part in (tmp_path, *tmp_path.parents):  # pytest's folders are the user's own
        if part.name.startswith(("pytest-", "popen-")):
            part.chmod(0o755)
    tmp_path.chmod(0o777)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_", "JAX_", "WANDB"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}

    def run(code, *words, **variables):
        return subprocess.run(
            [*AS_NOBODY, code, *words],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=280,
        )

    if run("import curvexp, rich, numpy").returncode:
        pytest.skip("other users cannot run this Python")
    return run


@pytest.mark.parametrize("given", [{}, {"HOME": "/root"}, {"HOME": "/nonexistent"}, {"HOME": "/"}], ids=str)
def test_home_and_cache_can_be_used(as_nobody, tmp_path, given):
    code = (
        "import os; from pathlib import Path; from curvexp import home; home.ensure(); home.ensure()\n"
        "cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')\n"
        "cache.mkdir(exist_ok=True); (cache / 'x').write_text('x'); (Path.home() / 'settings').exists()\n"
        "print(home.has_name(), home.temporary())"
    )
    found = as_nobody(code, **given)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["False", str(tmp_path / f"curvexp-{UID}")]


def test_a_home_that_serves_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    home.ensure()
    assert os.environ["HOME"] == str(tmp_path)
    assert "XDG_CACHE_HOME" not in os.environ
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / f"curvexp-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    home.temporary.cache_clear()
    try:
        found = home.temporary()
    finally:
        home.temporary.cache_clear()
    assert found != theirs
    assert found.parent == tmp_path
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


@pytest.mark.slow
def test_a_tracked_sweep_runs_without_passwd_entry_and_home(as_nobody, tmp_path):
    code = "import sys; from curvexp.__main__ import command; command()"
    words = ["-m", "problem=bowl", "steps=2", "probe=off", "seed=0,1", "track=wandb", "hydra.sweep.dir=sweep"]
    found = as_nobody(code, *words)
    assert found.returncode == 0, found.stderr
    assert "2 runs: 2 completed" in found.stdout
    assert "Warning" not in found.stderr
    assert (tmp_path / "sweep/report.html").stat().st_size > 1e5
    assert len(list(tmp_path.glob("sweep/*/wandb/offline-run-*"))) == 2
