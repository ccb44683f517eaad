"""The lab: small models trained alike but for one choice, on probes where only that choice matters.

``study`` is a file of arms, conditions and hypotheses, written before the run; ``pictures`` and
``batches`` turn the scenes of a probe (``evalkit.probes``) into what a model reads; ``trainer``
trains and measures one model; ``schedule`` runs what is missing of a study, side by side and
resumable; ``analysis`` turns runs into effects with intervals, ``page`` into something to read, and
``stored`` reads its tables back for the page of results.
``stacked`` trains several models in one process, with the optimisers of ``steps``, on what
``packed`` has drawn.
"""
