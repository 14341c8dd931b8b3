"""The options of the group `track`."""

from collections.abc import Sequence

from curvexp.errors import ConfigError
from curvexp.numeric import is_number
from curvexp.track.tracker import Tracker
from curvexp.track.wandb_run import WandbRun
from curvexp.track.wandb_settings import MODES


def off() -> Tracker:
    """Tracks nothing."""
    return Tracker()


def wandb(
    *,
    project: str = "curvexp",
    mode: str = "auto",
    entity: str | None = None,
    tags: Sequence[str] = (),
    timeout: float = 15.0,
    artifact: bool = False,
) -> Tracker:
    """Weights & Biases: every scalar against the step, the eigenvalues as histograms, config and summary.

    Args:
        project, entity, tags: as W&B names them.
        mode: `auto` is what the environment variable WANDB_MODE says, else online where an API key is configured, else offline;
            `online` demands a key; `offline` writes into <run folder>/wandb, for `wandb sync` later; `disabled` tracks nothing.
        timeout: seconds to wait for the server when a run starts and when it ends. A run that cannot start online goes on offline.
        artifact: whether the run's files are kept in W&B too, as an artifact of type `run`.

    Raises:
        ConfigError: a value is wrong. That a key is missing is found by `check`.
    """
    if mode not in MODES:
        raise ConfigError(f"track.mode={mode}: expected one of {', '.join(MODES)}. Change track.mode.")
    if not isinstance(project, str) or not 0 < len(project) <= 128 or set(project) & set("/\\#?%:"):
        raise ConfigError(
            f"track.project={project}: expected 1 to 128 characters, none of / \\ # ? % : among them. Change track.project."
        )
    if isinstance(tags, str) or not all(isinstance(tag, str) and 0 < len(tag) <= 64 for tag in tags):
        raise ConfigError(f"track.tags={tags}: expected a list of texts of 1 to 64 characters. Change track.tags.")
    if not is_number(timeout) or not 0 < timeout <= 3600:
        raise ConfigError(f"track.timeout={timeout}: expected seconds, above 0 and up to 3600. Change track.timeout.")
    if not isinstance(artifact, bool):
        raise ConfigError(f"track.artifact={artifact}: expected true or false. Change track.artifact.")
    if mode == "disabled":
        return Tracker()
    return WandbRun(mode, {"project": project, "entity": entity, "tags": list(tags)}, float(timeout), artifact)
