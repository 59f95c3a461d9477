"""The tasks: what they hash, what they return, how they connect."""

import json
import shutil
from pathlib import Path

import pytest
from pydra.utils.general import get_fields

from l2s_pydra import __version__, tasks
from l2s_pydra.errors import ConfigError, ImageError
from l2s_pydra.tasks import (
    Assess,
    EstimatePriors,
    Evaluate,
    Learn,
    LearnSynthesis,
    Preview,
    Resources,
    Segment,
    SynthesizeImages,
    TrainSegmenter,
)

CPU = Resources(device="cpu", threads=1)


@pytest.fixture(scope="session")
def learned(tiny_training, tmp_path_factory):
    """Outputs of the task ``LearnSynthesis``."""
    task = LearnSynthesis(**tiny_training, resources=CPU)
    return task(cache_root=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def segment(learned, tiny_training):
    """Make a task that segments the last image."""

    def segment(image=None, **changes):
        values = {
            "image": image or tiny_training["images"][-1],
            "weights": learned.weights,
            "config": learned.model_config,
            "labels": learned.model_labels,
            "entities": {"subject": "03", "suffix": "T1w"},
            "source": "sub-03/anat/sub-03_T1w.nii.gz",
            "resources": CPU,
        }
        return Segment(**{**values, **changes})

    return segment


def test_learn_returns_the_model_folder_and_its_files(learned):
    folder = Path(learned.model)
    assert folder.name.startswith("model-learn2synth")
    for file in (learned.weights, learned.model_config, learned.model_labels):
        assert Path(file).parent == folder
    assert json.loads(Path(learned.model_config).read_text())["segmentation"] == "tissue"


def test_learn_is_the_same_in_the_modes_that_learn(learned, tiny_training, tmp_path):
    plain = Learn(**tiny_training, resources=CPU)(cache_root=tmp_path)
    assert Path(plain.weights).read_bytes() == Path(learned.weights).read_bytes()
    assert Path(plain.model).name == Path(learned.model).name


def test_a_synthesis_is_learned_and_used(learned, tiny_training, tmp_path):
    """In a training, and for images."""
    generator = json.loads(Path(learned.generator).read_text())
    assert generator["mode"] == "learn2synth"
    assert Path(learned.theta).parent == Path(learned.priors).parent == Path(learned.model)
    trained = TrainSegmenter(**tiny_training, generator=learned.generator, resources=CPU)(
        cache_root=tmp_path
    )
    assert Path(trained.model).name.startswith("model-synthseg")
    config = json.loads(Path(trained.model_config).read_text())
    assert config["learn"]["augmentation"]["theta"]
    drawn = SynthesizeImages(
        label_maps=tiny_training["label_maps"],
        maps_table=tiny_training["maps_table"],
        target_table=tiny_training["real_table"],
        generator=learned.generator,
        count=2,
        learned_share=1.0,
        resources=CPU,
    )(cache_root=tmp_path)
    assert [Path(image).name for image in drawn.images] == [
        "synth-0000_image.nii.gz",
        "synth-0001_image.nii.gz",
    ]
    assert len(drawn.labels) == 2
    record = json.loads(Path(drawn.draws[1]).read_text())
    assert record["learned"]
    assert record["seed"] == 1
    assert record["spacing_mm"] == generator["spacing_mm"]


def test_theta_that_stays_cannot_be_learned(tiny_training, tmp_path):
    config = {**tiny_training["config"]}
    config["training"] = {**config["training"], "mode": "synthseg"}
    task = LearnSynthesis(**{**tiny_training, "config": config}, resources=CPU)
    with pytest.raises(ConfigError, match="use TrainSegmenter"):
        task(cache_root=tmp_path)


def test_learn_segment_evaluate(learned, segment, tiny_training, tmp_path):
    segmented = segment(probseg=True)(cache_root=tmp_path)
    tree = Path(segmented.tree)
    assert Path(segmented.dseg).is_relative_to(tree)
    assert Path(segmented.morph).is_relative_to(tree)
    assert not Path(segmented.summary).is_relative_to(tree)
    assert list(tree.rglob("*_probseg.nii.gz"))
    compared = Evaluate(
        dsegs=[segmented.dseg],
        names=["sub-03_T1w"],
        references=[tiny_training["labels"][-1]],
        reference_table=tiny_training["real_table"],
        model_labels=learned.model_labels,
    )(cache_root=tmp_path)
    header, *rows = Path(compared.table).read_text().splitlines()
    assert "dice" in header.split("\t")
    assert len(rows) == 5


def test_assess_a_model(learned, tiny_training, tmp_path):
    given = {
        "images": tiny_training["images"][-1:],
        "references": tiny_training["labels"][-1:],
        "names": ["sub-03_T1w"],
        "participants": ["sub-03"],
        "contrasts": ["T1w"],
        "roles": ["validate"],
        "weights": learned.weights,
        "config": learned.model_config,
        "labels": learned.model_labels,
        "reference_table": tiny_training["real_table"],
    }
    task = Assess(**given, resources=CPU)
    assessed = task(cache_root=tmp_path)
    header, whole, *rows = Path(assessed.table).read_text().splitlines()
    assert header.split("\t")[-2:] == ["volume_error", "ece"]
    assert whole.split("\t")[:6] == [*("sub-03", "sub-03_T1w", "T1w", "validate", "n/a", "whole")]
    assert len(rows) == 5
    assert Path(assessed.failures).read_text() == "participant_id\timage\treason\n"
    assert Assess(**given)._checksum == task._checksum
    assert Assess(**{**given, "names": ["sub-04_T1w"]})._checksum != task._checksum


def test_preview_returns_the_folder_of_the_page(tiny_training, tmp_path):
    given = {key: value for key, value in tiny_training.items() if key != "segmentation"}
    task = Preview(**given, count=1, resources=CPU)
    folder = Path(task(cache_root=tmp_path).folder)
    assert (folder / "index.html").is_file()
    assert len(list((folder / "figures").glob("wide-*.png"))) == 1
    assert Preview(**given, count=2)._checksum != task._checksum


def test_estimate_priors(tiny_training, tmp_path):
    names = ("images", "labels", "real_table", "maps_table", "config")
    given = {name: tiny_training[name] for name in names}
    found = EstimatePriors(**given, resources=CPU)(cache_root=tmp_path)
    priors = json.loads(Path(found.priors).read_text())
    rows = [line.split("\t") for line in Path(found.table).read_text().splitlines()]
    described = json.loads(Path(found.columns).read_text())
    assert [row[0] for row in rows[1:]] == list(priors)
    assert rows[0] == list(described)
    assert Path(found.figure).read_bytes().startswith(b"\x89PNG")


def test_the_content_of_the_image_counts(segment, tiny_training, tmp_path):
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(tiny_training["images"][-1], copy)
    assert segment(copy)._checksum == segment()._checksum
    shutil.copy(tiny_training["images"][0], copy)
    assert segment(copy)._checksum != segment()._checksum


@pytest.mark.parametrize(
    "changes",
    [
        {"entities": {"subject": "04", "suffix": "T1w"}},
        {"source": "sub-04/anat/sub-04_T1w.nii.gz"},
        {"code_version": "another"},
        {"probseg": True},
        {"save_mask": False},
        {"entropy": True},
        {"res": "4mm"},
        {"keep_largest": []},
        {"flip": False},
        {"test_time_draws": 2},
        {"model_in_dataset": False},
    ],
)
def test_what_changes_the_result_changes_the_hash(segment, changes):
    assert segment(**changes)._checksum != segment()._checksum


def test_where_a_task_runs_does_not(segment, tiny_training):
    elsewhere = Resources(device="cuda:1", threads=7, max_memory_mb=500)
    assert segment(resources=elsewhere)._checksum == segment()._checksum
    resumable = Resources(checkpoint_dir="/somewhere")
    assert Learn(**tiny_training, resources=resumable)._checksum == Learn(**tiny_training)._checksum


def test_settings_change_the_hash_of_learn(tiny_training):
    config = {**tiny_training["config"], "spacing_mm": 5.0}
    assert (
        Learn(**{**tiny_training, "config": config})._checksum != Learn(**tiny_training)._checksum
    )


def test_a_broken_image_fails_when_it_runs(segment, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"")
    task = segment(broken)
    with pytest.raises(ImageError, match=r"broken\.nii\.gz"):
        task(cache_root=tmp_path / "cache")


TASKS = [value for value in vars(tasks).values() if hasattr(value, "Outputs")]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_version_and_says_what_each_input_is(task):
    assert len(TASKS) == 9
    fields = {field.name: field for field in get_fields(task)}
    assert fields["code_version"].default == __version__
    for name, field in fields.items():
        assert field.help or name == "function", name
        assert f"    {name} : " in task.__doc__ or name == "function", "shown by help()"
    for field in get_fields(task.Outputs):
        assert field.help, field.name
