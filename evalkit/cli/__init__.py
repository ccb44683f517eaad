"""The command line: ``main`` has the parser and the exit codes, every verb a file of its own with
``add_parser`` (its options) and ``main`` (what it does). Heavy imports wait inside the verbs.
"""

from evalkit.cli.main import main

__all__ = ["main"]
