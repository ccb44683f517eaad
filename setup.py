"""Packages are found, so that a new one can't be forgotten; all else stands in pyproject.toml.

``tasks/`` and ``model_adapters/`` lie beside ``evalkit/``, and import as part of it.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["evalkit", "evalkit.*"]),
        *(f"evalkit.{p}" for p in find_packages(include=["tasks*", "model_adapters*"])),
    ]
)
