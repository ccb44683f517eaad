"""One HTML file with everything under an output folder: tables, pictures, and a browser for the
samples.
"""

from evalkit.results.report.page import write_report

__all__ = ["write_report"]
