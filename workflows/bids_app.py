"""The BIDS App: what happens between the command line and the levels.

Nothing here imports PyTorch: the heavy work runs in processes of their own.
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from l2s_pydra.bids.provenance import new_run_id
from l2s_pydra.errors import (
    ConfigError,
    InUseError,
    JobError,
    L2SError,
    NoImageError,
    OutputError,
    TrainingError,
)

from .exit_codes import ExitCode
from .logs import set_up_logging
from .options import Options
from .validation import InvalidBidsError, validate

if TYPE_CHECKING:
    from .model_files import ModelFiles
    from .session import Failure, Session

__all__ = ["run"]

_log = logging.getLogger(__name__)


class _NoPlaceError(OutputError):
    """The output or the working directory cannot be made."""


_EXIT_CODES: dict[type[L2SError], int] = {
    InvalidBidsError: ExitCode.INVALID_BIDS,
    _NoPlaceError: ExitCode.CANNOT_CREATE,
    OutputError: ExitCode.IO,
    InUseError: ExitCode.TEMPORARY,
    NoImageError: ExitCode.NO_IMAGE,
    ConfigError: ExitCode.USAGE,
    TrainingError: ExitCode.FAILED,
    JobError: ExitCode.FAILED,
    L2SError: ExitCode.DATA,
}


class _Terminated(KeyboardInterrupt):
    """The process was asked to end."""


def run(options: Options) -> int:
    """Run the application.

    Parameters
    ----------
    options : Options
        What the command line decided.

    Returns
    -------
    int
        Exit code of the BIDS execution specification.
    """
    set_up_logging(options.verbosity)
    _set_up_processes(options)
    try:
        with _end_on_sigterm():
            return _run_levels(options)
    except L2SError as error:
        _log.error("%s", error)
        return _exit_code(type(error))
    except _Terminated:
        _log.error("terminated; the same command goes on from here")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        _log.error("interrupted; the same command goes on from here")
        return 128 + signal.SIGINT
    except OSError as error:
        _log.error("%s", error, exc_info=options.verbosity > 0)
        return ExitCode.IO


def _run_levels(options: Options) -> int:
    from l2s_pydra.bids.checksums import Checksums, clock_skew
    from l2s_pydra.bids.publishing import OutputFolder

    from .engine import Outcome, claim
    from .session import Failure, Session

    rewrites = options.reports_only or options.boilerplate_only
    reads_images = {"learn", "participant"} & set(options.levels) and not rewrites
    if reads_images and not options.skip_validation:
        validate(options.bids_dir)
    if options.dry_run:
        from .dry_run import dry_run

        sys.stdout.write(dry_run(options))
        return ExitCode.OK
    for folder in (options.output_dir, options.work_dir):
        _make(folder)
    if options.mem_mb is not None:
        _log.info("memory: %.1f GB in all", options.mem_mb / 1000)
    uuid = new_run_id()
    stage = options.work_dir / "stage" / uuid
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(claim(options.work_dir, clean=options.clean_workdir))
        skew = max(map(clock_skew, (options.work_dir, options.output_dir)))
        checksums = stack.enter_context(Checksums.open(options.work_dir, skew_s=skew))
        output = stack.enter_context(OutputFolder.open(options.output_dir, uuid, checksums))
        session = Session(options=options, uuid=uuid, cache=cache, stage=stage, folder=output)
        try:
            return _rewrite(session) if rewrites else _levels(session)
        except (L2SError, OSError):
            raise
        except Exception:
            outcome = Outcome(traceback=traceback.format_exc())
            session.fail(Failure(name="run", file="l2s-pydra", outcome=outcome))
            session.publish()
            return ExitCode.SOFTWARE
        finally:
            if not options.debug:
                shutil.rmtree(stage, ignore_errors=True)


def _make(folder: Path) -> None:
    """Make a folder, and see whether a file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".l2s_pydra-"):
            pass
    except OSError as error:
        raise _NoPlaceError(
            f"{error.filename or folder}: cannot be made ({error.strerror}); check permissions and "
            "free space, or choose another folder"
        ) from error


def _rewrite(session: "Session") -> int:
    """Write pages or the methods text anew."""
    from .rewriting import rewrite_methods, rewrite_pages

    if session.options.boilerplate_only:
        sys.stdout.write(rewrite_methods(session))
    else:
        rewrite_pages(session)
    return ExitCode.OK


def _levels(session: "Session") -> int:
    from .comparing import group
    from .comparing_modes import compare
    from .engine import empty_cache
    from .learning import learn, preview
    from .model_files import find_model
    from .segmenting import participant

    options = session.options
    model: ModelFiles | None = None
    failures: list[Failure] = []
    if options.preview:
        failures = preview(session)
        return _exit_code(failures[0].outcome.kind) if failures else 0
    if options.compare:
        compared, failures = compare(session)
        if not compared:
            return _exit_code(failures[0].outcome.kind)
    elif "learn" in options.levels:
        model, failures = learn(session)
        if model is None:
            return _exit_code(failures[0].outcome.kind)
    if options.model is not None or (model is None and "participant" in options.levels):
        model = find_model(options.model, options.output_dir)
    with contextlib.ExitStack() as stack:
        if options.force:
            cache = stack.enter_context(empty_cache(session.cache, session.uuid))
            session = attrs.evolve(session, cache=cache)
        if "participant" in options.levels and model is not None:
            failures += participant(session, model)
        if "group" in options.levels:
            failures += group(session, model, failures)
    for page in _pages(options, model):
        _log.info("to look at: %s", page)
    return _code_of(failures)


def _code_of(failures: "Sequence[Failure]") -> int:
    """Exit code of a run that went to its end: that nothing could be written tells the most."""
    if any(issubclass(failure.outcome.kind or Exception, OutputError) for failure in failures):
        return ExitCode.IO
    return ExitCode.FAILED if failures else ExitCode.OK


def _pages(options: Options, model: "ModelFiles | None") -> list[Path]:
    """List pages that were just written, the most telling first."""
    pages = [options.output_dir / "comparison" / "index.html"] if options.compare else []
    pages += [options.output_dir / "group.html"] if "group" in options.levels else []
    if "participant" in options.levels and not options.seg_only:
        pages += sorted(options.output_dir.glob("sub-*.html"))[:1]
    if "learn" in options.levels and model is not None and not options.compare:
        pages.append(model.folder / "report.html")
    return pages


def _exit_code(kind: type[Exception] | None) -> int:
    """Exit code of an error; that of a failure unless the user can mend it."""
    codes = (code for ours, code in _EXIT_CODES.items() if kind and issubclass(kind, ours))
    return next(codes, ExitCode.FAILED)


def _set_up_processes(options: Options) -> None:
    """Set the environment that the worker processes inherit."""
    if options.worker == "l2s" and (options.threads or 0) > options.n_procs:
        _log.warning(
            "--omp-nthreads %d is more than --nprocs %d, which holds for all processes together: "
            "no process takes more than %d",
            options.threads,
            options.n_procs,
            options.n_procs,
        )
    for variable in ("NO_ET", "NIPYPE_NO_ET"):  # no telemetry, unless the user decided otherwise
        os.environ.setdefault(variable, "1")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(options.threads or options.n_procs))


@contextlib.contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that processes and files are cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Terminated

    old = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
