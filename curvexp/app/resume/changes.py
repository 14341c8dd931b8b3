"""What of a run may change when it goes on, and what of it is still to do."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curvexp.app import keys
from curvexp.app.resume.folders import recorded, summary
from curvexp.errors import ConfigError

ALLOWED = ("steps", "target", "track", "sinks", "checkpoint", "keep_params")  # keys that a resumed run may change
ENDED = ("completed", "diverged", "failed", "skipped")  # what a sweep does not run again unless `retry` names it


def check_same(config: Mapping[str, Any], run: Path) -> None:
    """Refuses to go on in the folder of a run of another config.

    Raises:
        ConfigError: naming the first key that differs.
    """
    now, before = _leaves(experiment(config)), _leaves(experiment(complete(recorded(run))))
    for key in [*before, *now]:
        if key not in before and _is_default(config, key, now[key]):
            continue  # it has come since the run was recorded, and changes nothing
        if not _equal(now.get(key, _NONE), before.get(key, _NONE)):
            raise ConfigError(
                f"{key}={now.get(key, 'absent')}: the run in {run} was recorded with {before.get(key, 'absent')}; a resumed run may "
                f"change {', '.join(ALLOWED)} only. Change {key}, or hydra.sweep.dir."
            )


def _is_default(config: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether a value is the default of the function that its part of the config names."""
    *path, name = key.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or "_target_" not in node:
        return False
    parameter = keys.parameters_of(key, node["_target_"]).get(name)
    return parameter is not None and parameter.default is not parameter.empty and bool(parameter.default == value)


def check_steps(config: Mapping[str, Any], run: Path) -> None:
    """Refuses fewer steps than the run's last checkpoint has.

    Raises:
        ConfigError: naming the key.
    """
    from curvexp.app import checkpoint

    steps, made = config["steps"], max(checkpoint.steps(run), default=0)
    if steps < made or (steps == made and recorded(run).get("steps") != steps):
        raise ConfigError(f"steps={steps}: the run in {run} stands at step {made}; expected more. Change steps.")


def experiment(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that a resumed run may not change."""
    return {key: value for key, value in config.items() if key not in (*ALLOWED, *keys.CONTROLS)}


def still_to_do(config: Mapping[str, Any], run: Path, retry: Sequence[str]) -> str | None:
    """None where the run in this folder has ended as it should; else `anew`, or `on` for one that goes on from its last checkpoint."""
    found = summary(run)
    status = found.get("status")
    if status in retry:
        return "anew"
    if status == "completed" and found.get("reason") is None and isinstance(found.get("steps"), int):
        return "on" if found["steps"] < config["steps"] else None
    return None if status in ENDED else "on"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


_NONE = object()


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what has come to conf/config.yaml since it was recorded."""
    return {**keys.defaults(), **config}
