"""What runs left behind, read, compared and shown: frames, leaderboard, paired differences,
published scores, pictures, sweep tables and the HTML report.

Everything here is derived from the cells under an output folder and can be made again. Names are
imported on first use, so that reading a table needs neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.results.breakdown import load_breakdown as load_breakdown
    from evalkit.results.cells import find_cells as find_cells
    from evalkit.results.cells import some_cells as some_cells
    from evalkit.results.cells import take_inventory as take_inventory
    from evalkit.results.frames import load_results as load_results
    from evalkit.results.frames import load_samples as load_samples
    from evalkit.results.leaderboard import write_leaderboard as write_leaderboard
    from evalkit.results.pairs import compare_cells as compare_cells
    from evalkit.results.pairs import comparison_frame as comparison_frame
    from evalkit.results.published import write_paper_table as write_paper_table
    from evalkit.results.report import write_report as write_report
    from evalkit.results.tables import interval_text as interval_text
    from evalkit.results.tables import markdown_table as markdown_table

PLACES = {
    "compare_cells": "pairs",
    "comparison_frame": "pairs",
    "find_cells": "cells",
    "interval_text": "tables",
    "load_breakdown": "breakdown",
    "load_results": "frames",
    "load_samples": "frames",
    "markdown_table": "tables",
    "some_cells": "cells",
    "take_inventory": "cells",
    "write_leaderboard": "leaderboard",
    "write_paper_table": "published",
    "write_report": "report",
}
"""Name to the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'evalkit.results' has no attribute {name!r}")
    return getattr(import_module(f"evalkit.results.{PLACES[name]}"), name)
