"""The parts of a run, built anew from its folder, for a notebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curvexp.problem import Problem


def load_problem(run: str | Path, *, trust: Sequence[str] = ()) -> "Problem":
    """The problem of a run with its data and its preprocessing, as its config.json tells of it.

    With `curvexp.load_params(run, like=problem.init(key))` anything can be measured where the run ended.

    Args:
        run: its folder.
        trust: packages besides curvexp, optax, flax and jax whose functions the config may name; "*" for all. A folder may be a
            stranger's, and building a problem calls what its config names.

    Raises:
        ConfigError: there is no such run, its config cannot be built, it names a function that is not trusted, or precision=float64 while
            JAX's 64-bit mode is off.
    """
    from curvexp.app import build, resume  # Hydra, which `import curvexp` does not load

    config = resume.complete(resume.recorded(Path(run)))
    parts = {key: config[key] for key in ("problem", "preprocess")}
    resume.check_targets(parts, trust)
    return build.problem_of(config)
