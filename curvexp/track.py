"""Where a run is shown besides its own files: Weights & Biases, or nowhere.

In W&B a chart stands in the section before the slash of its key: loss/loss, curvature/lambda_max, theory/threshold, timing/seconds;
`quantities` tells which. The summary has the keys of summary.json, without sections, for the columns of the runs' table.

The files never depend on it: whatever W&B raises is told once, and the run goes on without it. wandb loads when a run is tracked.
"""

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curvexp.console import visible
from curvexp.errors import ConfigError
from curvexp.numeric import is_number
from curvexp.quantities import QUANTITIES, Quantity, section
from curvexp.record import Record
from curvexp.store import secrets

MODES = ("auto", "online", "offline", "disabled")
VARIABLE_MODES = {  # what the variable WANDB_MODE may say, two of them in older words of W&B's
    **{mode: mode for mode in ("online", "offline", "disabled", "shared")},
    **{"dryrun": "offline", "run": "online"},
}
EXIT_CODES = {"failed": 1, "interrupted": 130}  # any other ending is a result, and W&B shows such a run as finished
LOGIN = "Run `wandb login`, or set the environment variable WANDB_API_KEY"

SUMMARIES = {  # key: what of the scalar stands in W&B's summary besides the values of summary.json
    f"{quantity.section}/{quantity.name}": f"{quantity.extreme},last" for quantity in QUANTITIES if quantity.extreme
}
STABILITY = "curvature/sharpness_and_threshold"
SHARE = 0.03  # of the loop's time that W&B may take while it is not BEHIND records behind: what it does beside the loop costs as much again
BEHIND = 1000
ARTIFACT = ("config.json", "summary.json", "metrics.jsonl", "spectrum.jsonl", "landscape.json", "traceback.txt")

log = logging.getLogger(__name__)


def off() -> "Tracker":
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
) -> "Tracker":
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
    return _Wandb(mode, {"project": project, "entity": entity, "tags": list(tags)}, float(timeout), artifact)


class Tracker:
    """One run's life in a tracker: `check` before any compute, `start`, `append` each record, `finish`. This one tracks nothing."""

    identity: dict[str, Any] | None = None  # what a resumed run goes on by: id, mode, group
    address: str | None = None  # where the run can be looked at, once it started: a page, or a folder

    def check(self) -> None:
        """Raises ConfigError where the run could not be tracked as asked; touches no network."""

    def start(
        self,
        *,
        config: Mapping[str, Any],
        folder: Path,
        group: str | None,
        job_type: str | None,
        name: str,
        tags: Sequence[str] = (),
        own: Sequence[Quantity] = (),
        before: Any = None,
    ) -> None:
        """Begins the run; group and job_type are a sweep's, folder is the run's own; tags come to those of the config.

        own: descriptions of scalars that are not curvexp's.

        before: the identity of the part of this run that was interrupted. Online it goes on under its id, offline in a second part that
        names the first, in the same group.
        """

    def memory(self) -> Any:
        """What `remember` takes, in plain JSON."""

    def remember(self, memory: Any) -> None:
        """Stands where the interrupted part of this run stood."""

    def append(self, record: Record) -> None:
        """Shows a record."""

    def show(self, figures: Mapping[str, Any]) -> None:
        """Shows Plotly figures by key, such as curvature/spectrum, at the step of the last record."""

    def finish(self, *, summary: Mapping[str, Any], status: str) -> None:
        """Ends the run; status is one of the store's ENDINGS."""


class _Wandb(Tracker):
    """A W&B run."""

    beside = False  # whether runs of this process go on while another starts
    unreachable = False  # the server was not reached: the process's later runs do not wait for it again

    def __init__(self, mode: str, names: dict[str, Any], timeout: float, artifact: bool = False) -> None:
        self.mode, self.names, self.timeout, self.artifact = mode, names, timeout, artifact
        self.run: Any = None
        self.own: Sequence[Quantity] = ()
        self.folder = Path()
        self.step = 0
        self.stability: dict[str, list[tuple[int, float]]] = {"sharpness": [], "threshold": []}
        self.waiting: deque[tuple[dict[str, Any], int]] = deque()  # (line, step) of records that W&B has not got yet
        self.begun, self.spent = time.perf_counter(), 0.0

    def check(self) -> None:
        given = os.environ.get("WANDB_MODE")
        if given is not None and given not in VARIABLE_MODES:
            raise ConfigError(
                f"WANDB_MODE={visible(given)}: expected online, offline or disabled, or no such variable. Change the environment variable "
                "WANDB_MODE."
            )
        mode = VARIABLE_MODES[given] if self.mode == "auto" and given else self.mode
        if mode != "disabled":
            _check_environment()
        if mode in ("offline", "disabled"):
            self.mode = mode
            return
        key = _has_key()
        if mode == "online" and not key:
            raise ConfigError(f"track.mode=online: no W&B API key is configured. {LOGIN}; or choose track.mode=auto.")
        self.mode = "online" if key else "offline"

    def start(
        self,
        *,
        config: Mapping[str, Any],
        folder: Path,
        group: str | None,
        job_type: str | None,
        name: str,
        tags: Sequence[str] = (),
        own: Sequence[Quantity] = (),
        before: Any = None,
    ) -> None:
        self.own = own
        self.check()
        if self.mode == "disabled":
            return
        self.folder = folder
        names = {**self.names, "tags": list(dict.fromkeys([*self.names["tags"], *(tag[:64] for tag in tags)]))}
        run = {**names, "config": dict(config), "dir": str(folder), "group": group, "job_type": job_type}
        run["name"] = name[:128]
        before = before if isinstance(before, dict) and isinstance(before.get("id"), str) else None
        if before:
            run["group"] = group or before.get("group")
            if before.get("mode") == self.mode == "online":
                run |= {"id": before["id"], "resume": "allow"}
            else:
                run["config"] |= {"continues": before["id"]}
                run["name"] = f"{name[:117]} (continued)"
        elif self.mode == "offline" and run["group"] is None:
            run["group"] = f"{folder.parent.name}/{folder.name}"  # where a second part would stand beside it
        if self.mode == "online" and not _Wandb.unreachable:
            try:
                self._init(run, "online")
                return
            except Exception as error:
                _Wandb.unreachable = True
                log.warning(
                    "W&B cannot be reached, runs are kept offline in %s: %s", visible(folder / "wandb"), _first(error)
                )
        try:
            self._init(run, "offline")
        except Exception as error:
            self._give_up(error)

    def memory(self) -> Any:
        self._log_all()  # a run that goes on from here repeats no record before
        return {"stability": self.stability}

    def remember(self, memory: Any) -> None:
        if isinstance(memory, dict) and isinstance(memory.get("stability"), dict):
            self.stability |= {key: [(int(a), float(b)) for a, b in line] for key, line in memory["stability"].items()}

    def append(self, record: Record) -> None:
        if self.run is None:
            return
        self.waiting.append((_logged(record, self.own), record.step))
        while self.waiting and (len(self.waiting) > BEHIND or self.spent <= SHARE * (time.perf_counter() - self.begun)):
            self._log()
        self.step = record.step
        for key, line in self.stability.items():
            value = record.scalars.get(key)
            if value is not None and np.isfinite(value) and (key == "sharpness" or record.reading is not None):
                line.append((record.step, float(value)))

    def _log(self) -> None:
        """Hands W&B the record that waits longest."""
        (values, step), begun = self.waiting.popleft(), time.perf_counter()
        try:
            self.run.log(values, step=step, commit=True)  # now: W&B keeps a line back else
        except Exception as error:
            self._give_up(error)
        self.spent += time.perf_counter() - begun

    def _log_all(self) -> None:
        while self.waiting:
            self._log()

    def show(self, figures: Mapping[str, Any]) -> None:
        self._log_all()
        if self.run is None:
            return
        import wandb as client

        try:
            panels: dict[str, Any] = {key: client.Plotly(figure) for key, figure in figures.items()}
            lines = {key: line for key, line in self.stability.items() if line}
            if len(lines) == 2:
                panels[STABILITY] = client.plot.line_series(
                    xs=[[step for step, _ in line] for line in lines.values()],
                    ys=[[value for _, value in line] for line in lines.values()],
                    keys=list(lines),
                    title="Sharpness and its threshold",
                    xname="step",
                )
            if panels:
                self.run.log({"step": self.step, **panels}, step=self.step + 1, commit=True)  # a line of its own
        except Exception as error:
            self._give_up(error)

    def finish(self, *, summary: Mapping[str, Any], status: str) -> None:
        self._log_all()
        if self.run is None:
            return
        try:
            self.run.summary.update({**summary, "status": status})
            if status != "completed":
                self.run.tags = (*(self.run.tags or ()), status)
            if self.artifact:
                self._keep()
            self.run.finish(exit_code=EXIT_CODES.get(status, 0))
        except Exception as error:
            self._give_up(error)
        self.run = None

    def _init(self, run: dict[str, Any], mode: str) -> None:
        import wandb as client

        if (
            self.mode == "offline"
        ):  # W&B reports its own errors and timings to its server, also of a run that is offline
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        others = "create_new" if _Wandb.beside else "finish_previous"
        self.run = client.init(**run, mode=mode, reinit=others, settings=_settings(self.timeout))  # type: ignore[arg-type]
        self.identity = {"id": self.run.id, "mode": mode, "group": self.run.group or None}
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        for key, kinds in SUMMARIES.items():
            self.run.define_metric(key, step_metric="step", summary=kinds)
        self.address = self.run.url if mode == "online" else str(Path(self.run.dir).parent)

    def _keep(self) -> None:
        """The run's files as an artifact."""
        import wandb as client

        kept = client.Artifact(f"run-{self.run.id}", type="run")
        for name in ARTIFACT:
            if (self.folder / name).is_file():
                kept.add_file(str(self.folder / name))
        self.run.log_artifact(kept)

    def _give_up(self, error: Exception) -> None:
        log.warning("W&B failed, the run goes on without it; its own files are whole: %s", _first(error))
        run, self.run = self.run, None
        self.waiting.clear()
        _leave(run)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within, a run that starts leaves those that go on as they are."""
    _Wandb.beside = True
    try:
        yield
    finally:
        _Wandb.beside = False


def _leave(run: Any) -> None:
    """Ends W&B's service process, which may be what broke: the next run starts one of its own, and the exit of ours is quiet."""
    import wandb as client

    for end in (run.finish if run is not None else lambda: None, client.teardown):
        try:
            end()
        except Exception as error:
            log.debug("W&B did not end in order: %s", _first(error))


def _settings(timeout: float) -> Any:
    """What W&B is not to do: print, run git, watch the machine, list packages, wait for ever."""
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
    said = str(errors()[0]["msg"]) if callable(errors) else _first(error)
    return visible(said).rstrip(".")


def _has_key() -> bool:
    """Whether W&B finds a key in the environment or its files; asks neither the person nor the server."""
    import wandb as client

    try:
        client.setup(settings=client.Settings(silent=True))
        return client.login(prompt=False, verify=False)
    except client.errors.AuthenticationError as error:
        raise ConfigError(f"track: {_first(error)} {LOGIN}; or choose track.mode=offline.") from error
    except Exception as error:  # what its files of settings say, or that they cannot be read
        raise ConfigError(
            f"track: W&B does not start: {_said(error)}. Mend its settings, or choose track=off."
        ) from error


def _logged(record: Record, own: Sequence[Quantity] = ()) -> dict[str, Any]:
    """What W&B gets of a record, each in its section: seconds, its scalars, the eigenvalues as a histogram, and single numbers of what else
    was measured, such as curvature/trace.mean; the step has none, for all are drawn against it. Blocks have a section of their own.

    Of the ledger the scalars are there already; its columns stand in the run's files.
    """
    values: dict[str, Any] = {"seconds": record.seconds, **record.scalars}
    blocks: dict[str, float] = {}
    if record.reading is not None:
        import wandb as client

        if len(record.reading.eigenvalues):
            values["eigenvalues"] = client.Histogram(np_histogram=_histogram(record.reading.eigenvalues))
        for key, value in record.reading.extra.items():
            if key in ("ledger", "operator"):  # the operator stands in the config
                continue
            if key == "blocks":
                blocks |= {f"blocks/{name}/lambda_max": block["eigenvalues"][-1] for name, block in value.items()}
                continue
            for name, item in value.items() if isinstance(value, Mapping) else [("", value)]:
                if np.ndim(item) == 0 and not (name and isinstance(item, str)):
                    values[f"{key}.{name}".rstrip(".")] = item
    named = {f"{section(key, own)}/{key}": value for key, value in values.items() if value is not None}
    return {"step": record.step, **named, **blocks}


def _histogram(values: np.ndarray, bins: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges over the finite values; values that differ by rounding alone share a bin."""
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    margin = max(1e-9 * max(abs(low), abs(high)), np.finfo(np.float64).tiny * bins)
    if high - low < margin:
        low, high = low - margin, high + margin
    return np.histogram(values, bins=bins, range=(low, high))


def _first(error: BaseException) -> str:
    """The first line of an error."""
    return visible((str(error).strip() or type(error).__name__).splitlines()[0])
