"""The embedded data sets: `mini/`, drawn by evalkit.nano."""
