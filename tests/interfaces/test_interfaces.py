"""The interfaces: what they hash, what they return, how they connect in a workflow."""

import json
from pathlib import Path

import pytest
from nipype.interfaces.base import TraitError
from nipype.pipeline import engine as pe

from l2s_pydra import __version__, interfaces
from l2s_pydra.interfaces import (
    Assess,
    EstimatePriors,
    Evaluate,
    Learn,
    LearnSynthesis,
    Segment,
    SynthesizeImages,
    TrainSegmenter,
)
from l2s_pydra.steps.train import FIXED_MODES
from l2s_pydra.workflows.nipype import init_learn_wf, init_segment_wf


@pytest.fixture(scope="session")
def nipype_inputs(tiny_training):
    """Inputs as Nipype takes them: strings, nothing undefined."""

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in tiny_training.items() if value is not None}


@pytest.fixture(scope="session")
def learned(nipype_inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learn")
    return LearnSynthesis(**nipype_inputs, threads=1).run(cwd=str(folder)).outputs


def test_learn_segment_evaluate(learned, nipype_inputs, tmp_path):
    config = json.loads(Path(learned.config).read_text())
    assert Path(learned.model).name == f"model-{config['name']}"
    segmented = (
        Segment(
            image=nipype_inputs["images"][-1],
            weights=learned.weights,
            config=learned.config,
            labels=learned.labels,
            entities={"subject": "03", "suffix": "T1w"},
            source="sub-03/anat/sub-03_T1w.nii.gz",
            threads=1,
        )
        .run(cwd=str(tmp_path))
        .outputs
    )
    assert Path(segmented.dseg).name == "sub-03_seg-tissue_desc-T1w_dseg.nii.gz"
    assert Path(segmented.morph).is_file()
    assert not Path(segmented.summary).is_relative_to(segmented.tree)
    compared = Evaluate(
        dsegs=[segmented.dseg],
        names=["sub-03_T1w"],
        references=[nipype_inputs["labels"][-1]],
        reference_table=nipype_inputs["real_table"],
        model_labels=learned.labels,
    ).run(cwd=str(tmp_path))
    assert "dice" in Path(compared.outputs.table).read_text().splitlines()[0]


def test_assess_a_model(learned, nipype_inputs, tmp_path):
    assessed = Assess(
        images=nipype_inputs["images"][-1:],
        references=nipype_inputs["labels"][-1:],
        names=["sub-03_T1w"],
        participants=["sub-03"],
        contrasts=["T1w"],
        roles=["validate"],
        weights=learned.weights,
        config=learned.config,
        labels=learned.labels,
        reference_table=nipype_inputs["real_table"],
        threads=1,
    ).run(cwd=str(tmp_path))
    header, whole, *rows = Path(assessed.outputs.table).read_text().splitlines()
    assert "hd95_mm" in header.split("\t")
    assert whole.split("\t")[5] == "whole"
    assert len(rows) == 5
    assert len(Path(assessed.outputs.failures).read_text().splitlines()) == 1


def test_estimate_priors(nipype_inputs, tmp_path):
    names = ("images", "labels", "real_table", "config")
    given = {name: nipype_inputs[name] for name in names}
    found = EstimatePriors(**given, threads=1).run(cwd=str(tmp_path)).outputs
    groups = [line.split("\t")[0] for line in Path(found.table).read_text().splitlines()[1:]]
    assert list(json.loads(Path(found.priors).read_text())) == groups
    assert Path(found.columns).is_file()
    assert Path(found.figure).is_file()


def test_a_synthesis_is_learned_and_used(learned, nipype_inputs, tmp_path):
    trained = TrainSegmenter(**nipype_inputs, generator=learned.generator, threads=1)
    outputs = trained.run(cwd=str(tmp_path)).outputs
    assert Path(outputs.model).name.startswith("model-synthseg")
    drawn = SynthesizeImages(
        label_maps=nipype_inputs["label_maps"],
        maps_table=nipype_inputs["maps_table"],
        target_table=nipype_inputs["real_table"],
        generator=learned.generator,
        learned_share=1.0,
        count=1,
        threads=1,
    )
    outputs = drawn.run(cwd=str(tmp_path)).outputs
    assert Path(outputs.images[0]).name == "synth-0000_image.nii.gz"
    assert json.loads(Path(outputs.draws[0]).read_text())["learned"]


def test_ranges_are_those_of_the_steps():
    assert TrainSegmenter.input_spec().traits()["mode"].trait_type.values == FIXED_MODES
    for make in (
        lambda: SynthesizeImages(count=0),
        lambda: SynthesizeImages(learned_share=1.5),
        lambda: TrainSegmenter(mode="learn2synth"),
        lambda: Learn(roles=["judge"]),
        lambda: Segment(test_time_draws=0),
        lambda: Segment(threads=0),
    ):
        with pytest.raises(TraitError):
            make()


def test_workflows_connect(nipype_inputs, tmp_path):
    learn_wf = init_learn_wf(config=nipype_inputs["config"], segmentation="tissue")
    for name, value in nipype_inputs.items():
        if name not in ("config", "segmentation"):
            setattr(learn_wf.inputs.inputnode, name, value)
    segment_wf = init_segment_wf()
    segment_wf.inputs.inputnode.image = nipype_inputs["images"][-1]
    segment_wf.inputs.inputnode.entities = {"subject": "03", "suffix": "T1w"}
    segment_wf.inputs.inputnode.source = "sub-03/anat/sub-03_T1w.nii.gz"
    both = pe.Workflow(name="both", base_dir=str(tmp_path))
    both.config["execution"] = {"crashdump_dir": str(tmp_path)}
    for name in ("weights", "config", "labels"):
        both.connect(learn_wf, f"outputnode.{name}", segment_wf, f"inputnode.{name}")
    both.run(plugin="Linear")
    dsegs = list((tmp_path / "both").rglob("*_dseg.nii.gz"))
    assert [path.name for path in dsegs] == ["sub-03_seg-tissue_desc-T1w_dseg.nii.gz"]


@pytest.mark.parametrize("factory", [init_learn_wf, init_segment_wf])
def test_a_gpu_is_asked_of_the_scheduler(factory):
    arguments = {"config": {}} if factory is init_learn_wf else {}
    workflow = factory(use_gpu=True, threads=3, mem_gb=5.0, **arguments)
    (node,) = (node for node in workflow._graph.nodes() if node.name in ("learn", "segment"))
    assert node.is_gpu_node()
    assert node.n_procs == 3
    assert node.mem_gb == 5.0
    assert node.interface._resources() == {"device": "cuda", "threads": 3}


def test_where_an_interface_runs_is_not_hashed():
    here, there = Segment(probseg=True), Segment(probseg=True, use_gpu=True, threads=2)
    assert here.inputs.get_hashval()[1] == there.inputs.get_hashval()[1]
    other = Segment(probseg=True, code_version="another")
    assert here.inputs.get_hashval()[1] != other.inputs.get_hashval()[1]


INTERFACES = [getattr(interfaces, name) for name in interfaces.__all__]


@pytest.mark.parametrize("interface", INTERFACES)
def test_every_interface_has_a_version_and_says_what_each_input_is(interface):
    instance = interface()
    assert instance.version == instance.inputs.code_version == __version__
    for spec in (instance.input_spec(), instance.output_spec()):
        for name, trait in spec.traits(transient=None).items():
            assert trait.desc, name
    if interface not in (Evaluate, interfaces.DerivativesDataSink):
        assert "method" in instance._references[0]["tags"]


def test_options_of_the_segmentation_reach_the_interface():
    options = {"entropy": True, "res": "4mm", "flip": False, "test_time_draws": 3}
    options["model_in_dataset"] = False
    workflow = init_segment_wf(keep_largest=[], max_memory_mb=900.0, **options)
    inputs = workflow.get_node("segment").interface.inputs
    assert {name: getattr(inputs, name) for name in options} == options
    assert (inputs.keep_largest, inputs.max_memory_mb) == ([], 900.0)
    plain = init_segment_wf().get_node("segment").interface
    assert [plain._given(name) for name in ("res", "keep_largest", "max_memory_mb")] == [None] * 3
    less = Segment(max_memory_mb=1.0).inputs.get_hashval()[1]
    assert less == Segment().inputs.get_hashval()[1]
