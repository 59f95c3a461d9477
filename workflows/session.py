"""What the levels of one run share: settings, caches, the staged tree and the failures."""

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from l2s_pydra.bids.dataset import ImageRecord, find_images, read_filters
from l2s_pydra.bids.derivatives import dataset_path, write_json, write_text
from l2s_pydra.bids.description import describe_dataset
from l2s_pydra.bids.known_uses import known_uses
from l2s_pydra.bids.provenance import run_record, scrub_text, to_toml, versions
from l2s_pydra.bids.publishing import OutputFolder
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, bidsignore

from .demand import GB_PER_PROCESS, memory_needed_gb, visible_gpus
from .engine import Outcome
from .model_files import ModelFiles
from .options import Options
from .site_words import without_site
from .worker import Notify
from .worker_names import BATCH
from .workers import build_worker

__all__ = ["Failure", "Session", "code_version"]

_log = logging.getLogger(__name__)
_SHELLS = ("bids_examples", "interfaces", "tasks", "workflows")
"""Folders that decide no result."""
_TELLS = frozenset(
    (
        *("bids/description.py", "bids/methods.py", "bids/references.py", "bids/training_text.py"),
        *("bids/manifest.py", "bids/prov.py", "bids/publishing.py", "bids/verifying.py"),
        *("bids/known_uses.py", "bids/uses.py", "bids/words.py"),
        *("steps/export.py", "steps/leftovers.py", "steps/page_data.py", "steps/page_entries.py"),
        *("steps/publishing.py", "steps/report.py"),
    )
)
"""Modules that no task imports: they describe, publish and verify what tasks have made."""
_GB_WITH_LITTLE_MEMORY = 2
"""The same, with the network held to :data:`~l2s_pydra.workflows.options.LOW_MEMORY_MB`."""

_JOB_CPUS = 4
"""CPUs of a job on a cluster."""

_PROCESSES_PER_GPU = 4
"""Enough to keep a GPU busy while images are read and written, and its memory free."""


@attrs.frozen(kw_only=True)
class Failure:
    """Something that could not be done."""

    name: str
    """What: the stem of an image, or ``learn``."""
    file: str
    """File it is about, relative to its data set."""
    outcome: Outcome
    """Why."""
    participant: str | None = None
    """Whose image, ``sub-01``."""
    reason: str = ""
    """Why, in one line that names no folder of this computer."""
    log: PurePosixPath | None = None
    """Where the whole story is, relative to the output folder."""

    @property
    def row(self) -> dict[str, str | None]:
        """Plain values, for the reports."""
        return {
            "file": self.file,
            "participant": self.participant or "",
            "reason": self.reason,
            "log": str(self.log) if self.log else None,
        }


@attrs.frozen(kw_only=True)
class Session:
    """A run of the application."""

    options: Options
    """What was asked for."""
    uuid: str
    """Name of the run."""
    cache: Path
    """Pydra's cache."""
    stage: Path
    """Tree that is built here and then copied to the output folder."""
    folder: OutputFolder | None = None
    """The output folder, if this run writes to it."""

    def share(self, jobs: int, *, max_memory_mb: float | None = None) -> tuple[int, int]:
        """Divide the CPUs and the memory among jobs.

        Parameters
        ----------
        jobs : int
            Number of jobs there are.
        max_memory_mb : float, optional
            Memory that the network of each may take, MB; 1 GB is set aside for all else.

        Returns
        -------
        n_procs : int
            Number of jobs to run at a time.
        threads : int
            CPU threads of each.
        """
        total, threads = self.options.n_procs, self.options.threads
        if self.on_cluster:
            return jobs, self.threads
        each_gb = memory_needed_gb(max_memory_mb, least=self._least_gb)
        memory_gb = min(_memory_gb(), (self.options.mem_mb or math.inf) / 1000)
        limits = [jobs, total // (threads or 1), int(memory_gb // each_gb)]
        if self._on_gpu:
            gpus = 1 if ":" in self.options.device else max(1, len(visible_gpus()))
            limits.append(_PROCESSES_PER_GPU * gpus)
        at_once = max(1, min(limits))
        return at_once, threads or max(1, total // at_once)

    @property
    def on_cluster(self) -> bool:
        """Whether tasks run as jobs of a batch scheduler."""
        return self.options.worker in BATCH

    @property
    def threads(self) -> int:
        """CPU threads of a task that shares this computer with no other."""
        if self.on_cluster:
            return self.options.threads or int(self.options.worker_args.get("cpus", _JOB_CPUS))
        return self.options.threads or self.options.n_procs

    def memory_gb(self, max_memory_mb: float | None = None) -> float | None:
        """Memory to set aside for a task, GB; None leaves it to the worker."""
        if self.on_cluster and self.options.mem_mb is not None:
            return self.options.mem_mb / 1000
        return memory_needed_gb(max_memory_mb, least=self._least_gb) if max_memory_mb else None

    @property
    def host_bytes(self) -> int | None:
        """Memory that a training on CPUs may take; None if nothing was said, or on a GPU."""
        amount = self.options.mem_mb
        return None if amount is None or self._on_gpu else amount * 10**6

    @property
    def _on_gpu(self) -> bool:
        device = self.options.device
        there = Path("/dev/nvidiactl").exists()
        return device.startswith("cuda") or (device == "auto" and there)

    @property
    def _least_gb(self) -> float:
        return _GB_WITH_LITTLE_MEMORY if self.options.low_mem else GB_PER_PROCESS

    def worker(
        self,
        at_once: int,
        notify: Notify | None = None,
        *,
        gpus: Sequence[str] | None = None,
        tasks_per_gpu: int = _PROCESSES_PER_GPU,
        log_dir: Path | None = None,
    ) -> Any:
        """Worker for so many tasks at a time, by default on all GPUs that there are."""
        return build_worker(
            self.options,
            at_once=at_once,
            notify=notify,
            gpus=gpus,
            tasks_per_gpu=tasks_per_gpu,
            log_dir=log_dir,
        )

    def images(self, **changes: Any) -> list[ImageRecord]:
        """Find the images that were asked for; ``changes`` replace arguments of the search."""
        options = self.options
        arguments: dict[str, Any] = {
            "participants": options.participants,
            "sessions": options.sessions,
            "suffixes": options.suffixes,
            "filters": self.filters,
            "database_dir": options.database_dir,
        }
        return find_images(options.bids_dir, **{**arguments, **changes})

    @property
    def filters(self) -> dict[str, dict[str, Any]] | None:
        """Contents of the filter file, if there is one."""
        file = self.options.filter_file
        return read_filters(file) if file else None

    def describe(
        self,
        *models: ModelFiles,
        images: Sequence[Mapping[str, str]] = (),
        participants: Collection[str] = (),
    ) -> None:
        """Stage what describes the data set as a whole.

        Parameters
        ----------
        *models : ModelFiles
            Those of this run.
        images : sequence of mappings
            Entities and ``suffix`` of its images.
        participants : collection of str
            Whose files it may have changed, ``sub-<label>``.
        """
        with self.output.locked():
            uses = known_uses(self.options.output_dir, participants)
        describe_dataset(
            self.stage,
            bids_dir=self.options.bids_dir,
            output_dir=self.options.output_dir,
            images=images,
            entropy=self.options.entropy,
            bidsignore=bidsignore(),
            models=[model.description for model in models],
            versions=versions(),
            links=self.links,
            container=self.options.container,
            uses=uses,
        )

    @property
    def links(self) -> dict[str, Path]:
        """Data sets beside the raw one that were used, by the names that BIDS URIs call them."""
        options = self.options
        links = dict(options.derivatives)
        for name, folder in (
            ("reference", options.references),
            ("labels", options.real_labels),
            ("labelmaps", options.label_maps),
        ):
            if folder is not None and folder not in (options.bids_dir, *links.values()):
                links[name] = folder
        return links

    def path(self, key: str, **fields: str) -> Path:
        """Staged place of an output of the table."""
        return self.stage / dataset_path(DATASET_OUTPUTS[key], run=self.uuid, **fields)

    def record(self, model: ModelFiles | None = None) -> dict[str, Any]:
        """Describe this run in plain values that name no person and no computer."""
        options = attrs.asdict(self.options, recurse=False)
        options["config"] = self.options.config.to_dict()
        for name in ("command", "container", "verbosity", "worker_args"):
            options.pop(name)
        return run_record(
            run=self.uuid,
            command=without_site(self.options.command),
            settings=options,
            seed=self.options.config.training.seed if "learn" in self.options.levels else None,
            model=model.description if model else None,
            container=self.options.container,
            places=self.options.places,
        )

    def stage_record(self, record: Mapping[str, Any], participants: Sequence[str] = ()) -> None:
        """Stage the description of this run, for each participant or for the whole data set."""
        places = [self.path("run", participant=participant) for participant in participants]
        for place in places or [self.path("dataset_run")]:
            write_text(place, to_toml(record))

    def fail(self, failure: Failure) -> Failure:
        """Stage the log of a failure and say on the terminal what failed and why."""
        place = (
            self.path("crash", participant=failure.participant, name=failure.name)
            if failure.participant
            else self.path("dataset_crash", name=failure.name)
        )
        log = PurePosixPath(place.relative_to(self.stage).as_posix())
        reason = failure.outcome.reason
        prefix = "" if failure.file in reason else f"{failure.file}: "
        _log.error("%s%s (details: %s)", prefix, reason, self.options.output_dir / log)
        text = f"run: {self.uuid}\nfile: {failure.file}\n\n{failure.outcome.traceback}"
        write_text(place, self.without_folders(text))
        _log.debug("%s", failure.outcome.traceback)
        return attrs.evolve(failure, log=log, reason=self.without_folders(reason))

    def without_folders(self, text: str) -> str:
        """Replace the folders of this computer in a message that will be published."""
        return scrub_text(text, {**self.options.places, "home": Path.home()})

    def uri(self, path: Path) -> str:
        """BIDS URI of a file of a data set that was used; that of its name if it is in none."""
        folders = {**self.links, "raw": self.options.bids_dir}
        inside = [(len(f.parts), n) for n, f in folders.items() if path.is_relative_to(f)]
        if not inside:
            return f"bids::prov#entity-{path.name}"
        name = max(inside)[1]
        return f"bids:{name}:{path.relative_to(folders[name]).as_posix()}"

    def publish_provenance(self, documents: Mapping[str, Any]) -> None:
        """Publish files of provenance (:mod:`l2s_pydra.bids.prov`), given by their paths."""
        stage = self.stage.with_name(f"{self.stage.name}-prov")
        try:
            for name, document in documents.items():
                write_json(stage / name, document)
            self.publish(stage)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def publish_page(self, participant: str, groups: Mapping[str, Any]) -> None:
        """Make a participant's page anew from what is kept, and publish it.

        As one, for another run may segment the participant meanwhile.

        Parameters
        ----------
        participant : str
            ``sub-<label>``.
        groups : mapping
            What the group has (:func:`l2s_pydra.steps.report.read_groups`).
        """
        from l2s_pydra.steps.report import refresh_participant

        stage = self.stage.with_name(f"{self.uuid}-page")
        try:
            with self.output.locked():
                refresh_participant(
                    participant=participant,
                    output_dir=self.options.output_dir,
                    groups=groups,
                    out_file=stage / f"{participant}.html",
                    bids_dir=self.options.bids_dir,
                )
                self.publish(stage)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def publish(self, tree: Path | None = None) -> None:
        """Copy a tree, by default what was staged so far, to the output folder."""
        tree = tree or self.stage
        if tree.is_dir():
            done = self.output.publish(tree)
            _log.debug("%d files written, %d unchanged", len(done.written), len(done.unchanged))

    @property
    def output(self) -> OutputFolder:
        """The output folder, to write to."""
        if self.folder is None:
            raise RuntimeError("this session was made without an output folder")
        return self.folder


def code_version(*, without: Sequence[str] = ()) -> str:
    """Version of the software and checksum of its sources, for Pydra's hashes.

    Results must not be taken from the cache after the code was changed, by an upgrade or by hand;
    but a changed sentence of the methods text is no reason to segment thousands of images again.

    Parameters
    ----------
    without : sequence of str
        Folders of the package that do not decide the result.
    """
    import l2s_pydra

    root = Path(l2s_pydra.__file__).parent
    digest = hashlib.sha256()
    left_out = {*_SHELLS, *without}
    for path in sorted(path.relative_to(root) for path in root.rglob("*.py")):
        name = path.as_posix()
        if path.parts[0] not in left_out and name not in _TELLS:
            digest.update(name.encode() + (root / path).read_bytes())
    return f"{l2s_pydra.__version__}+{digest.hexdigest()[:12]}"


def _memory_gb() -> int:
    """Memory of the machine or, if that is less, of the container."""
    try:
        amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):
        return 1 << 20
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text(encoding="ascii") if Path(limit).is_file() else ""
        if text.strip().isdecimal():
            amounts.append(int(text))
    return min(amounts) >> 30
