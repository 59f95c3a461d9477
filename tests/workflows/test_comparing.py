"""Tables of everyone, made of those of each image."""

import logging

from l2s_pydra.workflows.comparing import _join, _Segmented, _warn_without_volumes


def test_rows_that_are_cut_short_cost_no_table(tmp_path):
    tables = [tmp_path / name for name in ("whole", "short", "long", "empty")]
    header = "index\tname\tvolume-mm3\tself-dice\n"
    tables[0].write_text(f"{header}1\tstem\t20\t0.9\n")
    tables[1].write_text(f"{header}1\tstem\n")
    tables[2].write_text(f"{header}1\tstem\t20\t0.9\tmore\tand more\n")
    tables[3].write_text("")
    images = [
        _Segmented(table, {"subject": f"0{i}", "desc": "T1w", "suffix": "morph"})
        for i, table in enumerate(tables, 1)
    ]
    _join(images, tables, tmp_path / "all.tsv")
    lines = [line.split("\t") for line in (tmp_path / "all.tsv").read_text().splitlines()]
    assert lines[0][3:] == ["image", "index", "name", "volume-mm3", "self-dice"]
    assert [line[3:] for line in lines[1:]] == [
        ["sub-01_T1w", "1", "stem", "20", "0.9"],
        ["sub-02_T1w", "1", "stem", "n/a", "n/a"],
        ["sub-03_T1w", "1", "stem", "20", "0.9"],
    ]


def test_segmentations_without_volumes_are_told(tmp_path, caplog):
    names = [
        "sub-01_seg-tissue_desc-T1w_dseg.nii.gz",
        "sub-01_seg-tissue_desc-T1w_morph.tsv",
        "sub-01_seg-tissue_res-1mm_desc-T1w_dseg.nii.gz",
        "sub-01_seg-other_desc-T1w_dseg.nii.gz",
        "sub-01_seg-tissue_desc-T2w_dseg.nii.gz",
    ]
    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    with caplog.at_level(logging.WARNING, "l2s_pydra"):
        _warn_without_volumes(tmp_path, "tissue")
    assert (
        f"1 segmentation(s) without a table of volumes are not gathered, first sub-01/anat/{names[-1]}"
        in caplog.text
    )
