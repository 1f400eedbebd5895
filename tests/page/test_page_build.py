"""The committed page is what its source builds to, byte for byte."""

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"

pytestmark = pytest.mark.slow


def test_the_committed_page_is_built_from_this_source(tmp_path):
    npx = shutil.which("npx")
    if npx is None or not (WEB / "node_modules").is_dir():
        pytest.skip("no Node or no node_modules: (cd web && npm ci)")
    done = subprocess.run(
        [npx, "--no-install", "vite", "build", "--outDir", str(tmp_path)], cwd=WEB, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    committed = (files("distillaw.page") / "built" / "planner.html").read_bytes()
    assert (tmp_path / "planner.html").read_bytes() == committed, "run `npm run build` in web/ and commit the page"


def test_the_source_has_no_type_errors():
    npx = shutil.which("npx")
    if npx is None or not (WEB / "node_modules").is_dir():
        pytest.skip("no Node or no node_modules: (cd web && npm ci)")
    done = subprocess.run(
        [npx, "--no-install", "svelte-check", "--tsconfig", "./tsconfig.json", "--fail-on-warnings"],
        cwd=WEB,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
