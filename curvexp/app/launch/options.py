"""Checks of the launcher that a sweep asks for."""

from importlib.util import find_spec
from typing import Any

from omegaconf import OmegaConf

from curvexp.app.launch import cluster
from curvexp.errors import ConfigError

EXTRAS = (  # extra of curvexp, module, what its launcher's target holds
    ("parallel", "hydra_plugins.hydra_joblib_launcher", "ProcessLauncher"),
    ("slurm", "hydra_plugins.hydra_submitit_launcher", "ArrayLauncher"),
    ("ray", "ray", "RayLauncher"),
)


def check(node: Any) -> None:
    """Refuses a launcher that is not installed, or a wrong number of jobs in step.

    Args:
        node: the config under hydra.launcher.

    Raises:
        ConfigError: naming the key.
    """
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise ConfigError(f"hydra.launcher={node}: expected a launcher with its _target_. Set hydra/launcher=OPTION.")
    target = str(node.get("_target_"))
    for extra, package, name in EXTRAS:
        if name in target and find_spec(package) is None:
            raise ConfigError(f"hydra.launcher._target_={target}: not installed. pip install 'curvexp[{extra}]'")
    if "RayLauncher" in target:
        cluster.check(node)
    most = node.get("max_batch")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(
            f"hydra.launcher.max_batch={most}: expected a positive integer, or null. Change hydra.launcher.max_batch."
        )
