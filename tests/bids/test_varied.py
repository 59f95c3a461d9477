"""Images of the generated data sets: those that plain pybids finds, and no others."""

import pytest

from l2s_pydra.bids.images import find_images
from l2s_pydra.bids_examples.make_varied import VARIED
from l2s_pydra.errors import NoImageError

EXPECTED = {
    "longitudinal": {
        "sub-01_ses-post_acq-fast_run-01_T1w",
        "sub-01_ses-pre_run-1_T1w",
        "sub-01_ses-pre_run-2_T1w",
        "sub-02_acq-iso_T1w",
        "sub-02_acq-iso_ce-gado_rec-norm_T1w",
    },
    "labels": {
        "sub-0001_T1w",
        "sub-01_T1w",
        "sub-1_T1w",
        "sub-1_ses-1+2_acq-A_run-10_T1w",
        "sub-1_ses-1+2_acq-a+b_run-007_T1w",
        "sub-10_T1w",
        "sub-A_T1w",
        "sub-PilotStudyOfTheLongestLabelThatAnybodyHasSeenInAnArchive2026_T1w",
        "sub-control+pilot_T1w",
        "sub-mixedCase07_T1w",
    },
    "nested": {"sub-01_T1w", "sub-02_T1w"},
    "contrasts": {
        "sub-01_T1w",
        "sub-01_acq-defaced_rec-deface_T1w",
        "sub-01_acq-second_T1w",
        "sub-02_echo-1_T1w",
        "sub-02_echo-2_T1w",
        "sub-03_T1w",
    },
    "datalad": {"sub-01_T1w", "sub-02_T1w"},
}
QUERIES = [
    {},
    {"suffix": ["T2w"]},
    {"suffix": ["T1w", "T2w", "FLAIR", "UNIT1", "MP2RAGE", "MEGRE"]},
    {"subject": ["01"]},
    {"subject": ["1", "10", "control+pilot"]},
    {"session": ["pre", "1+2"]},
    {"run": 1},
    {"acquisition": ["fast", "a+b", "A"]},
    {"echo": "2"},
    {"inv": "1", "suffix": ["MP2RAGE"]},
    {"part": "phase", "suffix": ["T2w"]},
    {"extension": ".nii"},
]


@pytest.fixture(scope="module")
def plain(varied):
    """Query of a data set as pybids indexes it when it is left alone."""
    from bids.layout import BIDSLayout

    layouts = {name: BIDSLayout(varied(name)) for name in VARIED}

    def plain(name, **query):
        basic = {"datatype": "anat", "suffix": ["T1w"], "extension": [".nii", ".nii.gz"]}
        return layouts[name].get(
            return_type="filename", **{**basic, "part": ["mag", None], **query}
        )

    yield plain
    for layout in layouts.values():
        layout.session.close()
        layout.connection_manager.engine.dispose()


@pytest.mark.parametrize("name", VARIED)
def test_what_is_found(name, varied):
    assert {image.name for image in find_images(varied(name))} == EXPECTED[name]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Folder for the index of a data set."""
    folder = tmp_path_factory.mktemp("databases")
    return lambda name: folder / name


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("name", VARIED)
def test_what_plain_pybids_finds(name, query, varied, plain, database):
    root, expected = varied(name), sorted(plain(name, **query))
    options = {
        "suffixes": query.get("suffix", ["T1w"]),
        "sessions": query.get("session"),
        "filters": {
            "anat": {k: v for k, v in query.items() if k not in ("suffix", "session", "subject")}
        },
    }
    present = {path.name.removeprefix("sub-") for path in root.glob("sub-*")}
    who = [label for label in query.get("subject", ()) if label in present] or None
    if who is None and "subject" in query:
        pytest.skip("the data set has none of these participants")
    for kept in (None, database(name))[: 1 + (query in QUERIES[:4])]:
        try:
            found = find_images(root, participants=who, database_dir=kept, **options)
        except NoImageError:
            found = []
        assert [str(image.path) for image in found] == expected


def test_links_to_nowhere_are_found_like_others(varied):
    images = find_images(varied("datalad"))
    assert [image.path.exists() for image in images] == [True, False]
