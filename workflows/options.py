"""What the command line decides, as one frozen record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.config import LearnConfig

__all__ = ["LEVELS", "LOW_MEMORY_MB", "Options"]

LEVELS = ("learn", "participant", "group")
"""Analysis levels, in the order in which they run."""

LOW_MEMORY_MB = 1000
"""Memory that the network may take to segment an image with ``--low-mem``."""
_NETWORK_MB, _ELSE_MB = 4000, 1000
"""What the network takes at most where nothing is said, and what a process takes beside it."""


@attrs.frozen(kw_only=True)
class Options:
    """Settings of a run; paths are absolute, because Pydra changes the working directory."""

    bids_dir: Path
    """Root of the raw data set."""
    output_dir: Path
    """Root of the derivative."""
    work_dir: Path
    """Caches, checkpoints and staged files; may be deleted at any time."""
    levels: tuple[str, ...]
    """What to do, out of :data:`LEVELS`."""

    config: LearnConfig = attrs.field(factory=LearnConfig)
    """Settings of the training."""
    real_labels: Path | None = None
    """Derivative with manual labels of images in ``bids_dir``."""
    labels_desc: str | None = None
    """Which of its labels, if there are several."""
    label_maps: Path | None = None
    """Derivative with label maps that synthetic images are made from."""
    label_maps_desc: str | None = None
    """Which of its label maps, if there are several."""
    label_mapping: Path | None = None
    """Table that maps labels of ``label_maps`` to those of ``real_labels``."""
    target_labels: Path | None = None
    """Without ``real_labels``: table of the labels that the model shall write."""
    start_from: str | None = None
    """Folder or name of the model whose weights the training starts from."""
    learn_participants: tuple[str, ...] | None = None
    """Whose labels theta is learned from; ``participants.tsv`` says it otherwise."""
    validation_participants: tuple[str, ...] | None = None
    """Whose labels choose the model; ``participants.tsv`` says it otherwise."""
    test_participants: tuple[str, ...] | None = None
    """Whose labels judge the finished model; ``participants.tsv`` says it otherwise."""
    preview: int | None = None
    """Draws of each kind to show instead of a training."""
    segmentation: str | None = None
    """Value of the ``seg-`` entity."""
    compare: tuple[str, ...] = ()
    """Modes to train and compare, in place of the one in ``config``."""
    seeds: int = 1
    """How many times each is trained, with seeds that count from that in ``config``."""
    folds: int | None = None
    """Number of splits of the participants, each of which is trained on."""
    compare_suffixes: tuple[str, ...] | None = None
    """Contrasts to compare on; those of ``suffixes`` otherwise."""

    model: str | None = None
    """Folder or name of the model to segment with."""
    probseg: bool = False
    """Write posteriors too."""
    entropy: bool = False
    """Write their entropy too."""
    res: str | None = None
    """Voxel size of the model's grid, to write outputs on it too."""
    seg_only: bool = False
    """Write label maps only, and no pages."""
    keep_largest: tuple[str, ...] | None = None
    """Structures of which only the largest piece is kept; empty for all that do not rightly come
    in parts."""
    flip: bool = True
    """Average with the prediction on the mirror image."""
    test_time_draws: int = 1
    """Average over so many small changes of the image."""
    max_memory_mb: int | None = None
    """Memory that the network may take to segment an image."""
    references: Path | None = None
    """Derivative with labels to compare with at the group level; ``real_labels`` otherwise."""

    participants: tuple[str, ...] | None = None
    """Only these participants."""
    sessions: tuple[str, ...] | None = None
    """Only these sessions."""
    suffixes: tuple[str, ...] = ("T1w",)
    """Contrasts."""
    filter_file: Path | None = None
    """JSON file of BIDS filters."""
    database_dir: Path | None = None
    """Folder that keeps pybids' index."""
    skip_validation: bool = False
    """Take the raw data set as it is."""

    derivatives: Mapping[str, Path] = attrs.field(factory=dict, hash=False)
    """Derivatives by the names that options and the outputs call them."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:n``."""
    n_procs: int = 1
    """CPUs to use in all."""
    threads: int | None = None
    """CPUs to use in one process."""
    mem_mb: int | None = None
    """Memory to use in all."""
    low_mem: bool = False
    """Take little memory, and longer."""
    learn_processes: int = 1
    """Processes that share every batch of a training."""
    force: bool = False
    """Segment and compare also what is done already."""
    worker: str = "l2s"
    """What runs the tasks, out of :data:`l2s_pydra.workflows.worker_names.WORKERS`."""
    worker_args: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    """Its arguments."""
    stop_on_first_crash: bool = False
    """Start nothing more after a failure."""
    clean_workdir: bool = False
    """Empty the working directory first."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    reports_only: bool = False
    """Write pages anew, and compute nothing."""
    boilerplate_only: bool = False
    """Write and print the methods text, and compute nothing."""
    debug: bool = False
    """Say everything, tracebacks included."""
    verbosity: int = 0
    """How much to say, 0 to 2."""
    command: tuple[str, ...] = ()
    """The command line, for the record."""
    container: Mapping[str, str] | None = attrs.field(default=None, hash=False)
    """``Type``, ``Tag`` and ``URI`` of the container that this is, for the record."""

    @property
    def network_mb(self) -> int | None:
        """Memory that the network may take to segment an image; None if nothing was said.

        What was asked for comes first, then what ``--low-mem`` and a small ``--mem`` leave.
        """
        if self.max_memory_mb is not None:
            return self.max_memory_mb
        bounds = [LOW_MEMORY_MB] if self.low_mem else []
        if self.mem_mb is not None and self.mem_mb < _NETWORK_MB + _ELSE_MB:
            bounds.append(max(self.mem_mb - _ELSE_MB, self.mem_mb // 2))
        return min(bounds, default=None)

    @property
    def places(self) -> dict[str, Path]:
        """Folders by the names that stand for them in records, none of them inside another."""
        roots = {name: getattr(self, name) for name in ("bids_dir", "output_dir", "work_dir")}
        data = {name: getattr(self, name) for name in ("real_labels", "label_maps")}
        apart = {
            name: folder
            for name, folder in data.items()
            if folder is not None and not any(map(folder.is_relative_to, roots.values()))
        }
        return roots | apart
