"""Nipype workflows around the interfaces.

Node names equal variable names. Each factory returns a workflow with an ``inputnode`` and an ``outputnode``, to be connected into
another workflow. A workflow handles one image, so that a broken image stops only its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["init_learn_wf", "init_segment_wf", "init_study_wf"]

_MODEL = ("weights", "config", "labels")


def init_learn_wf(
    *,
    config: dict[str, Any],
    segmentation: str = "learned",
    use_gpu: bool = False,
    threads: int = 1,
    mem_gb: float = 8.0,
    name: str = "learn_wf",
) -> Any:
    """Build a workflow that trains a model.

    Parameters
    ----------
    config : dict
        Settings, as :meth:`l2s_pydra.config.LearnConfig.to_dict` gives them.
    segmentation : str, default="learned"
        Value of the ``seg-`` entity of what the model will write.
    use_gpu : bool, default=False
        Ask the scheduler for a GPU.
    threads : int, default=1
        CPU threads.
    mem_gb : float, default=8.0
        Memory the scheduler sets aside, GB.
    name : str, default="learn_wf"
        Name of the workflow.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``inputnode`` has ``images``, ``labels``, ``participants``, ``roles``, ``label_maps``,
        ``real_table``, ``maps_table``, ``label_mapping`` and ``checkpoint_dir``; ``outputnode`` has
        ``model``, ``weights``, ``config`` and ``labels``.

    Examples
    --------
    >>> from l2s_pydra.config import preset
    >>> learn_wf = init_learn_wf(config=preset("quick").to_dict())
    >>> sorted(learn_wf.list_node_names())
    ['inputnode', 'learn', 'outputnode']
    """
    from nipype.interfaces.utility import IdentityInterface
    from nipype.pipeline import engine as pe

    from l2s_pydra.interfaces import Learn

    fields = ["images", "labels", "participants", "roles", "label_maps", "real_table"]
    fields += ["maps_table", "label_mapping", "checkpoint_dir"]
    outputs = ["model", *_MODEL]
    workflow = _workflow(name)
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    learn = pe.Node(
        Learn(config=config, segmentation=segmentation, use_gpu=use_gpu, threads=threads),
        name="learn",
        n_procs=threads,
        mem_gb=mem_gb,
    )
    outputnode = pe.Node(IdentityInterface(fields=outputs), name="outputnode")
    workflow.connect(
        [
            (inputnode, learn, [(field, field) for field in fields]),
            (learn, outputnode, [(field, field) for field in outputs]),
        ]
    )
    return workflow


def init_segment_wf(
    *,
    probseg: bool = False,
    entropy: bool = False,
    res: str | None = None,
    keep_largest: Sequence[str] | None = None,
    flip: bool = True,
    test_time_draws: int = 1,
    max_memory_mb: float | None = None,
    model_in_dataset: bool = True,
    use_gpu: bool = False,
    threads: int = 1,
    mem_gb: float = 4.0,
    name: str = "segment_wf",
) -> Any:
    """Build a workflow that segments one image.

    Parameters
    ----------
    probseg : bool, default=False
        Write every label's posterior too.
    entropy : bool, default=False
        Write the entropy of the posteriors too.
    res : str, optional
        Voxel size of the model's grid, such as ``1mm``: write outputs on that grid too.
    keep_largest : sequence of str, optional
        Structures of which only the largest piece is kept: names, ``all``, or none for all that do
        not rightly come in parts.
    flip : bool, default=True
        Average with the prediction on the left-right mirror image.
    test_time_draws : int, default=1
        Average over so many draws of small changes of the image.
    max_memory_mb : float, optional
        Memory that the network may take.
    model_in_dataset : bool, default=True
        Whether the model lies in ``models`` of the data set that the tree will be part of;
        otherwise sidecars name it by its checksum alone.
    use_gpu : bool, default=False
        Ask the scheduler for a GPU.
    threads : int, default=1
        CPU threads.
    mem_gb : float, default=4.0
        Memory the scheduler sets aside, GB.
    name : str, default="segment_wf"
        Name of the workflow.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``inputnode`` has ``image``, ``entities``, ``source``, ``weights``, ``config`` and
        ``labels``; ``outputnode`` has ``tree``, ``dseg``, ``morph`` and ``summary``.

    Examples
    --------
    >>> segment_wf = init_segment_wf(name="segment_sub_01_wf")
    >>> sorted(segment_wf.list_node_names())
    ['inputnode', 'outputnode', 'segment']
    """
    from nipype.interfaces.utility import IdentityInterface
    from nipype.pipeline import engine as pe

    from l2s_pydra.interfaces import Segment

    fields = ["image", "entities", "source", *_MODEL]
    outputs = ["tree", "dseg", "morph", "summary"]
    workflow = _workflow(name)
    inputnode = pe.Node(IdentityInterface(fields=fields), name="inputnode")
    given = {
        "res": res,
        "keep_largest": None if keep_largest is None else list(keep_largest),
        "max_memory_mb": max_memory_mb,
    }
    segment = pe.Node(
        Segment(
            probseg=probseg,
            entropy=entropy,
            flip=flip,
            test_time_draws=test_time_draws,
            model_in_dataset=model_in_dataset,
            use_gpu=use_gpu,
            threads=threads,
            **{name: value for name, value in given.items() if value is not None},
        ),
        name="segment",
        n_procs=threads,
        mem_gb=mem_gb,
    )
    outputnode = pe.Node(IdentityInterface(fields=outputs), name="outputnode")
    workflow.connect(
        [
            (inputnode, segment, [(field, field) for field in fields]),
            (segment, outputnode, [(field, field) for field in outputs]),
        ]
    )
    return workflow


def init_study_wf(
    *,
    output_dir: str | Path,
    images: Sequence[Path],
    labels: Sequence[Path],
    participants: Sequence[str],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    config: dict[str, Any],
    real_table: Path,
    scans: Sequence[Path],
    entities: Sequence[dict[str, str]],
    sources: Sequence[str],
    names: Sequence[str],
    references: Sequence[Path],
    reference_table: Path,
    other_scans: Sequence[Path] = (),
    other_entities: Sequence[dict[str, str]] = (),
    other_sources: Sequence[str] = (),
    maps_table: Path | None = None,
    label_mapping: Path | None = None,
    segmentation: str = "learned",
    flip: bool = True,
    use_gpu: bool = False,
    threads: int = 1,
    mem_gb: float = 4.0,
    name: str = "study_wf",
) -> Any:
    """Build a workflow that learns, segments everyone, and compares where there is a reference.

    Each image has a workflow of its own, so that a broken one stops no other. What is segmented goes
    to ``output_dir`` under its BIDS names as soon as it is done.

    .. code-block:: text

        learn_wf ── segment_<name>_wf ── derivatives_<name>     (an image each)
                                    └─── evaluate_<name>        (those with a reference)

    Parameters
    ----------
    output_dir : path
        Root of the derivative data set.
    images, labels, participants, roles, label_maps, config, real_table, maps_table, label_mapping
        What to learn from, as :class:`l2s_pydra.interfaces.Learn` takes it.
    scans, entities, sources, names, references, reference_table
        Images that have a reference, what they are, and the reference of each.
    other_scans, other_entities, other_sources
        Images that have none. All of these are what
        :func:`l2s_pydra.workflows.study.study_inputs` returns.
    segmentation : str, default="learned"
        Value of the ``seg-`` entity.
    flip : bool, default=True
        Average with the prediction on the left-right mirror image.
    use_gpu : bool, default=False
        Ask the scheduler for a GPU, for the training and for each image.
    threads : int, default=1
        CPU threads of each.
    mem_gb : float, default=4.0
        Memory the scheduler sets aside for each, GB.
    name : str, default="study_wf"
        Name of the workflow.

    Returns
    -------
    nipype.pipeline.engine.Workflow
        ``inputnode`` has ``checkpoint_dir``, the folder from which an interrupted training goes on;
        ``outputnode`` has ``model``.
    """
    from nipype.interfaces.utility import IdentityInterface
    from nipype.pipeline import engine as pe

    from l2s_pydra.interfaces import DerivativesDataSink, Evaluate

    workflow = _workflow(name)
    inputnode = pe.Node(IdentityInterface(fields=["checkpoint_dir"]), name="inputnode")
    outputnode = pe.Node(IdentityInterface(fields=["model"]), name="outputnode")
    resources: dict[str, Any] = {"use_gpu": use_gpu, "threads": threads, "mem_gb": mem_gb}
    learn_wf = init_learn_wf(config=config, segmentation=segmentation, **resources)
    learning = {
        "images": [str(path) for path in images],
        "labels": [str(path) for path in labels],
        "participants": list(participants),
        "roles": list(roles),
        "label_maps": [str(path) for path in label_maps],
        "real_table": str(real_table),
        **{
            key: str(path)
            for key, path in {"maps_table": maps_table, "label_mapping": label_mapping}.items()
            if path is not None
        },
    }
    learn_wf.inputs.inputnode.trait_set(**learning)
    workflow.connect(inputnode, "checkpoint_dir", learn_wf, "inputnode.checkpoint_dir")
    workflow.connect(learn_wf, "outputnode.model", outputnode, "model")
    known = [*zip(scans, entities, sources, strict=True)]
    known += zip(other_scans, other_entities, other_sources, strict=True)
    for number, (scan, who, source) in enumerate(known):
        stem = _node_name(source)
        segment_wf = init_segment_wf(flip=flip, name=f"segment_{stem}_wf", **resources)
        segment_wf.inputs.inputnode.trait_set(image=str(scan), entities=who, source=source)
        derivatives = pe.Node(
            DerivativesDataSink(base_directory=str(output_dir)),
            name=f"derivatives_{stem}",
            run_without_submitting=True,
        )
        model = [(f"outputnode.{file}", f"inputnode.{file}") for file in _MODEL]
        workflow.connect(
            [
                (learn_wf, segment_wf, model),
                (segment_wf, derivatives, [("outputnode.tree", "tree")]),
            ]
        )
        if number < len(scans):
            evaluate = pe.Node(
                Evaluate(
                    names=[names[number]],
                    references=[str(references[number])],
                    reference_table=str(reference_table),
                ),
                name=f"evaluate_{stem}",
            )
            workflow.connect(
                [
                    (segment_wf, evaluate, [(("outputnode.dseg", _listed), "dsegs")]),
                    (learn_wf, evaluate, [("outputnode.labels", "model_labels")]),
                ]
            )
    return workflow


def _workflow(name: str) -> Any:
    """Make an empty workflow whose crash files are text, which anyone can read, and no pickles."""
    from nipype.pipeline import engine as pe

    workflow = pe.Workflow(name=name)
    workflow.config["execution"] = {"crashfile_format": "txt"}
    return workflow


def _node_name(source: str) -> str:
    """Name of an image as Nipype allows it in the name of a node.

    >>> _node_name("sub-01/anat/sub-01_acq-a_T1w.nii.gz")
    'sub_01_acq_a_T1w'
    """
    stem = source.rpartition("/")[2].partition(".")[0]
    return "".join(c if c.isalnum() else "_" for c in stem)


def _listed(item: str) -> list[str]:
    """Make a list of one; Nipype runs it, and its source alone, between two nodes."""
    return [item]
