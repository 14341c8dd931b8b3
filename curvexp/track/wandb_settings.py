"""W&B's settings, key and variables: read and checked before a run starts."""

import os
from typing import Any

from curvexp.console import visible
from curvexp.errors import ConfigError
from curvexp.store import secrets

MODES = ("auto", "online", "offline", "disabled")
VARIABLE_MODES = {  # what the variable WANDB_MODE may say, two of them in older words of W&B's
    **{mode: mode for mode in ("online", "offline", "disabled", "shared")},
    **{"dryrun": "offline", "run": "online"},
}
LOGIN = "Run `wandb login`, or set the environment variable WANDB_API_KEY"


def mode_asked(mode: str) -> str:
    """The mode that track.mode asks for: of `auto` what the variable WANDB_MODE says, else online where a key is configured, else offline.

    Raises:
        ConfigError: a variable of W&B's has a wrong value, or track.mode=online finds no key.
    """
    given = os.environ.get("WANDB_MODE")
    if given is not None and given not in VARIABLE_MODES:
        raise ConfigError(
            f"WANDB_MODE={visible(given)}: expected online, offline or disabled, or no such variable. Change the environment variable "
            "WANDB_MODE."
        )
    if mode == "auto" and given:
        mode = VARIABLE_MODES[given]
    if mode != "disabled":
        _check_environment()
    if mode in ("offline", "disabled"):
        return mode
    key = has_key()
    if mode == "online" and not key:
        raise ConfigError(f"track.mode=online: no W&B API key is configured. {LOGIN}; or choose track.mode=auto.")
    return "online" if key else "offline"


def settings_of(timeout: float) -> Any:
    """W&B's settings: it is not to print, run git, watch the machine, list packages, wait for ever."""
    import wandb as client

    return client.Settings(
        silent=True,
        console="off",
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=timeout,
        finish_timeout=timeout,
        finish_timeout_raises=True,
    )


def _check_environment() -> None:
    """Refuses a variable of W&B's with a value that W&B would not take.

    Raises:
        ConfigError: naming the variable.
    """
    given = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    if not given:
        return
    import wandb as client

    for name, value in given.items():
        try:
            client.Settings().update_from_env_vars({name: value})
        except Exception as error:  # of pydantic, and W&B's own
            shown = "its value" if secrets.NAMED.search(name) else value
            raise ConfigError(
                f"{name}={shown}: {_said(error)}. Change the environment variable {name}, or choose track=off."
            ) from error


def _said(error: Exception) -> str:
    """What is wrong with a value: pydantic says it in the second line of each of its errors."""
    errors = getattr(error, "errors", None)
    said = str(errors()[0]["msg"]) if callable(errors) else first_line(error)
    return visible(said).rstrip(".")


def has_key() -> bool:
    """Whether W&B finds a key in the environment or its files; asks neither the person nor the server."""
    import wandb as client

    try:
        client.setup(settings=client.Settings(silent=True))
        return client.login(prompt=False, verify=False)
    except client.errors.AuthenticationError as error:
        raise ConfigError(f"track: {first_line(error)} {LOGIN}; or choose track.mode=offline.") from error
    except Exception as error:  # what its files of settings say, or that they cannot be read
        raise ConfigError(
            f"track: W&B does not start: {_said(error)}. Mend its settings, or choose track=off."
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return visible((str(error).strip() or type(error).__name__).splitlines()[0])
