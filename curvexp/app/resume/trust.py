"""Which functions a recorded config may name: a stranger's folder must not run what its reader did not mean to run."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from curvexp.errors import ConfigError

TRUSTED = (
    "curvexp",
    "optax",
    "flax",
    "jax",
)  # packages whose functions a recorded config may name, as far as OPEN has them
OPEN = (  # what of them builds the parts of a run: nothing that reads a file, runs a command line, or calls what a text names
    *("curvexp.problem", "curvexp.preprocess", "curvexp.optim", "curvexp.probe", "curvexp.track", "optax"),
    *("flax.linen", "flax.nnx", "jax.lax", "jax.nn", "jax.numpy", "jax.random", "jax.scipy"),
)
READERS = ("load", "fromfile")  # of jax.numpy: they read files, the first of them pickles
ALL = "*"  # as `trust`: every package; what a launcher says that starts a job of this very command again


def check_targets(config: Any, trust: Sequence[str] | str, *, path: str = "") -> None:
    """Refuses a config that names a function outside of the trusted packages, before anything of it is imported or called.

    An interpolation is refused too: a recorded config has none, and one could name such a function, or a variable of the environment.

    Raises:
        ConfigError: naming the function, or the key.
    """
    trust = [trust] if isinstance(trust, str) else trust
    if ALL in trust:
        return
    if isinstance(config, str) and "${" in config:
        raise ConfigError(
            f"{path}={config}: an interpolation; expected a value, as a recorded config has. Change {path}."
        )
    if isinstance(config, list):
        for number, part in enumerate(config):
            check_targets(part, trust, path=f"{path}.{number}")
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        here = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            _check_target(here, value, trust)
        else:
            check_targets(value, trust, path=here)


def _check_target(path: str, target: Any, trust: Sequence[str]) -> None:
    from hydra.utils import get_object

    package = str(target).split(".", 1)[0]

    def refused(why: str) -> ConfigError:
        return ConfigError(
            f"{path}={target}: {why}; a resumed run calls functions of {', '.join((*TRUSTED, *trust))} only, and of these what builds a "
            f"run's parts. If you know what it does, add trust=[{package}]."
        )

    if not isinstance(target, str) or package not in (*TRUSTED, *trust):
        raise refused("not a trusted package's")
    if package not in trust and not (target.startswith(tuple(f"{module}." for module in OPEN)) and "._" not in target):
        raise refused("no part of a run")
    try:
        found = get_object(target)
    except Exception:
        return  # said by config's own check, in its words
    home = getattr(found, "__module__", None) or type(found).__module__
    if home.split(".", 1)[0] not in (*TRUSTED, *trust, "jaxlib"):
        raise refused(f"it leads to {home}")
    if package not in trust and (target.rpartition(".")[0] not in sys.modules or _reads_files(found)):
        raise refused("no part of a run")


def _reads_files(found: Any) -> bool:
    import jax.numpy

    return any(found is getattr(jax.numpy, name, None) for name in READERS)


def packages(config: Any) -> list[str]:
    """The packages that `trust` must name for a run of this config to be gone on with."""
    found: list[str] = []
    for path, target in _targets(config, ""):
        package = str(target).split(".", 1)[0]
        if package not in found:
            try:
                _check_target(path, target, found)
            except ConfigError:
                found.append(package)
    return found


def _targets(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every _target_ of a config, with its key."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        if key == "_target_":
            yield here, value
        else:
            yield from _targets(value, here)
