"""Models that come with the package: folders in here, each with the checksums of its files."""

import hashlib
from pathlib import Path

from ..errors import ModelError

__all__ = ["CHECKSUMS", "packaged_model", "packaged_models", "write_checksums"]

ROOT = Path(__file__).parent
"""Where they are."""
CHECKSUMS = "SHA256SUMS"
"""File in a model folder with the SHA-256 of each other file, as ``sha256sum`` writes it."""


def packaged_models() -> tuple[str, ...]:
    """Names of the models that come with this version; there may be none."""
    return tuple(sorted(path.parent.name for path in ROOT.glob(f"*/{CHECKSUMS}")))


def packaged_model(name: str = "default") -> Path:
    """Folder of a model that comes with the package; nothing is downloaded.

    Parameters
    ----------
    name : str, default="default"
        One of :func:`packaged_models`.

    Returns
    -------
    Path
        Folder with ``weights.safetensors``, ``config.json``, ``labels.tsv`` and the model card.

    Raises
    ------
    ModelError
        If there is no such model, or a file is not what it was when the package was made.
    """
    folder = ROOT / name
    if name not in packaged_models():
        raise ModelError(
            f"no model {name!r} comes with this version of l2s_pydra; "
            f"available: {', '.join(packaged_models()) or 'none'}"
        )
    for line in (folder / CHECKSUMS).read_text(encoding="ascii").splitlines():
        expected, _, file = line.partition("  ")
        if not (folder / file).is_file() or _sha256(folder / file) != expected:
            raise ModelError(
                f"{folder / file}: is missing or not what the package came with; install "
                "l2s_pydra again"
            )
    return folder


def write_checksums(folder: str | Path) -> Path:
    """Write the checksums of all files in a model folder; return the file."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="ascii")
    return folder / CHECKSUMS


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
