"""The container that the software runs in, as its environment tells."""

from collections.abc import Mapping
from pathlib import PurePath

__all__ = ["container_of"]

_OURS = "L2S_PYDRA_CONTAINER_"
_APPTAINER = {"APPTAINER": "apptainer", "SINGULARITY": "singularity"}
_OTHERS = {"podman": "podman", "oci": "podman", "docker": "docker"}


def container_of(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Find out which container this is, for ``GeneratedBy``.

    Our recipes set ``L2S_PYDRA_CONTAINER_TYPE``, ``_TAG`` and ``_URI``; whoever pulls an image by its
    digest may set the last one. Apptainer says by its own variables that it runs the image, whatever
    that was made for. An image of somebody else's with Docker says nothing, and is not guessed at.

    Parameters
    ----------
    environment : mapping
        Environment variables.

    Returns
    -------
    dict or None
        ``Type``, ``Tag`` and ``URI``, as far as they are known; None outside of containers. Images
        are named without the folders they lie in.

    Examples
    --------
    >>> container_of({"APPTAINER_CONTAINER": "/scratch/someone/l2s_pydra_0.1.0.sif"})
    {'Type': 'apptainer', 'Tag': 'l2s_pydra_0.1.0.sif'}
    """
    found = {
        key: value
        for key, name in (("Type", "TYPE"), ("Tag", "TAG"), ("URI", "URI"))
        if (value := environment.get(_OURS + name, "").strip())
    }
    for prefix, kind in _APPTAINER.items():
        image = environment.get(f"{prefix}_CONTAINER") or environment.get(f"{prefix}_NAME")
        if image:
            return {"Type": kind, "Tag": found.pop("Tag", PurePath(image).name), **_uri(found)}
    kind = found.pop("Type", "") or _OTHERS.get(environment.get("container", ""), "")
    return {"Type": kind, **found} if kind else None


def _uri(found: Mapping[str, str]) -> dict[str, str]:
    return {"URI": found["URI"]} if "URI" in found else {}
