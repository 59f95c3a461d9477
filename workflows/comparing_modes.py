"""The level ``learn`` with ``--compare``: train several modes several times, and compare them."""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from traceback import format_exception
from typing import Any

import attrs

from l2s_pydra import __version__
from l2s_pydra.steps.compare import (
    ComparedRun,
    answers,
    baseline_of,
    dice_lines,
    read_left_out,
    report_comparison,
    write_tables,
)

from . import engine
from .compared import Plan, Run, plan, workflow_of
from .crew import Crew
from .engine import Outcome
from .learning import checkpoint_dir, others, stage_model
from .model_files import ModelFiles
from .session import Failure, Session

__all__ = ["compare"]

_log = logging.getLogger(__name__)


def compare(session: Session) -> tuple[bool, list[Failure]]:
    """Train every mode with every seed on every fold, assess all models, publish what they say.

    A run that fails stops no other.

    Parameters
    ----------
    session : Session
        The run of the application.

    Returns
    -------
    compared : bool
        Whether there is something to look at.
    failures : list of Failure
        What could not be done.

    Raises
    ------
    DatasetError
        If the training set, or what to compare on, is not as asked for.
    """
    planned = plan(session)
    _warn_of_warmup(session)
    _run(session, planned.runs, planned.crew)
    results = [_result(session, run) for run in planned.runs]
    models = [result.model for result in results if result.model is not None]
    compared = [result.compared for result in results]
    failures = [result.failure for result in results if result.failure is not None]
    failures += _fail_images(session, compared)
    failures += _stage_comparison(session, planned, compared)
    page = session.path("comparison") / "index.html"
    there = page.is_file() and any(run.table for run in compared)
    if models:
        session.describe(*_to_cite(models))
    session.stage_record(session.record())
    _publish(session)
    for result in results:
        if result.model is not None:
            shutil.rmtree(checkpoint_dir(session, result.run.learn), ignore_errors=True)
    return there, failures


def _warn_of_warmup(session: Session) -> None:
    """Say so if no synthesis is learned, because trainings end before that begins."""
    training = session.options.config.training
    learned = [mode for mode in session.options.compare if mode.startswith("learn2synth")]
    if learned and training.steps <= training.theta_warmup_steps:
        _log.warning(
            "%s will learn nothing of the synthesis: %d steps end before step "
            "training.theta_warmup_steps = %d; give more --steps, or set a smaller one",
            " and ".join(learned),
            training.steps,
            training.theta_warmup_steps,
        )


def _run(session: Session, runs: Sequence[Run], crew: Crew) -> None:
    """Do what is not in the cache, and say after each training how far it is."""
    todo = [run for run in runs if not _is_done(session, run)]
    if len(todo) < len(runs):
        _log.info("%d of %d run(s) were done before", len(runs) - len(todo), len(runs))
    if not todo:
        return
    new = [run for run in todo if not engine.is_done(run.learn, session.cache)]
    names = {run.learn._checksum: run.compared.name for run in new}
    if new:
        at_once = min(crew.n_procs, len(new))
        _log.info("training %d model(s), %d at a time", len(new), at_once)
    done: list[str] = []

    def notify(task: Any, seconds: float, error: Exception | None) -> None:
        name = names.get(task._checksum)
        if name is not None:
            done.append(name)
            verb = "failed" if error else "trained"
            count = f"{len(done)} of {len(names)}"
            _log.info("%s: %s in %.0f s (%s)", name, verb, seconds, count)

    resources = [
        crew.resources(session, checkpoint_dir(session, run.learn), run.compared.name)
        for run in todo
    ]
    parts = [part for run in todo for part in _parts(session, run)]
    worker = crew.worker(session, notify)
    engine.run(workflow_of(todo, resources), parts, session.cache, worker)


def _is_done(session: Session, run: Run) -> bool:
    learned = engine.outcome_of([run.learn], session.cache).outputs
    return learned is not None and engine.is_done(run.assess(learned), session.cache)


def _parts(session: Session, run: Run) -> list[Any]:
    """Tasks and workflows of a run, as far as their inputs are known."""
    learned = engine.outcome_of([run.learn], session.cache).outputs
    return [run.learn, run.both, *([run.assess(learned)] if learned is not None else [])]


@attrs.frozen(kw_only=True)
class _Result:
    """What came of a run."""

    run: Run
    compared: ComparedRun
    model: ModelFiles | None = None
    failure: Failure | None = None


def _result(session: Session, run: Run) -> _Result:
    """Stage the model of a run, if there is one, or say why there is none."""
    try:
        return _staged(session, run)
    except Exception as error:
        # Whatever it is, hours of other trainings are to be published.
        return _failed(session, run, _outcome(error), run.compared)


def _outcome(error: Exception) -> Outcome:
    return Outcome(traceback="".join(format_exception(error)))


def _staged(session: Session, run: Run) -> _Result:
    learned = engine.outcome_of([run.learn, run.both], session.cache)
    if learned.outputs is None:
        return _failed(session, run, learned, run.compared)
    folder = Path(learned.outputs.model)
    compared, model = attrs.evolve(run.compared, model=folder), stage_model(session, folder)
    assessed = engine.outcome_of([run.assess(learned.outputs), run.both], session.cache)
    if assessed.outputs is None:
        return attrs.evolve(_failed(session, run, assessed, compared), model=model)
    left_out = [*compared.left_out, *read_left_out(Path(assessed.outputs.failures))]
    for image in left_out:
        image["reason"] = session.without_folders(image["reason"])
    table = Path(assessed.outputs.table)
    compared = attrs.evolve(compared, table=table, left_out=left_out)
    return _Result(run=run, compared=compared, model=model)


def _failed(session: Session, run: Run, outcome: Outcome, compared: ComparedRun) -> _Result:
    name = compared.name.replace(", ", "-").replace(" ", "")
    failure = session.fail(Failure(name=name, file=compared.name, outcome=outcome))
    return _Result(run=run, compared=attrs.evolve(compared, reason=failure.reason), failure=failure)


def _fail_images(session: Session, runs: Iterable[ComparedRun]) -> list[Failure]:
    """Say once of each image that could not be assessed why not."""
    images = {image["image"]: image for run in runs for image in run.left_out}
    return [
        session.fail(
            Failure(
                name=name,
                file=name,
                participant=image["participant_id"],
                outcome=Outcome(traceback=f"{image['reason']}\n"),
            )
        )
        for name, image in images.items()
    ]


def _to_cite(models: Sequence[ModelFiles]) -> list[ModelFiles]:
    """Choose one model of each mode, for the methods text: the others differ by seed or fold."""
    modes = {model.config["learn"]["training"]["mode"]: model for model in reversed(models)}
    return list(reversed(modes.values()))


def _stage_comparison(
    session: Session, planned: Plan, runs: Sequence[ComparedRun]
) -> list[Failure]:
    """Stage tables and page, also of nothing but failures, and say what they say."""
    folder = session.path("comparison")
    try:
        summary = write_tables(runs, folder, baseline=baseline_of(session.options.compare))
        report_comparison(folder, _facts(session, planned, runs))
    except Exception as error:
        # The models are published all the same, and no half of a comparison is.
        shutil.rmtree(folder, ignore_errors=True)
        failure = Failure(name="comparison", file="comparison", outcome=_outcome(error))
        return [session.fail(failure)]
    _warn_of_compute(session, runs)
    if planned.role == "validate":
        _log.warning(
            "there are no test participants; the comparison is on those who chose the weights, "
            "which is too good for all modes"
        )
    for line in (*dice_lines(summary), *answers(summary, runs)) if summary else ():
        _log.info("%s", line)
    return []


def _warn_of_compute(session: Session, runs: Sequence[ComparedRun]) -> None:
    """Say so if trainings that ended by the clock ran on unlike computers, or not alike."""
    if session.options.config.training.max_minutes is None:
        return
    found = set()
    for model in (run.model for run in runs if run.model is not None):
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((model / "config.json").read_text(encoding="utf-8"))
            device = str(config.get("device")).partition(":")[0]
            found.add(f"{config.get('threads')} thread(s) on {device}")
    if len(found) > 1:
        _log.warning(
            "the trainings had as many minutes, but not as much to compute with (%s); "
            "compare their steps in runs.tsv, or train all of them anew",
            ", ".join(sorted(found)),
        )


def _facts(session: Session, planned: Plan, runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Gather what the page says of the comparison as a whole."""
    options = session.options
    trained = planned.runs[0].trained
    people = zip(trained["participants"], trained["roles"], strict=True)
    roles: dict[str, list[str]] = {"learn": [], "validate": [], "test": []}
    for participant, role in dict.fromkeys(people):
        roles[role].append(participant)
    found = (run.model / "theta.json" for run in runs if run.mode == "learn2synth" and run.model)
    thetas = [path for path in found if path.is_file()]
    description = json.loads((options.bids_dir / "dataset_description.json").read_text("utf-8"))
    return {
        "dataset": description.get("Name"),
        "baseline": baseline_of(options.compare),
        "modality": list(options.suffixes),
        "folds": options.folds,
        "steps": options.config.training.steps,
        "max_minutes": options.config.training.max_minutes,
        "version": __version__,
        "command": session.record()["command"]["line"],
        # Of a cross-validation, everyone is everything, and trainings differ by more than seeds.
        **({} if options.folds else roles),
        "theta": [] if options.folds else [json.loads(path.read_text("utf-8")) for path in thetas],
    }


def _publish(session: Session) -> None:
    """Publish what is staged, without what another comparison left in its folder."""
    staged = session.path("comparison")
    published = session.options.output_dir / staged.relative_to(session.stage)
    session.publish()
    if staged.is_dir():
        gone = others(published / "figures", staged / "figures")
        failures = ("failures.tsv", "failures.json")
        gone += [published / name for name in failures if not (staged / name).is_file()]
        session.output.remove(gone)
