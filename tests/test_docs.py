"""The docstrings render as pages, without a warning, and every public name is on them."""

import subprocess
import sys
from pathlib import Path

import pytest

import idarts_nni

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_api_pages_are_made_without_a_warning_and_show_every_public_name_and_the_axis_letters(tmp_path):
    pytest.importorskip("pdoc")
    command = [sys.executable, str(ROOT / "docs" / "build.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    first = (tmp_path / "idarts_nni.html").read_text()
    for name in idarts_nni.__all__:
        assert f'id="{name}"' in first
    assert "<code>H</code> hidden width" in first
    for module in (ROOT / "idarts_nni").glob("[a-z]*.py"):
        assert (tmp_path / "idarts_nni" / f"{module.stem}.html").is_file()
