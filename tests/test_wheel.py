"""The wheel: what a user who never saw the repository gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, which is how pip installs one that has no compiled code."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for name in ("evalkit", "tasks", "model_adapters"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, timeout=120)
    (wheel,) = folder.glob("evalkit-*.whl")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(target)
    return target


def python(installed: Path, code: str, cwd: Path) -> str:
    """What ``code`` prints when it runs with the unpacked wheel, in another folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_every_file_of_data(installed: Path) -> None:
    unpacked = {p.relative_to(installed / "evalkit") for p in installed.rglob("evalkit/**/*.*")}
    for package, folder in (("", "evalkit"), ("tasks", "tasks"), ("model_adapters",) * 2):
        tree = {
            Path(package) / p.relative_to(ROOT / folder)
            for p in (ROOT / folder).rglob("*.*")
            if p.is_file() and p.suffix != ".pyc"
        }
        assert tree - unpacked == set()


def test_every_entry_point_of_the_wheel_loads(installed: Path, tmp_path: Path) -> None:
    code = """
import evalkit
from importlib.metadata import PathDistribution
from pathlib import Path
(info,) = Path(evalkit.__file__).parents[1].glob("*.dist-info")
for point in PathDistribution(info).entry_points:
    if point.group != "lmms_eval.models":
        point.load()
    print(point.group, point.name)
"""
    printed = python(installed, code, tmp_path)
    lines = printed.splitlines()
    assert "console_scripts evalkit" in lines
    assert "evalkit.tasks docvqa" in lines and "evalkit.model_adapters reference" in lines


def test_the_wheel_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    code = """
import sys
import evalkit
from evalkit.cli import main
print(evalkit.__file__)
sys.exit(main(["run", "--tasks", "docvqa,video_qa", "--limit", "2"]))
"""
    printed = python(installed, code, tmp_path)
    assert printed.startswith(str(installed))
    assert "docvqa:mini" in printed and "video_qa:mini" in printed
    assert (tmp_path / "results" / "leaderboard.md").is_file()
