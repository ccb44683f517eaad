"""The task plugins, one file per family."""
