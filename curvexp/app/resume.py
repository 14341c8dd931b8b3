"""Going on with a run from its folder: what is kept for it, what may be changed, and what a stranger's folder may not do."""

import math
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curvexp.app import keys
from curvexp.errors import ConfigError
from curvexp.store import FILES, read_object

ALLOWED = ("steps", "target", "track", "sinks", "checkpoint")  # keys that a resumed run may change
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
FORMS = (".yaml", ".json", ".jsonl", ".csv", ".html")  # how the files end that are written
READERS = ("load", "fromfile")  # of jax.numpy: they read files, the first of them pickles
CHECKPOINT_FORM = 2  # of what a checkpoint holds; raised where a checkpoint made before could not be gone on from
LARGEST_SWEEP = 2**20  # bytes of a multirun.yaml that is still read
DEEPEST = 50  # levels of it
ALL = "*"  # as `trust`: every package; what a launcher says that starts a job of this very command again
ENDED = ("completed", "diverged", "failed", "skipped")  # what a sweep does not run again unless `retry` names it


class Kept(NamedTuple):
    """What a checkpoint gives back: the training's snapshot, arrays that the job kept, and its plain facts."""

    snapshot: Any
    arrays: dict[str, Any]
    facts: dict[str, Any]


def keep(run: Path, snapshot: Any, arrays: Mapping[str, Any], facts: Mapping[str, Any], *, most: int) -> None:
    """Writes a checkpoint of a training's snapshot.

    Args:
        arrays, facts: what the job keeps besides. most: checkpoints that stay.

    Raises:
        TypeError: the probe's state is of no kind that can be kept. OSError, ValueError: it could not be written.
    """
    import jax
    import numpy as np

    from curvexp.app import checkpoint

    state, blocks = snapshot.state, snapshot.losses[: snapshot.blocks]
    rest = {
        "opt_state": jax.tree.leaves(state.opt_state),
        "step": state.step,
        "loss": state.loss,
        "gradient": state.gradient,
        "order": jax.tree.leaves(state.order),
        "key": jax.random.key_data(state.key),
    }
    tree = {
        "params": state.params,
        "state": rest,
        "probe_state": snapshot.probe_state,
        "past": snapshot.past._asdict(),
        "losses": np.concatenate(blocks) if blocks else np.zeros(0),
        "kept": dict(arrays),
    }
    first, hyper = float(snapshot.first), {name: float(value) for name, value in snapshot.hyper.items()}
    reached = None if snapshot.reached is None else int(snapshot.reached)
    facts = {**facts, "hyper": hyper, "first": first, "reached": reached, "form": CHECKPOINT_FORM}
    checkpoint.save(run, int(state.step), tree, facts, params=state.params, keep=most)


def last(
    run: Path, problem: Any, optimizer: Any, *, batch_size: int | None, note: Callable[[str], None] = print
) -> Kept | None:
    """The last checkpoint that is whole and whose records are there, or None; those after it are removed, and that is said.

    Args:
        note: is told, in a sentence, of every checkpoint that cannot be used.
    """
    from curvexp.app import checkpoint

    for step in reversed(checkpoint.steps(run)):
        try:
            found = _restored(run, step, problem, optimizer, batch_size)
        except checkpoint.Damaged as error:
            note(f"the checkpoint of step {step} cannot be used, the one before it is taken: {error}")
            continue
        checkpoint.remove(run, after=step)
        return found
    checkpoint.remove(run)
    return None


def _restored(run: Path, step: int, problem: Any, optimizer: Any, batch_size: int | None) -> Kept:
    import jax
    import numpy as np

    from curvexp.app import checkpoint
    from curvexp.probe.ledger import Past
    from curvexp.record import Outcome
    from curvexp.training import Snapshot, State, template

    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    found = checkpoint.restore(run, step, params=shapes)
    try:
        facts, tree = found.facts, found.tree
        if facts.get("form") != CHECKPOINT_FORM:
            raise checkpoint.Damaged("another version of curvexp made it")
        for name in FILES:
            size = facts["sizes"].get(name, 0)
            if size and not _ends_a_line(run / name, size):
                raise checkpoint.Damaged(f"{name} lacks records that it counts on")
        hyper = {str(name): float(value) for name, value in facts["hyper"].items()}
        wanted = template(problem, optimizer._replace(hyper=hyper), batch_size=batch_size)
        rest = tree["state"]
        key = jax.random.wrap_key_data(rest["key"])
        state = State(
            tree["params"],
            _like(wanted.opt_state, rest["opt_state"]),
            rest["step"],
            rest["loss"],
            rest["gradient"],
            _like(wanted.order, rest["order"]),
            key,
        )
        forms = [(np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(state)]
        if forms != [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(wanted)]:
            raise checkpoint.Damaged("its arrays are not those of this problem and optimizer")
        blocks = [np.asarray(tree["losses"], np.float64)] if len(tree["losses"]) else []
        first, reached = float(facts["first"]), facts["reached"]
        if facts.get("outcome") is not None:
            Outcome(**facts["outcome"])  # has its fields
        past = Past(**tree["past"])
        snapshot = Snapshot(state, hyper, tree["probe_state"], past, blocks, len(blocks), first, reached)
        return Kept(snapshot, tree["kept"], facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise checkpoint.Damaged(f"{type(error).__name__}: {error}") from error


def _like(shapes: Any, leaves: Sequence[Any]) -> Any:
    import jax

    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _ends_a_line(path: Path, size: int) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"
    except OSError:
        return False


# ---- what a folder says -----------------------------------------------------------------------------------------------------------


def recorded(run: Path) -> dict[str, Any]:
    """The config that a run was recorded under.

    Raises:
        ConfigError: there is none that can be read.
    """
    found = read_object(run / "config.json")
    if found is None:
        what = "a sweep; add -m" if (run / "multirun.yaml").exists() else "a run's folder, with its config.json"
        raise ConfigError(
            f"resume={run}: expected {'a run; this is ' if 'sweep' in what else ''}{what}. Change resume."
        )
    return found


def summary(run: Path) -> dict[str, Any]:
    """What a run's summary says; empty where there is none that can be read."""
    return read_object(run / "summary.json") or {}


def check_files(folder: Path) -> None:
    """Refuses a folder to go on in that holds a link to elsewhere, or what is neither file nor folder: all that is written stays in it.

    Raises:
        ConfigError: naming the file.
    """
    root, waiting = os.path.realpath(folder), [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = list(entries)
        except OSError as error:
            raise ConfigError(
                f"resume={folder}: {error.filename}: cannot be listed ({error.strerror}). Change resume."
            ) from error
        for entry in found:
            if entry.is_symlink():
                held = os.path.realpath(entry.path).startswith(root + os.sep)
            else:
                held = entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
                waiting += [entry.path] * entry.is_dir(follow_symlinks=False)
            job = entry.name.isdecimal() and os.path.dirname(entry.path) == str(folder)
            if entry.is_dir() == entry.name.endswith(FORMS) and (job or entry.name == ".hydra" or entry.is_dir()):
                what, wanted = ("folder", "file") if entry.is_dir() else ("file", "folder")
                name = os.path.relpath(entry.path, folder)
                raise ConfigError(f"resume={folder}: {name} is a {what}; expected a {wanted} of this name. Remove it.")
            if not held:
                what = "a link out of the folder" if entry.is_symlink() else "neither a file nor a folder"
                raise ConfigError(
                    f"resume={folder}: {os.path.relpath(entry.path, folder)} is {what}; a resumed run writes into its own folder alone. "
                    "Remove it, or copy the folder without it."
                )


def sweep_overrides(sweep: Path) -> list[str]:
    """The overrides that a sweep was called with, those of Hydra itself aside: a stranger's launcher or callback is not started.

    Raises:
        ConfigError: there are none that can be read, or one of them asks for something of this machine.
    """
    try:
        task = _plain_yaml(sweep / "multirun.yaml")["hydra"]["overrides"]["task"]
        if not isinstance(task, list) or not all(isinstance(text, str) for text in task):
            raise TypeError("its overrides are no texts")
        return _of_the_experiment(task)
    except Exception as error:  # of YAML and Hydra's grammar
        raise ConfigError(
            f"resume={sweep}: expected a sweep's folder, with its multirun.yaml ({type(error).__name__}: {_line(error)}). "
            "Change resume, or give the sweep's own overrides again."
        ) from error


def _of_the_experiment(task: Sequence[str]) -> list[str]:
    """Those of a folder's overrides that set our own keys.

    Raises:
        ValueError: a resolver, such as that of the environment, is called. HydraException: one is no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    kept = []
    for text in task:
        override = OverridesParser.create().parse_override(text)
        key = str(override.key_or_group)
        if key.startswith("hydra") or str(override.package or "").startswith("hydra") or key in keys.CONTROLS:
            continue
        if "${" in text and ":" in text.split("${", 1)[1]:
            raise ValueError(f"{text}: asks for something of this machine")
        kept.append(text)
    return kept


def _plain_yaml(path: Path) -> Any:
    """What a YAML file holds, without aliases, which can make gigabytes of a few lines, and without tags.

    Raises:
        ValueError: it is no such file. YAMLError: it is not YAML. OSError: it cannot be read.
    """
    import yaml

    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST_SWEEP:
        raise ValueError("no plain file of a config's size")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data, deep = path.read_bytes(), 0
    for event in yaml.parse(data, Loader=loader):
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or deep > DEEPEST:
            raise ValueError("it has aliases, tags or too many levels")
    return yaml.load(data, Loader=loader)


def again(sweep: Path) -> list[str]:
    """The overrides by which a launcher starts a job of its sweep once more: it goes on, and its config is this command's own."""
    return [f"resume={quoted(sweep)}", f"trust=['{ALL}']"]


def command(folder: Path, *, sweep: bool, flags: Sequence[str] = (), trust: Sequence[str] = ()) -> str:
    """What a person types to go on with a run or a sweep, quoted for a shell.

    Args:
        flags: such as --config-dir. trust: packages besides curvexp's own that the config names.

    >>> print(command(Path("multirun/a b"), sweep=True, trust=["mylab"]))
    python -m curvexp -m 'resume='"'"'multirun/a b'"'"'' trust=mylab
    """
    plain = re.fullmatch(r"[\w./-]*[A-Za-z_/-][\w./-]*", str(folder), re.ASCII)
    words = [*flags, *["-m"] * sweep, f"resume={folder if plain else quoted(folder)}"]
    if trust:
        words.append(f"trust={trust[0]}" if len(trust) == 1 else f"trust=[{','.join(trust)}]")
    return shlex.join(["python", "-m", "curvexp", *words])


def of_sweep(config: Any, trust: Sequence[str] = ()) -> str:
    """`command` for the sweep that Hydra runs by this config; `trust` names packages that its jobs need besides."""
    runtime, flags = config.hydra.runtime, []
    for source in runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", _short(Path(str(source.path)))]
    if config.hydra.job.config_name != "config":
        flags += ["--config-name", str(config.hydra.job.config_name)]
    return command(Path(_short(Path(str(config.hydra.sweep.dir)))), sweep=True, flags=flags, trust=trust)


def _short(path: Path) -> str:
    """The path from here where it lies below."""
    found = os.path.relpath(path)
    return str(path.absolute()) if found.split(os.sep)[0] == os.pardir else found


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


def quoted(path: Path) -> str:
    """A path as the value of an override."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


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


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
