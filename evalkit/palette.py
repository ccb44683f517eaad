"""Colours of figures: those of Okabe and Ito, which the colour-blind tell apart. What is said where
nothing can draw them.
"""

BLUE = "#0072B2"
COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NO_PICTURES = "pictures need matplotlib: pip install 'evalkit[plots]'"
