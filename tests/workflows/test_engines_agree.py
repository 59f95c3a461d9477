"""One study through every engine: the same files, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nipype.pipeline import engine as pe

from l2s_pydra import bids_examples
from l2s_pydra.config import preset
from l2s_pydra.steps.publishing import publish_study
from l2s_pydra.tasks import Resources
from l2s_pydra.workflows.nipype import init_segment_wf, init_study_wf
from l2s_pydra.workflows.study import StudyWorkflow, study_inputs

CPU = Resources(device="cpu", threads=1)
SCANS = ["sub-02", "sub-04"]
SCRIPT = """
import sys
from pathlib import Path

from l2s_pydra.tasks import Resources
from l2s_pydra.workflows.study import study_inputs
from l2s_pydra.workflows.segment import SegmentDataset
from l2s_pydra.workflows.worker import L2SWorker, Submitter

name, data, model, cache = sys.argv[1:]

if __name__ == "__main__":
    from l2s_pydra.config import preset

    derivatives = Path(data) / "derivatives"
    given = study_inputs(
        data, derivatives / "reference", config=preset("quick"), participants=["02", "04"]
    )
    task = SegmentDataset(
        images=[*given["scans"], *given["other_scans"]],
        entities=[*given["entities"], *given["other_entities"]],
        sources=[*given["sources"], *given["other_sources"]],
        weights=Path(model) / "weights.safetensors",
        config=Path(model) / "config.json",
        labels=Path(model) / "labels.tsv",
        resources=Resources(device="cpu", threads=1),
    )
    options = {"worker": "cf", "n_procs": 1} if name == "cf" else {"worker": L2SWorker(n_procs=1)}
    with Submitter(cache_root=cache, **options) as submitter:
        result = submitter(task, raise_errors=False)
    assert not result.errored
    print(*result.outputs.trees, sep="\\n")
"""


@pytest.fixture(scope="module")
def inputs():
    """Learn from participants of the phantom, segment one that has a reference and one without."""
    data = bids_examples.path("phantom")
    config = preset("quick").evolve(
        spacing_mm=4.0, segmenter__width=2, training__steps=2, training__validate_every=1
    )
    derivatives = data / "derivatives"
    found = study_inputs(
        data,
        derivatives / "reference",
        derivatives / "labelmaps",
        config=config,
        segmentation="tissue",
        participants=["02", "04"],
    )
    assert [name.partition("_")[0] for name in found["names"]] == SCANS[:1]
    assert len(found["other_scans"]) == 1
    return found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NO_ET", "1")
        monkeypatch.setenv("NIPYPE_NO_ET", "1")
        monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path_factory.mktemp("hashes")))
        yield


@pytest.fixture(scope="module")
def pydra(inputs, quiet, tmp_path_factory):
    """Outputs of the study with Pydra's ``debug`` worker."""
    cache = tmp_path_factory.mktemp("debug")
    return StudyWorkflow(**inputs, resources=CPU)(cache_root=cache)


@pytest.fixture(scope="module")
def expected(pydra):
    return [contents(tree) for tree in pydra.trees]


def contents(tree):
    """Bytes of every file below a folder by its path."""
    paths = [path for path in Path(tree).rglob("*") if path.is_file()]
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in paths}


def test_what_a_study_leaves(pydra, expected, inputs, tmp_path, bids_validator):
    assert [len(values) for values in (pydra.trees, pydra.summaries, pydra.tables)] == [2, 2, 1]
    for scan, files in zip(SCANS, expected, strict=True):
        assert f"{scan}/anat/{scan}_seg-tissue_desc-T1w_dseg.nii.gz" in files
    first = Path(pydra.tables[0]).read_text().splitlines()[1]
    assert first.startswith(inputs["names"][0])
    output = tmp_path / "derivatives" / "l2s_pydra"
    files = publish_study(
        [Path(tree) for tree in pydra.trees],
        output,
        model=Path(pydra.model),
        bids_dir=bids_examples.path("phantom"),
        images=[*inputs["entities"], *inputs["other_entities"]],
    )
    assert {path.relative_to(output).as_posix() for path in files} >= set(expected[0])
    assert (output / "models" / Path(pydra.model).name / "weights.safetensors").is_file()
    checked = bids_validator(output)
    assert checked.returncode == 0, checked.stdout


def test_nipype_linear(pydra, expected, inputs, quiet, tmp_path):
    """The whole study: learning too gives the same model."""
    output = tmp_path / "l2s_pydra"
    study_wf = init_study_wf(output_dir=output, **inputs)
    study_wf.base_dir = str(tmp_path)
    study_wf.config["execution"]["crashdump_dir"] = str(tmp_path)
    study_wf.run(plugin="Linear")
    (model,) = (tmp_path / "study_wf" / "learn_wf" / "learn").glob("model-*")
    for name in ("weights.safetensors", "theta.json", "generator.json", "labels.tsv"):
        assert (model / name).read_bytes() == (Path(pydra.model) / name).read_bytes(), name
    staged = [
        contents(tmp_path / "study_wf" / f"segment_{scan.replace('-', '_')}_T1w_wf/segment/tree")
        for scan in SCANS
    ]
    assert staged == expected
    published = contents(output)
    assert {**expected[0], **expected[1]}.items() <= published.items()
    (table,) = (tmp_path / "study_wf" / "evaluate_sub_02_T1w").glob("dice.tsv")
    assert table.read_bytes() == Path(pydra.tables[0]).read_bytes()


def test_nipype_multiproc(pydra, expected, inputs, quiet, tmp_path):
    both = pe.Workflow(name="both", base_dir=str(tmp_path))
    both.config["execution"] = {"crashdump_dir": str(tmp_path), "poll_sleep_duration": "0.1"}
    images = [*inputs["scans"], *inputs["other_scans"]]
    entities = [*inputs["entities"], *inputs["other_entities"]]
    sources = [*inputs["sources"], *inputs["other_sources"]]
    names = ("weights.safetensors", "config.json", "labels.tsv")
    weights, config, labels = (str(Path(pydra.model) / name) for name in names)
    for number, image in enumerate(images):
        segment_wf = init_segment_wf(name=f"segment_{number}_wf", mem_gb=0.5)
        segment_wf.inputs.inputnode.trait_set(
            image=str(image),
            entities=entities[number],
            source=sources[number],
            weights=weights,
            config=config,
            labels=labels,
        )
        both.add_nodes([segment_wf])
    arguments = {"n_procs": 1, "memory_gb": 4, "mp_context": "forkserver", "n_gpu_procs": 0}
    both.run(plugin="MultiProc", plugin_args=arguments)
    staged = [
        contents(tmp_path / "both" / f"segment_{number}_wf/segment/tree") for number in range(2)
    ]
    assert staged == expected


@pytest.mark.parametrize("worker", ["cf", "l2s"])
def test_pydra_workers(pydra, expected, tmp_path, worker):
    """In processes: those that Pydra forks, and those of ours."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable,
            script,
            worker,
            bids_examples.path("phantom"),
            pydra.model,
            tmp_path / "c",
        ],
        env={**os.environ, "NO_ET": "1", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [contents(tree) for tree in done.stdout.split()] == expected


def test_a_crash_is_told_in_one_line(pydra, inputs, quiet, tmp_path):
    """The crash file of Nipype is text and says which file, what is wrong and what to do."""
    broken = tmp_path / "sub-09_T1w.nii.gz"
    broken.write_bytes(b"")
    names = ("weights.safetensors", "config.json", "labels.tsv")
    segment_wf = init_segment_wf()
    segment_wf.base_dir = str(tmp_path)
    segment_wf.config["execution"]["crashdump_dir"] = str(tmp_path)
    segment_wf.inputs.inputnode.trait_set(
        image=str(broken),
        entities={"subject": "09", "suffix": "T1w"},
        source="sub-09/anat/sub-09_T1w.nii.gz",
        **dict(
            zip(
                ("weights", "config", "labels"),
                (str(Path(pydra.model) / name) for name in names),
                strict=True,
            )
        ),
    )
    with pytest.raises(Exception, match=r"sub-09_T1w\.nii\.gz"):
        segment_wf.run(plugin="Linear")
    (crash,) = tmp_path.glob("crash-*.txt")
    assert "l2s_pydra.errors.ImageError: " in crash.read_text()
    assert f"{broken}: " in crash.read_text()
