"""Write data sets of many legal shapes: ``python -m l2s_pydra.bids_examples.make_varied <folder>``.

Software that reads BIDS data sets meets sessions, runs, contrasts, odd labels, derivatives beside
raw images, and images that were not fetched. Here each has a data set of its own, of tiny heads
that can be segmented; one of many participants shows what grows with their number. Nothing is
downloaded, and the same seed writes the same files.
"""

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ._varied import Writer
from ._writing import empty_folder, write_json, write_table

__all__ = ["VARIED", "make_many", "make_varied"]

_LONG = "PilotStudyOfTheLongestLabelThatAnybodyHasSeenInAnArchive2026"


def _longitudinal(to: Writer) -> None:
    """Sessions, runs, acquisitions and several contrasts of a session, among other data."""
    to.describe("Longitudinal", "Sessions, runs, acquisitions and contrasts.")
    (to.root / "CHANGES").write_text("1.0.0 2026-01-01\n  - First version.\n", encoding="utf-8")
    write_json(to.root / "T1w.json", {"MagneticFieldStrength": 3, "Manufacturer": "Simulated"})
    for session in ("ses-pre", "ses-post"):
        place, stem = f"sub-01/{session}/anat", f"sub-01_{session}"
        runs = ("run-1", "run-2") if session == "ses-pre" else ("acq-fast_run-01",)
        names = [f"{run}_T1w" for run in runs] + ["T2w", "FLAIR"]
        to.heads(*(f"{place}/{stem}_{name}.nii.gz" for name in names))
        to.others("sub-01", session)
        rows = ((f"anat/{stem}_{name}.nii.gz", "1900-01-01T10:00:00") for name in names)
        write_table(to.root / f"sub-01/{session}/{stem}_scans.tsv", ("filename", "acq_time"), rows)
    write_table(
        to.root / "sub-01/sub-01_sessions.tsv",
        ("session_id", "acq_time"),
        (("ses-pre", "1900-01-01T10:00:00"), ("ses-post", "1900-06-01T10:00:00")),
    )
    to.head("sub-02/anat/sub-02_acq-iso_ce-gado_rec-norm_T1w.nii.gz", EchoTime=0.003)
    to.head("sub-02/anat/sub-02_acq-iso_T1w.nii.gz", EchoTime=0.003)
    to.others("sub-03", "ses-pre")  # whose head was not scanned
    _participants(to, ("01", "02", "03"), age=(31, 47, "n/a"))


def _labels(to: Writer) -> None:
    """Labels that are legal and look alike, are long, or are of digits only."""
    to.describe("Odd labels", "Labels that are legal, and no software should stumble over.")
    names = ("1", "01", "0001", "A", "mixedCase07", "10", _LONG, "control+pilot")
    for name in names:
        to.head(f"sub-{name}/anat/sub-{name}_T1w.nii.gz")
    place = "sub-1/ses-1+2/anat/sub-1_ses-1+2"
    to.heads(f"{place}_acq-a+b_run-007_T1w.nii.gz", f"{place}_acq-A_run-10_T1w.nii.gz")
    _participants(
        to, names, **{"group": ("n/a",) * len(names), "Größe (cm) ": range(150, 150 + len(names))}
    )


def _nested(to: Writer) -> None:
    """Raw images beside derivatives, derivatives of derivatives and source data."""
    to.describe("Nested", "Derivatives, their derivatives, and source data beside raw images.")
    image = "sub-01/anat/sub-01_T1w.nii.gz"
    to.heads(image, "sub-02/anat/sub-02_T1w.nii.gz")
    manual = to.derivative("derivatives/manual", "manual", "../..")
    manual.labels("sub-01/anat/sub-01_desc-manual_dseg.nii.gz", image)
    rows = ((0, "background"), (1, "box"))
    write_table(manual.root / "desc-manual_dseg.tsv", ("index", "name"), rows)
    for folder, name, raw in (
        ("derivatives/preproc", "preproc", "../.."),
        ("derivatives/preproc/derivatives/again", "again", "../../../.."),
    ):
        inner = to.derivative(folder, name, raw)
        source = {"SkullStripped": False, "Sources": [f"bids:raw:{image}"]}
        inner.head(
            "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
            SpatialReference=f"bids:raw:{image}",
            **source,
        )
    inner = Writer(to.root / "sourcedata" / "raw", to.seed)
    inner.describe("Source", "What the raw images were made from.")
    inner.heads("sub-09/anat/sub-09_T1w.nii.gz")
    (to.root / "code").mkdir()
    (to.root / "code" / "sub-01_T1w.nii.gz").write_bytes(b"notes")
    _participants(to, ("01", "02"))


def _contrasts(to: Writer) -> None:
    """Parts, echoes, inversions, masks and suffixes beside the images that are wanted."""
    to.describe("Contrasts", "Complex, multi-echo and multi-inversion images, masks, both formats.")
    place = "sub-01/anat/sub-01"
    to.heads(f"{place}_T1w.nii", f"{place}_acq-second_T1w.nii.gz")
    to.head(f"{place}_part-mag_T2w.nii.gz")
    to.head(f"{place}_part-phase_T2w.nii.gz", Units="rad")
    to.heads(f"{place}_acq-defaced_rec-deface_T1w.nii.gz", f"{place}_mod-T1w_defacemask.nii.gz")
    for echo in (1, 2):
        to.head(f"sub-02/anat/sub-02_echo-{echo}_T1w.nii.gz", EchoTime=0.002 * echo)
        to.head(f"sub-02/anat/sub-02_echo-{echo}_MEGRE.nii.gz", EchoTime=0.002 * echo)
    for inversion in (1, 2):
        to.head(
            f"sub-03/anat/sub-03_inv-{inversion}_MP2RAGE.nii.gz",
            InversionTime=0.8 * inversion,
            FlipAngle=5,
            RepetitionTimeExcitation=0.0062,
            RepetitionTimePreparation=5,
            NumberShots=150,
            MagneticFieldStrength=7,
        )
    to.heads("sub-03/anat/sub-03_UNIT1.nii.gz", "sub-03/anat/sub-03_T1w.nii.gz")
    _participants(to, ("01", "02", "03"))


def _datalad(to: Writer) -> None:
    """Images that are links into a store, of which one was not fetched."""
    to.describe("DataLad", "Images are links into the store of git-annex; one was not fetched.")
    store = to.root / ".git" / "annex" / "objects"
    for name in ("01", "02"):
        image = to.head(f"sub-{name}/anat/sub-{name}_T1w.nii.gz")
        content = image.read_bytes()
        key = f"MD5E-s{len(content)}--{hashlib.md5(content).hexdigest()}.nii.gz"
        kept = store / name / "x1" / key / key
        kept.parent.mkdir(parents=True)
        image.replace(kept)
        image.symlink_to(os.path.relpath(kept, image.parent))
    kept.unlink()
    _participants(to, ("01", "02"))


VARIED: Mapping[str, Callable[[Writer], None]] = {
    "longitudinal": _longitudinal,
    "labels": _labels,
    "nested": _nested,
    "contrasts": _contrasts,
    "datalad": _datalad,
}
"""What writes each data set, by the name of its folder."""


def make_varied(folder: str | Path, name: str, *, seed: int = 7) -> Path:
    """Write one of the data sets.

    Parameters
    ----------
    folder : path
        Its root; replaced if it holds an earlier copy.
    name : str
        A key of :data:`VARIED`.
    seed : int, default=7
        Everything random comes from it.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    FileExistsError
        If ``folder`` holds something else.
    """
    root = empty_folder(Path(folder))
    VARIED[name](Writer(root, seed))
    return root


def make_many(
    folder: str | Path, *, participants: int = 1000, others: bool = True, seed: int = 7
) -> Path:
    """Write a data set of many participants, of seven files each.

    A few heads are drawn, and shared by hard links where the file system has them, so that the
    images of a thousand participants take no room.

    Parameters
    ----------
    folder : path
        Its root; replaced if it holds an earlier copy.
    participants : int, default=1000
        Their number.
    others : bool, default=True
        Whether there are functional, diffusion and field map images beside the heads.
    seed : int, default=7
        Everything random comes from it.

    Returns
    -------
    Path
        ``folder``.
    """
    root = empty_folder(Path(folder))
    to = Writer(root, seed)
    to.describe("Many", f"{participants} participants who share a few heads.")
    names = [f"{number:05d}" for number in range(1, participants + 1)]
    for number, name in enumerate(names):
        first = f"{number % 8 + 1:05d}"
        if name == first:
            to.head(f"sub-{name}/anat/sub-{name}_T1w.nii.gz", EchoTime=0.003)
            if others:
                to.others(f"sub-{name}")
        else:
            _copy(root / f"sub-{first}", f"sub-{first}", f"sub-{name}")
    _participants(to, names)
    return root


def _copy(source: Path, old: str, new: str) -> None:
    """Give a participant the files of another, by links where there can be some."""
    for path in (p for p in source.rglob("*") if p.is_file()):
        target = source.with_name(new) / path.relative_to(source).parent
        target.mkdir(parents=True, exist_ok=True)
        target /= path.name.replace(old, new)
        try:
            target.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, target)


def _participants(to: Writer, names: Iterable[str], **columns: Iterable[object]) -> None:
    """Write ``participants.tsv``."""
    rows = zip((f"sub-{name}" for name in names), *columns.values(), strict=True)
    write_table(to.root / "participants.tsv", ("participant_id", *columns), rows)
    if columns:
        known = {name: {"Description": f"Made up, as {name}"} for name in columns}
        write_json(to.root / "participants.json", known)


def main() -> None:
    """Write the data sets that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="each data set is a folder in here")
    parser.add_argument("--only", nargs="+", choices=[*VARIED, "many"], metavar="NAME")
    parser.add_argument("--participants", type=int, default=1000, help="of the data set many")
    arguments = parser.parse_args()
    for name in arguments.only or [*VARIED, "many"]:
        root = arguments.folder / name
        if name == "many":
            make_many(root, participants=arguments.participants)
        else:
            make_varied(root, name)
        print(root)


if __name__ == "__main__":
    main()
