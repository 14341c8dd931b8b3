"""All that is used of Hydra's and OmegaConf's private parts, each behind a name of ours; no other module imports them.

Each has a comment on why there is no public way. A new version of Hydra may change them, so its version is checked on import.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra

OLDEST, TOO_NEW = (1, 3, 2), (1, 4)  # as in pyproject.toml


def check_version(found: str) -> None:
    """Refuses a version of Hydra whose private parts may be others.

    Raises:
        ImportError: naming the version, and what to install.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if not OLDEST <= numbers < TOO_NEW:
        raise ImportError(
            f"hydra-core {found} is installed; expected >=1.3.2,<1.4, whose private parts curvexp uses: "
            "pip install 'hydra-core>=1.3.2,<1.4'"
        )


check_version(hydra.__version__)

# ruff: noqa: E402
from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from omegaconf._utils import is_float, yaml_is_bool

# Hydra executes the modules of its plugins when it first looks for them. Look before: a class made of its sweeper earlier would inherit
# from a second copy of it.
Plugins.instance()
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper as BasicSweeper


def params_of(sweeper: BasicSweeper) -> list[str]:
    """The overrides of hydra.sweeper.params, as Hydra's own sweeper reads them; there is no public way to them."""
    return sweeper._parse_config()


def register(plugins: Sequence[type[Plugin]], package: str) -> None:
    """Makes plugins known to Hydra in this process, under names in this package.

    Hydra has a public `register`, but takes a `_target_` only under a name that begins with hydra_plugins. Such a package of ours would be
    shared with the launchers that people install.
    """
    known = Plugins.instance()
    for plugin in plugins:
        known.register(plugin)
        known.class_name_to_class[f"{package}.{plugin.__name__}"] = plugin


@contextlib.contextmanager
def config_loader(conf: Path, config_dir: str | None) -> Iterator[ConfigLoader]:
    """Hydra's loader of config files as `hydra.main` makes it: what --config-dir names comes before `conf`.

    `hydra.initialize_config_dir` has one folder alone.
    """
    path = create_config_search_path(str(conf))
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="curvexp", config_search_path=path)
    try:
        yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().clear()


def overrides_dirname(overrides: Sequence[Override], *, kv_sep: str, item_sep: str, exclude_keys: Sequence[str]) -> str:
    """hydra.job.override_dirname of a job that is not composed by itself; Hydra tells it while it composes, and only then."""
    return get_overrides_dirname(list(overrides), list(exclude_keys), item_sep, kv_sep)


def quoted_in_yaml(text: str) -> bool:
    """Whether OmegaConf writes a text in quotes: it would be read as a number or a boolean. OmegaConf tells it in its own dumper alone."""
    return bool(is_float(text) or yaml_is_bool(text))
