import pytest

from l2s_pydra.errors import LabelError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.steps.anatomy import (
    comes_in_parts,
    is_extracranial,
    named_structures,
    no_intracranial_reason,
)


def scheme(*names):
    return LabelScheme([Label(index=i, name=name) for i, name in enumerate(names, start=1)])


@pytest.mark.parametrize(
    "name",
    [
        *("skull", "Skull-Bone", "skin", "soft_tissue", "left_eye", "air", "Head-ExtraCerebral"),
        *("head", "Neck", "rest_of_head", "other_head", "head_and_neck", "Head-other-tissue"),
        *("maxillary_sinus", "Left-Frontal-Sinus", "sinus_air", "paranasal_sinuses", "Eye-Fluid"),
    ],
)
def test_what_lies_outside_the_skull(name):
    assert is_extracranial(Label(index=1, name=name))


@pytest.mark.parametrize(
    "name",
    [
        *("CSF", "Brain-Stem", "left_ventral_dc", "forehead_area", "Optic-Chiasm"),
        *("substantia_nigra", "Left-Hippocampus-head", "Left-HP_head", "Caudate_head_left"),
        *("head_of_caudate", "Head-of-the-hippocampus", "dural_sinuses", "superior_sagittal_sinus"),
        *("Left-Transverse-Sinus", "hippocampal_neck", "thalamus_sinusoids", "extracerebral_CSF"),
    ],
)
def test_what_lies_inside(name):
    assert not is_extracranial(Label(index=1, name=name))


def test_only_what_is_in_one_piece_by_nature_is_taken_by_default():
    names = (
        "Left-Putamen",
        "Left-WM-hypointensities",
        "Right-choroid-plexus",
        "hippocampus",
        "CSF",
    )
    labels = scheme(*names)
    assert [comes_in_parts(label) for label in labels.labels[1:]] == [False, *(True,) * 4]
    assert named_structures(labels, ()) == (1,)
    assert named_structures(labels, None) == ()
    assert named_structures(labels, ["all"]) == (1, 2, 3, 4, 5)
    assert named_structures(labels, ["hippocampus", "CSF"]) == (4, 5)
    with pytest.raises(LabelError, match=r"'putamen'.*Left-Putamen.*'all'"):
        named_structures(labels, ["putamen"])


def test_the_inside_of_the_skull_needs_its_fluid():
    assert no_intracranial_reason(scheme("grey", "white", "CSF"), stripped=False) == ""
    assert "stripped" in no_intracranial_reason(scheme("grey", "white", "CSF"), stripped=True)
    for name in ("extraventricular_CSF", "extra-ventricular-CSF", "non_ventricular_CSF", "fluid"):
        assert no_intracranial_reason(scheme("brain", name), stripped=False) == ""
    for names in (
        ("grey", "lateral_ventricle"),
        ("grey", "4th-Ventricle"),
        ("brain", "ventricular_CSF"),
        ("brain", "Lateral-Ventricle-CSF"),
        ("brain", "CSF_of_ventricles"),
    ):
        assert "no cerebrospinal fluid" in no_intracranial_reason(scheme(*names), stripped=False)
