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
    from evalkit.errors import CheckpointError
    from evalkit.models.weights import resolve

    there = shipped()
    try:
        return there.get(model) or resolve(model)
    except CheckpointError as e:
        if any(sign in model for sign in "/\\~"):
            raise
        raise CheckpointError(f"{e}; those that ship inside: {', '.join(there)}") from e
