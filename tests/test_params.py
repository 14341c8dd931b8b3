"""The parameters that a run ended with: there after any end, the same bits, and refused where they cannot be right."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import call

import curvexp
from curvexp import optim, problem
from curvexp.errors import ConfigError
from curvexp.store import params as files

RUN = [
    "problem=mlp",
    "problem.data.classes=3",
    "problem.hidden=[4]",
    "optim.lr=0.01",
    "probe=off",
    "landscape=off",
    "record_every=5",
]


def network():
    return problem.mlp(data=problem.data.digits(classes=3), hidden=[4])


def ends(steps, **options):
    *_, last = curvexp.run(network(), optim.sgd(lr=0.01), steps=steps, key=0, record_every=5, **options)
    return last.state.params


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True)
    )


def test_they_are_those_of_the_last_record_by_name_and_in_the_structure_of_others(tmp_path):
    assert call(*RUN, "steps=12", f"hydra.run.dir={tmp_path}") == 0
    true = ends(12)
    found = curvexp.load_params(tmp_path)
    assert set(found) == {"Dense_0", "Dense_1"}
    np.testing.assert_array_equal(found["Dense_0"]["kernel"], true["Dense_0"]["kernel"])
    same(curvexp.load_params(tmp_path, like=network().init(jax.random.key(5))), jax.tree.map(jnp.asarray, true))
    with np.load(tmp_path / "params.npz", allow_pickle=False) as held:
        assert json.loads(held["about"].tobytes())["step"] == 12


@pytest.mark.parametrize(
    "typed, status, step",
    [
        (["target=1.0", "optim.lr=0.1", "steps=500"], "completed", None),
        (["optim.lr=1e6", "problem.criterion=mse", "steps=500"], "diverged", None),
    ],
)
def test_a_run_that_ends_early_has_them_too(typed, status, step, tmp_path):
    assert call(*RUN, *typed, f"hydra.run.dir={tmp_path}") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == status
    with np.load(tmp_path / "params.npz", allow_pickle=False) as held:
        assert json.loads(held["about"].tobytes())["step"] == summary["steps"] < 500


def test_every_row_of_a_sweep_has_its_own(tmp_path):
    typed = ["-m", *RUN, "hydra/launcher=vmap", "steps=10", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    assert call(*typed) == 0
    first, second = (curvexp.load_params(tmp_path / name) for name in "01")
    assert not np.array_equal(first["Dense_0"]["kernel"], second["Dense_0"]["kernel"])
    # two rows of one program sum in another order than one alone: some eps over ten steps
    np.testing.assert_allclose(first["Dense_0"]["kernel"], ends(10)["Dense_0"]["kernel"], rtol=1e-5, atol=1e-6)


def test_a_resumed_run_has_those_of_its_new_end_and_none_are_kept_where_that_is_asked_for(tmp_path):
    assert call(*RUN, "steps=10", "checkpoint.every=10", f"hydra.run.dir={tmp_path}") == 0
    assert call(f"resume={tmp_path}", "steps=20") == 0
    same(curvexp.load_params(tmp_path, like=ends(20)), jax.tree.map(jnp.asarray, ends(20)))
    assert call(*RUN, "steps=5", "keep_params=false", f"hydra.run.dir={tmp_path}/off") == 0
    with pytest.raises(ConfigError, match="keep_params=false"):
        curvexp.load_params(tmp_path / "off")
    assert call(*RUN, "steps=5", "keep_params=no thanks", f"hydra.run.dir={tmp_path}/no") == 2


@pytest.mark.parametrize(
    "tree",
    [
        np.arange(3.0),
        {"a/b": np.ones(2), "a": {"c": np.zeros((2, 0))}},
        [np.ones(1), (np.zeros(2), {"x": np.int32(3)})],
        {"half": jnp.array([1.5, -2.0], jnp.bfloat16), "about": np.float16(0.1)},
    ],
)
def test_any_tree_of_arrays_comes_back_in_its_structure(tree, tmp_path):
    leaves = {files.leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    files.save_params(tmp_path, leaves, step=0)
    found = files.load_params(tmp_path, like=tree)
    for left, right in zip(*map(jax.tree.leaves, (found, tree)), strict=True):
        np.testing.assert_array_equal(np.asarray(left, np.float64), np.asarray(right, np.float64))
        assert left.dtype == jnp.asarray(right).dtype


def test_what_is_damaged_or_of_another_model_is_refused_in_words(tmp_path):
    files.save_params(tmp_path, {"a": np.ones(2)}, step=0)
    for like, word in (
        ({"a": np.ones(3)}, "shape"),
        ({"b": np.ones(2)}, "no such leaf"),
        ({}, "1 leaves"),
        (np.ones(2), "no such"),
    ):
        with pytest.raises(ConfigError, match=word):
            curvexp.load_params(tmp_path, like=like)
    whole = (tmp_path / "params.npz").read_bytes()
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "plain.npy", np.ones(3))
    for damaged in (
        whole[:-30],
        b"",
        b"PK",
        *((tmp_path / name).read_bytes() for name in ("pickled.npy", "plain.npy")),
    ):
        (tmp_path / "params.npz").write_bytes(damaged)
        with pytest.raises(ConfigError, match="cannot be read"):
            curvexp.load_params(tmp_path)
    (tmp_path / "params.npz").unlink()
    (tmp_path / "params.npz").symlink_to(tmp_path / "pickled.npy")
    with pytest.raises(ConfigError, match="no such file"):
        curvexp.load_params(tmp_path)


def test_the_problem_of_a_run_has_its_data_its_preprocessing_and_its_loss(tmp_path, monkeypatch):
    typed = [
        "problem=mlp",
        "problem/data=wine",
        "problem.hidden=[4]",
        "preprocess=normalized",
        "optim.lr=0.1",
        "probe=exact",
    ]
    assert call(*typed, "steps=10", "landscape=off", f"hydra.run.dir={tmp_path}") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = curvexp.load_problem(tmp_path)
    params = curvexp.load_params(tmp_path, like=found.init(jax.random.key(9)))
    # the same function at the same parameters, compiled in another program: some float32 roundings
    assert float(found.loss(params, found.data)) == pytest.approx(summary["loss"], rel=1e-5)
    top = curvexp.eigsh(curvexp.hessian(found.loss, params, found.data), k=1, key=0).eigenvalues[0]
    assert float(top) == pytest.approx(summary["lambda_max"], rel=1e-3)  # eigsh's tolerance


def test_a_problem_of_a_strangers_folder_calls_what_is_trusted_alone(tmp_path):
    assert call("problem=bowl", "probe=off", "steps=2", "landscape=off", f"hydra.run.dir={tmp_path}") == 0
    config = json.loads((tmp_path / "config.json").read_text())
    config["problem"] = {"_target_": "os.system", "_partial_": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"trust=\[os\]"):
        curvexp.load_problem(tmp_path)
    with pytest.raises(ConfigError, match="expected a run's folder"):
        curvexp.load_problem(tmp_path / "none")
