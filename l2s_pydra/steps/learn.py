"""Learn a model: labelled images and label maps in, a model folder out."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import LearnConfig
from .calibration import calibrate_quality
from .device import computing_on
from .ending import Ending
from .generator_file import generator_record
from .given import check_lists, check_roles, unique_names
from .moments import Moments
from .parallel import launch, write_specification
from .plan import plan_memory
from .prepare import prepare
from .priors import check_priors, fit_priors, write_priors
from .progress import Progress
from .samples import samples_size, write_samples
from .schemes import Schemes, read_schemes
from .staging import write_folder
from .starting import start_record, start_weights

if TYPE_CHECKING:
    from ..bilevel.processes import Processes
    from ..bilevel.training import Trainer, TrainingData

__all__ = ["learn", "learn_shared"]

logger = logging.getLogger(__name__)


def learn(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    participants: Sequence[str],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    real_table: Path,
    config: Mapping[str, Any],
    segmentation: str,
    out_dir: Path,
    maps_table: Path | None = None,
    label_mapping: Path | None = None,
    validation_maps: Sequence[Path] = (),
    start_from: Path | None = None,
    checkpoint_dir: Path | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
    title: str | None = None,
    processes: int = 1,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    memory_bytes: int | None = None,
) -> Path:
    """Train a model as ``config`` says.

    Parameters
    ----------
    images, labels : sequences of Path
        Real images and their labels on the same grid, in pairs. There may be none in the mode
        ``synthseg``.
    participants : sequence of str
        Participant of each image, ``sub-01``.
    roles : sequence of str
        ``learn``, ``validate`` or ``test``, one per image; a participant has one role. Nothing is
        learned from images to test on; they are checked, and listed in splits.tsv.
    label_maps : sequence of Path
        Label maps for synthesis; those of the learning images are always added.
    real_table : Path
        BIDS ``dseg.tsv`` of ``labels``; without images, of the labels that the model shall write.
    config : mapping
        A :class:`~l2s_pydra.config.LearnConfig` as a dict.
    segmentation : str
        Value of the ``seg-`` entity of what the model will write; alphanumeric.
    out_dir : Path
        The model folder is made in it.
    maps_table : Path, optional
        BIDS ``dseg.tsv`` of ``label_maps``; ``real_table`` by default.
    label_mapping : Path, optional
        TSV with the columns ``index`` and ``mapping``, from ``label_maps`` to ``labels``.
    validation_maps : sequence of Path, optional
        Without images: label maps that are held out. Synthetic images of them, always the same,
        choose the weights that are kept.
    start_from : Path, optional
        Folder of a model with the same labels and network, whose weights the training starts from;
        its voxel size may differ.
    checkpoint_dir : Path, optional
        Where checkpoints go, and from where an interrupted run resumes.
    cache_dir : Path, optional
        Folder that keeps images and label maps as they were brought to the grid, for further
        trainings on the same files (:mod:`~l2s_pydra.steps.conformed`). The model is the same with
        and without it.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.
    threads : int, optional
        CPU threads.
    progress : bool, default=True
        Whether to show a progress bar (on a terminal) or log lines.
    title : str, optional
        What log lines call the training, where several run at a time; there is no bar then.
    processes : int, default=1
        Processes of this machine that share every batch, one for each GPU; for several machines
        see :mod:`~l2s_pydra.steps.parallel`.
    checkpoint_every : int, optional
        Steps between two checkpoints; the setting ``training.checkpoint_every`` by default. At
        SIGTERM, one more is written. No result depends on it.
    keep_checkpoints : int, default=2
        How many are kept; if the newest is damaged, the one before is taken.
    memory_bytes : int, optional
        Most memory that a step may take, where others need some too; by default what is free.

    Returns
    -------
    Path
        ``out_dir/model-<name>`` with weights.safetensors, config.json, labels.tsv, training.tsv,
        splits.tsv, theta.json, identifiability.json, estimator.json, generator.json, priors.json,
        priors.tsv, priors_columns.json, MODELCARD.md and samples.

    Raises
    ------
    L2SError
        If a file, a table or a setting cannot be used; see :mod:`l2s_pydra.errors`.
    """
    arguments: dict[str, Any] = {
        "images": list(images),
        "labels": list(labels),
        "participants": list(participants),
        "roles": list(roles),
        "label_maps": list(label_maps),
        "real_table": real_table,
        "config": LearnConfig.from_dict(config).to_dict(),
        "segmentation": segmentation,
        "out_dir": out_dir,
        "maps_table": maps_table,
        "label_mapping": label_mapping,
        "validation_maps": list(validation_maps),
        "start_from": start_from,
        "checkpoint_dir": checkpoint_dir,
        "cache_dir": cache_dir,
        "device": device,
        "threads": threads,
        "progress": progress,
        "title": title,
        "checkpoint_every": checkpoint_every,
        "keep_checkpoints": keep_checkpoints,
        "memory_bytes": memory_bytes,
    }
    check_lists(len(images), labels=labels, participants=participants, roles=roles)
    check_roles(participants, roles)
    if processes > 1:
        from ..bilevel.processes import check_shares

        check_shares(arguments["config"]["training"]["batch_size"], processes)
        return launch(arguments, processes)
    if checkpoint_dir is not None:
        write_specification(Path(checkpoint_dir), arguments)
    return learn_shared(**arguments)


def learn_shared(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    participants: Sequence[str],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    real_table: Path,
    config: Mapping[str, Any],
    segmentation: str,
    out_dir: Path,
    maps_table: Path | None,
    label_mapping: Path | None,
    validation_maps: Sequence[Path],
    start_from: Path | None,
    checkpoint_dir: Path | None,
    cache_dir: Path | None,
    device: str,
    threads: int | None,
    progress: bool,
    title: str | None = None,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    memory_bytes: int | None = None,
    processes: "Processes | None" = None,
) -> Path:
    """Do the part of :func:`learn` that falls to one process.

    Parameters
    ----------
    processes : Processes, optional
        Those that share the batches; the first of them writes. The others are those of
        :func:`learn`.

    Returns
    -------
    Path
        The model folder in the first process, ``out_dir`` in the others.
    """
    import torch

    from ..bilevel.training import Trainer

    settings = LearnConfig.from_dict(config)
    first = processes is None or processes.first
    schemes = read_schemes(real_table, maps_table, label_mapping)
    start = start_weights(start_from, schemes.target, settings) if start_from else None
    show = Progress(settings, enabled=progress and first, title=title)
    with computing_on(device, threads) as chosen:
        data, facts = prepare(
            images=images,
            labels=labels,
            names=unique_names(participants, images),
            roles=roles,
            label_maps=label_maps,
            validation_maps=validation_maps,
            schemes=schemes,
            config=settings,
            cache_dir=cache_dir,
            progress=show.reading,
        )
        check_priors(settings.synthesis.priors, data.synthesizer.labels.group_names)
        moments = facts.pop("moments")
        checkpoint = _checkpoint(checkpoint_dir)
        plan = plan_memory(
            settings,
            data,
            len(schemes.target),
            device=chosen,
            checkpoint=checkpoint,
            processes=processes,
            memory_bytes=memory_bytes,
        )
        data = plan.data
        trainer = Trainer(
            plan.config,
            data,
            n_classes=len(schemes.target),
            device=chosen,
            checkpoint=checkpoint,
            changes=plan.changes,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
            processes=processes,
            start=start.segmenter.state_dict() if start else None,
        )
        with Ending() as ending:
            trainer.run(lambda row: _told(show, trainer, ending, row))
        show.close()
        if not first:
            return Path(out_dir)
        facts |= {
            "label_maps": [Path(path).name for path in label_maps],
            "validation_maps": [Path(path).name for path in validation_maps],
            "start_from": start_record(start) if start else None,
            "threads": torch.get_num_threads(),
            "device": str(chosen),
            "processes": processes.size if processes else 1,
            "torch": torch.__version__,
            "memory": {**plan.record, "changes": trainer.state.memory},
        }
        splits = [
            {"participant_id": p, "role": role, "image": path.name}
            for p, role, path in zip(participants, roles, map(Path, images), strict=True)
        ]
        return _write_model(
            trainer, data, schemes, facts, splits, segmentation, Path(out_dir), moments
        )


def _told(show: Progress, trainer: "Trainer", ending: Ending, row: Mapping[str, Any]) -> None:
    """Show a step; if the process is asked to end, keep what was done first."""
    show.training(row)
    if ending.pending:
        logger.warning("terminated at step %d; a checkpoint is written first", row["step"])
        trainer.save()
        ending.deliver()


def _checkpoint(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) / "training.safetensors"


def _write_model(
    trainer: "Trainer",
    data: "TrainingData",
    schemes: Schemes,
    facts: Mapping[str, Any],
    splits: Sequence[Mapping[str, str]],
    segmentation: str,
    out_dir: Path,
    moments: Mapping[str, Sequence[Moments]],
) -> Path:
    """Write the model folder; it appears under its name only once it is complete."""
    from safetensors.torch import save

    from ..segmentation import Model
    from .model_card import estimator_in_words, model_card

    state, settings = trainer.state, trainer.config
    trainer.averaged.load_state_dict(state.phi_best)
    final = trainer.augmentation.describe()
    trainer.augmentation.load_state_dict(state.theta_average)
    theta = {
        "start": trainer.theta_start,
        "final": final,
        "average": trainer.augmentation.describe(),
        "hypergradient_steps": state.theta_steps,
    }
    weights = save({k: v.cpu().contiguous() for k, v in trainer.averaged.state_dict().items()})
    name = f"{settings.training.mode}{_digest(weights)}"
    record = {
        "name": name,
        "segmentation": segmentation,
        "version": __version__,
        "learn": settings.to_dict(),
        "theta": theta["average"],
        "best_dice": state.best_dice,
        "best_step": state.best_step,
        "skipped_steps": state.skipped + state.theta_skipped,
        "estimator": estimator_in_words(settings.training.estimator, state.checks),
        "validation_dice": dict(zip(schemes.target.names[1:], state.best_per_class, strict=False)),
        "seconds": round(state.seconds, 1),
        "parameters": sum(p.numel() for p in trainer.averaged.parameters()),
        **facts,
    }
    finished = Model(segmenter=trainer.averaged, scheme=schemes.target, config=record)
    record["quality"] = calibrate_quality(finished, data.validate, device=trainer.device)

    def write(folder: Path) -> None:
        model = Model(segmenter=trainer.averaged, scheme=schemes.target, config=_plain(record))
        model.save(folder)
        _write_tsv(folder / "training.tsv", _columns(state.history), state.history)
        _write_tsv(folder / "splits.tsv", ["participant_id", "role", "image"], splits)
        (folder / "theta.json").write_text(json.dumps(_plain(theta), indent=2) + "\n")
        if moments:
            write_priors(fit_priors(moments), folder)
        described = generator_record(model.config, schemes, data.synthesizer.labels)
        (folder / "generator.json").write_text(json.dumps(described, indent=2) + "\n")
        if settings.training.mode.startswith("learn2synth"):
            estimator = {"asked_for": settings.training.estimator, "checks": state.checks}
            (folder / "estimator.json").write_text(json.dumps(_plain(estimator), indent=2) + "\n")
            _write_identifiability(folder / "identifiability.json", trainer)
        (folder / "MODELCARD.md").write_text(model_card(model.config, splits), encoding="utf-8")
        write_samples(folder / "samples", trainer, data)

    final_folder = out_dir / f"model-{name}"
    write_folder(final_folder, write, needed=len(weights) + samples_size(data))
    logger.info("model %s: validation Dice %.3f", name, state.best_dice)
    return final_folder


def _write_identifiability(path: Path, trainer: "Trainer") -> None:
    """Write which values of the augmentation, at their average, the data determined."""
    from ..bilevel.identifiability import identifiability

    facts = identifiability(
        trainer.state.theta_trace,
        theta=list(trainer.augmentation.parameters()),
        describe=trainer.augmentation.describe,
        history=trainer.state.history,
    )
    path.write_text(json.dumps(_plain(facts), indent=2) + "\n")


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """Replace NaN, which JSON does not know, by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _columns(history: Sequence[Mapping[str, float]]) -> list[str]:
    first = [
        "step",
        "seconds",
        "learning_rate",
        "synthetic_loss",
        "real_loss",
        "gradient_norm",
        "theta_gradient_norm",
        "skipped_steps",
        "synthesis_seconds",
        "validation_dice",
    ]
    theta = {key for row in history for key in row if key.startswith("theta/")}
    order = [key for key in (history[-1] if history else {}) if key in theta]
    return [*first, *order]


def _write_tsv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    def cell(value: Any) -> str:
        if value is None or value != value:
            return "n/a"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    lines = ["\t".join(columns)]
    lines += ["\t".join(cell(row.get(column)) for column in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
