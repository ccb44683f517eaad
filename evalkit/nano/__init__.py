"""The nano model and the data it is trained and tried on: drawn here from a seed, trained here,
shipped inside.
"""

from pathlib import Path

HERE = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The checkpoints that ship inside, by the name that ``--model`` takes."""
    return {p.parent.name: p.parent for p in sorted((HERE / "checkpoints").glob("*/config.json"))}


def checkpoint_folder(model: str) -> Path:
    """The folder of a shipped checkpoint (``nano``), a local one, or one of the hub. Raises
    CheckpointError.
    """
    from evalkit.models.weights import resolve

    return shipped().get(model) or resolve(model)
