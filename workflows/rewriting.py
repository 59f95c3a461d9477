"""Pages and methods text of what an output folder holds, without computing anything."""

import logging
import shutil
from pathlib import Path

from l2s_pydra.bids.known_uses import known_uses
from l2s_pydra.bids.methods import write_methods
from l2s_pydra.errors import DatasetError

from .comparing import rewrite_group
from .learning import others, stage_model
from .model_files import ModelFiles, find_model
from .session import Session

__all__ = ["rewrite_methods", "rewrite_pages"]

_log = logging.getLogger(__name__)


def rewrite_pages(session: Session) -> None:
    """Write the pages of the levels that were asked for anew.

    Pages of models at the level ``learn``, of participants at ``participant``, of the group at
    ``group``. Nothing but pages and what they show is touched.

    Parameters
    ----------
    session : Session
        The run.

    Raises
    ------
    DatasetError
        If there is nothing to write a page of.
    ModelError
        If the model that was asked for is not there.
    """
    levels = session.options.levels
    if "learn" in levels:
        _models(session)
    if "group" in levels:
        named = session.options.model
        model = None if named is None else find_model(named, session.options.output_dir)
        rewrite_group(session, model)
        session.publish()
    if "participant" in levels:
        _participants(session)
    session.publish()


def _models(session: Session) -> None:
    output_dir = session.options.output_dir
    if session.options.model is not None:
        folders = [find_model(session.options.model, output_dir).folder]
    else:
        folders = sorted(path for path in output_dir.glob("models/model-*") if path.is_dir())
    if not folders:
        raise DatasetError(f"{output_dir}: holds no model; run the level learn first")
    for folder in folders:
        if not ModelFiles.read(folder).is_in(output_dir):
            raise DatasetError(f"{folder}: is not in {output_dir / 'models'}; give the name of one")
        staged = stage_model(session, folder).folder
        session.publish()
        session.output.remove(others(folder / "figures", staged / "figures"))
        shutil.rmtree(staged)
    _log.info("%d page(s) of models", len(folders))


def _participants(session: Session) -> None:
    from l2s_pydra.steps.page_data import PageData
    from l2s_pydra.steps.report import read_groups

    options = session.options
    groups = read_groups(options.output_dir)
    recorded = options.output_dir.glob(str(PageData.place("sub-*", Path())))
    people = sorted(path.relative_to(options.output_dir).parts[0] for path in recorded)
    if options.participants is not None:
        people = [who for who in people if who.removeprefix("sub-") in options.participants]
    for who in people:
        session.publish_page(who, groups)
    if not people:
        raise DatasetError(
            f"{options.output_dir}: has no record of such participants; "
            "run the level participant first"
        )
    _log.info("%d page(s) of participants", len(people))


def rewrite_methods(session: Session) -> str:
    """Write the methods text of what the output folder holds, and return it.

    Parameters
    ----------
    session : Session
        The run.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    DatasetError
        If there is nothing to tell of.
    """
    options = session.options
    named = options.model
    models = [] if named is None else [find_model(named, options.output_dir)]
    # As one: what another run writes meanwhile is not to be replaced by what was before.
    with session.output.locked():
        uses = known_uses(options.output_dir)
        if not uses:
            models = models or _only_models(options.output_dir)
        paths = write_methods(
            session.stage,
            options.output_dir,
            models=[model.description for model in models],
            uses=uses,
        )
        session.publish()
    return paths[0].read_text(encoding="utf-8")


def _only_models(output_dir: Path) -> list[ModelFiles]:
    folders = sorted(path for path in output_dir.glob("models/model-*") if path.is_dir())
    if not folders:
        raise DatasetError(
            f"{output_dir}: holds no segmentation and no model to tell of; "
            "run the level participant first, or give a model by --model"
        )
    return [ModelFiles.read(folder) for folder in folders]
