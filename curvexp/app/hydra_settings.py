"""What Hydra does around a job, by its own settings: refused before it writes, where it would stop in the midst of it."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from curvexp.app import keys
from curvexp.errors import ConfigError
from curvexp.store import files

REPORT = "curvexp.app.sweep_end.ReportAtEnd"
OURS = (*files.ALL, files.CHECKPOINTS, "wandb")


def check(composed: DictConfig, *, sweep: bool) -> None:
    """Refuses settings of Hydra's own under which no job would come to be recorded.

    Args:
        composed: the config with Hydra's part. sweep: whether -m was given.

    Raises:
        ConfigError: naming the key.
    """
    mode = _value(composed, "hydra.mode")
    if mode is not None and (mode.name == "MULTIRUN") != sweep:
        raise ConfigError(
            f"hydra.mode={mode.name}: expected {'MULTIRUN beside' if sweep else 'RUN without'} -m. Leave hydra.mode out."
        )
    if _value(composed, "hydra.callbacks.report._target_") != REPORT:
        raise ConfigError(
            f"hydra.callbacks.report: expected {REPORT}, which tells how a sweep ended. Leave hydra.callbacks.report out."
        )
    chdir = _value(composed, "hydra.job.chdir")
    if not (chdir is None or isinstance(chdir, bool)):
        raise ConfigError(f"hydra.job.chdir={chdir}: expected true or false. Change hydra.job.chdir.")
    verbose = _value(composed, "hydra.verbose")
    if not isinstance(verbose, bool | str) and not _all_texts(verbose, list):
        raise ConfigError(f"hydra.verbose={verbose}: expected true, false, or names of loggers. Change hydra.verbose.")
    variables = _value(composed, "hydra.job.env_set")
    if not _all_texts(variables, dict) or any(not name or "=" in name for name in variables):
        raise ConfigError(f"hydra.job.env_set={variables}: expected texts by names. Change hydra.job.env_set.")
    if sweep:
        _check_sweeper(_value(composed, "hydra.sweeper"))


def check_folders(composed: DictConfig, *, sweep: bool) -> None:
    """Refuses folders that cannot be made or written, that hold a run already, or in which the report would not look.

    Raises:
        ConfigError: naming the key.
    """
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    folder = _text(composed, key)
    keys.check_writable(folder, key)
    if sweep:
        with read_write(composed.hydra), open_dict(composed.hydra):
            composed.hydra.job.id, composed.hydra.job.num = "0", 0  # of its first job, as an example
        _check_inside("hydra.sweep.subdir", _text(composed, "hydra.sweep.subdir"))
    elif (Path(folder) / files.METRICS).exists():
        raise ConfigError(
            f"hydra.run.dir={folder}: expected a new folder, and this one holds a run. Choose another hydra.run.dir, remove it, or go on "
            f"with it: resume={folder}"
        )
    if _value(composed, "hydra.output_subdir") is not None:
        beside = _text(composed, "hydra.output_subdir")
        _check_inside("hydra.output_subdir", beside)
        if Path(beside).parts and Path(beside).parts[0] in OURS:
            raise ConfigError(
                f"hydra.output_subdir={beside}: a run's own file has this name; expected another. Change hydra.output_subdir."
            )


def _check_sweeper(node: Any) -> None:
    if not isinstance(node, dict):
        raise ConfigError(f"hydra.sweeper={node}: expected an option of hydra/sweeper. Change hydra.sweeper.")
    most, params = node.get("max_batch_size"), node.get("params")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigError(
            f"hydra.sweeper.max_batch_size={most}: expected a positive integer, or null. Change hydra.sweeper.max_batch_size."
        )
    if not isinstance(params, dict | None):
        raise ConfigError(f"hydra.sweeper.params={params}: expected values by keys. Change hydra.sweeper.params.")


def _check_inside(key: str, folder: str) -> None:
    if os.path.isabs(folder) or os.path.normpath(folder).split(os.sep)[0] == os.pardir:
        raise ConfigError(
            f"{key}={folder}: it leads out of the folder that it belongs to; expected a name. Change {key}."
        )


def _all_texts(value: Any, kind: type) -> bool:
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(part, str) for part in parts)


def _text(composed: DictConfig, key: str) -> str:
    value = _value(composed, key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key}={value}: expected the name of a folder. Change {key}.")
    return value


def _value(composed: DictConfig, key: str) -> Any:
    """A setting in plain Python, its interpolations resolved."""
    try:
        value = OmegaConf.select(composed, key, throw_on_missing=True)
        return (
            OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value
        )
    except Exception as error:  # OmegaConf's, and what a resolver raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"{key}: {lines[0]}. Change {key}.") from error
