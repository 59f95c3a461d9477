"""Containers are told by the environment, without the folders of the computer."""

import pytest

from l2s_pydra.workflows.cli import parse
from l2s_pydra.workflows.container import container_of

OURS = {"L2S_PYDRA_CONTAINER_TYPE": "docker", "L2S_PYDRA_CONTAINER_TAG": "l2s_pydra:0.1.0"}
TOLD = {"Type": "docker", "Tag": "l2s_pydra:0.1.0"}
IMAGE = "/home/someone/images/l2s.sif"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/root"}, None),
        (OURS, TOLD),
        ({**OURS, "L2S_PYDRA_CONTAINER_URI": "docker://x@sha256:ab"}, {**TOLD, "URI": "docker://x@sha256:ab"}),
        ({"APPTAINER_CONTAINER": IMAGE}, {"Type": "apptainer", "Tag": "l2s.sif"}),
        ({"SINGULARITY_NAME": "l2s.sif"}, {"Type": "singularity", "Tag": "l2s.sif"}),
        # Apptainer sets the variables of Singularity, too, and runs images made for Docker.
        (
            {**OURS, "APPTAINER_CONTAINER": IMAGE, "SINGULARITY_CONTAINER": IMAGE},
            {"Type": "apptainer", "Tag": "l2s_pydra:0.1.0"},
        ),
        ({"container": "podman"}, {"Type": "podman"}),
        ({"container": "systemd-nspawn"}, None),
        ({"L2S_PYDRA_CONTAINER_TAG": "left over"}, None),
    ],
)  # fmt: skip
def test_container_of(environment, expected):
    assert container_of(environment) == expected


def test_the_command_line_asks_the_environment(phantom, tmp_path, monkeypatch):
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)
    for name in (
        "APPTAINER_CONTAINER",
        "APPTAINER_NAME",
        "SINGULARITY_CONTAINER",
        "SINGULARITY_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    options = parse([str(phantom), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "w")])
    assert options.container == TOLD
