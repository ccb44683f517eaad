"""The lab: small models trained alike but for one choice, on scenes where only that choice matters.

``voxels`` draws the scenes and says what can be known from which view of them; ``study`` is a file
of arms, conditions and hypotheses, written before the run; ``trainer`` trains and measures one
model; ``schedule`` runs what is missing of a study, side by side and resumable; ``analysis`` turns
runs into effects with intervals, and ``page`` into something to read. ``stacked`` trains several
models in one process.
"""
