"""What the benches share: on what they ran, and the environment of their child processes."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def headline() -> str:
    """The device, the cores, JAX's version and the date. JAX is loaded, and with it the device taken by this process."""
    import jax

    kind = jax.devices()[0].device_kind
    return f"{kind}, {os.cpu_count()} cores, jax {jax.__version__}, {datetime.date.today()}"


def headline_of_children() -> str:
    """The same from a child process: the first process that loads JAX keeps most of a GPU's memory for as long as it lives."""
    typed = [sys.executable, "-c", "import bench_host; print(bench_host.headline())"]
    return subprocess.run(typed, env=environment(), capture_output=True, text=True, check=True).stdout.strip()


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: this checkout and this folder come first on PYTHONPATH, what was there stays."""
    paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}
