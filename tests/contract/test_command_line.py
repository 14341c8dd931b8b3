"""What holds of every key, every stream and every option of the command line."""

import copy
import io
import re

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from curvexp import console
from curvexp.app import build, keys
from curvexp.errors import ConfigError

CHOSEN = (
    ("optim=adam", "probe=density"),
    ("optim=momentum", "probe=exact"),
    ("optim=nesterov",),
    ("optim=rmsprop",),
    ("optim=adagrad",),
    ("optim=adamw", "optim/schedule=cosine"),
    ("optim/schedule=warmup_cosine", "steps=3000"),
    ("problem=bowl",),
    ("problem=rosenbrock",),
    ("problem=least_squares", "preprocess=batchnorm", "problem/data=gaussian"),
    ("problem=mlp",),
    ("problem=logistic",),
    ("track=wandb",),
)


def numbers(node, path=()):
    """Path and value of every number of a config."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from numbers(value, (*path, key))
    if isinstance(node, int | float) and not isinstance(node, bool):
        yield path, node


@pytest.mark.parametrize("chosen", CHOSEN, ids=" ".join)
def test_a_number_that_comes_as_text_is_refused_as_text(chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with initialize_config_dir(version_base="1.3", config_dir=str(keys.conf_folder())):
        plain = keys.plain(compose("config", overrides=list(chosen)))
    plain = {key: value for key, value in plain.items() if key not in keys.CONTROLS}
    groups = {word.split("=")[0].split("/")[0] for word in chosen}
    tried = 0
    for path, value in numbers(plain):
        if path[0] not in groups and chosen != CHOSEN[0]:
            continue  # a key of the defaults, tried once
        changed = copy.deepcopy(plain)
        node = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = str(value)
        with pytest.raises(ConfigError, match="is text, as is every variable of the environment"):
            build.build(changed)
        tried += 1
    assert tried


@pytest.mark.parametrize(
    "chosen, key, text",
    [
        ([], "target", "null"),
        ([], "keep_params", "true"),
        ([], "problem.eigenvalues", "[1, 2]"),
        (["problem=mlp"], "problem.hidden", "[3]"),
        (["problem=mlp", "probe=blocks"], "probe.density", "False"),
        ([], "checkpoint", "{every: 3}"),
    ],
)
def test_a_list_a_mapping_null_and_true_that_come_as_text_are_refused_as_text(chosen, key, text, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with initialize_config_dir(version_base="1.3", config_dir=str(keys.conf_folder())):
        plain = keys.plain(compose("config", overrides=chosen))
    changed = {name: value for name, value in plain.items() if name not in keys.CONTROLS}
    *above, last = key.split(".")
    node = changed
    for name in above:
        node = node[name]
    assert last in node
    node[last] = text
    with pytest.raises(ConfigError, match=f"{re.escape(key)}='{re.escape(text)}' is text"):
        build.build(changed)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["ascii", "cp1252", "latin-1", "cp437", "utf-8", "koi8-r", "cp932"]))
def test_any_text_is_printed_on_any_stream(text, encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    shown = console.visible(text)
    console.Stream(file=file, width=1000, highlight=False).print(console.printable(text), "κ 1 → 2", soft_wrap=True)
    file.flush()
    written = file.buffer.getvalue().decode(encoding)
    assert console.encodable("κ 1 → 2", encoding) in written
    kept = [letter for letter in shown if letter.isalnum() and console.encodable(letter, encoding) == letter]
    assert all(letter in written for letter in kept)  # what the stream can show stays
