"""Hydra's private parts stand in one file, which refuses versions that it was not written for."""

from pathlib import Path

import pytest

import curvexp
from curvexp.app import hydra_private


def test_no_other_file_uses_them():
    root = Path(curvexp.__file__).parent
    texts = {path: path.read_text() for path in root.rglob("*.py")}
    found = [path for path, text in texts.items() if "_internal" in text or "omegaconf._" in text]
    assert found == [root / "app" / "hydra_private.py"]


@pytest.mark.parametrize("version", ["1.3.1", "1.4.0", "1.4.0.dev1", "2.0"])
def test_another_version_is_refused_in_a_sentence(version):
    with pytest.raises(
        ImportError, match=rf"^hydra-core {version} is installed; expected >=1\.3\.2,<1\.4, .*pip install"
    ):
        hydra_private.check_version(version)


@pytest.mark.parametrize("version", ["1.3.2", "1.3.8", "1.3.10"])
def test_the_versions_that_pyproject_asks_for_pass(version):
    hydra_private.check_version(version)
