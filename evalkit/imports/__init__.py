"""Answers that another harness collected, as cells: read from its files, scored by its metric, ours
or both, with intervals and comparisons. No model is run, and such a cell says everywhere that it
was imported.
"""
