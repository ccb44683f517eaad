"""The files for clusters are run as far as that goes without one: what stands for ssh, srun and
scontrol runs commands here.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from evalkit.cli.main import build_parser
from evalkit.executor import replicas_of
from evalkit.store import cells

FOLDER = Path(__file__).parents[1] / "examples" / "clusters"
PLUGINS = Path(__file__).parent / "plugins"
RUN = [str(PLUGINS / "sums.py"), "--adapter", str(PLUGINS / "adder.py")]


def run(script: str, folder: Path, *arguments: str, **variables: str) -> None:
    """Runs one in a folder, with stand-ins for what a cluster has."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, text in {
        "evalkit": f'exec {shlex.quote(sys.executable)} -m evalkit "$@"',
        "ray": f'exec {shlex.quote(sys.executable)} -m ray.scripts.scripts "$@"',
        "ssh": 'shift; exec bash -c "$*"',
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "scontrol": 'printf "127.0.0.1\\n127.0.0.1\\n"',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(
        [FOLDER / script, *RUN, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        check=True,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.parametrize("script", ["slurm_array.sh", "slurm_ray.sh", "ssh_list.sh"])
def test_scripts_are_whole(script: str) -> None:
    subprocess.run(["bash", "-n", FOLDER / script], check=True)


def test_the_kubernetes_file_runs_a_command_that_there_is() -> None:
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    given = build_parser().parse_args(shlex.split(job["spec"]["entrypoint"])[1:])
    assert given.executor == "ray" and replicas_of(given.devices) == ("cuda", 0)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.slow
def test_a_job_array_fills_one_cell(tmp_path: Path) -> None:
    for task in ("1", "2"):
        run("slurm_array.sh", tmp_path, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="2")
    (cell,) = cells(tmp_path / "results")
    assert cell.results.complete and cell.results.n == 40


@pytest.mark.slow
def test_a_list_of_machines_fills_one_cell(tmp_path: Path) -> None:
    run("ssh_list.sh", tmp_path, "--output", "out", HOSTS="one two")
    (cell,) = cells(tmp_path / "out")
    assert cell.results.complete and cell.results.n == 40


@pytest.mark.ray
@pytest.mark.skipif(not find_spec("ray"), reason="no ray")
def test_a_slurm_job_starts_a_cluster_for_itself(tmp_path: Path) -> None:
    run("slurm_ray.sh", tmp_path, SLURM_JOB_NODELIST="two", PORT="6399")
    (cell,) = cells(tmp_path / "results")
    assert cell.results.complete and cell.results.n == 40
