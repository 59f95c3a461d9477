"""Nipype workflows around the interfaces.

Each factory returns a workflow with an ``inputnode`` and an ``outputnode``, to be connected into
another workflow. A workflow handles one image, so that a broken image stops only its own.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["init_learn_wf", "init_segment_wf"]

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
    workflow = pe.Workflow(name=name)
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
    workflow = pe.Workflow(name=name)
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
