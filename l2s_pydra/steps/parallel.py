"""Learn with several processes that share every batch: ``python -m l2s_pydra.steps.parallel``.

:func:`~l2s_pydra.steps.learn.learn` starts the processes of one machine by itself. For several
machines, the same command is started by torchrun or by Slurm's srun, once for each GPU; it takes
the file ``learn.json`` that a run leaves beside its checkpoint. The run itself, started again, then
finds the finished checkpoint and writes the model.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TrainingError
from .ending import Ending

__all__ = ["launch", "main", "write_specification"]

logger = logging.getLogger(__name__)

_NAME = "learn.json"
_GRACE_S = 30
"""Time for a checkpoint, between being asked to end and being ended."""


def write_specification(folder: Path, arguments: Mapping[str, Any]) -> Path:
    """Write the arguments of :func:`~l2s_pydra.steps.learn.learn` as JSON.

    Parameters
    ----------
    folder : Path
        Where ``learn.json`` is written.
    arguments : mapping
        By name; paths become absolute.

    Returns
    -------
    Path
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(dict(arguments), indent=2, default=_absolute) + "\n")
    temporary.replace(path)
    return path


def _absolute(value: Any) -> str:
    if isinstance(value, Path):
        return str(value.absolute())
    raise TypeError(f"{value!r} does not go into JSON")


def launch(arguments: Mapping[str, Any], processes: int) -> Path:
    """Run :func:`~l2s_pydra.steps.learn.learn` in several processes of this machine.

    Parameters
    ----------
    arguments : mapping
        Of ``learn``, by name.
    processes : int
        How many; with GPUs, one for each.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    TrainingError
        If one of them failed; all are stopped then.
    """
    with _folder(arguments.get("checkpoint_dir")) as folder:
        specification = write_specification(folder, arguments)
        result = _result_file(specification)
        result.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            f"--nproc-per-node={processes}",
            *("-m", __name__, str(specification), str(os.getpid())),
        ]
        logger.info("training in %d processes", processes)
        status = _run(command, _environment(arguments.get("threads"), processes))
        outcome = json.loads(result.read_text()) if result.is_file() else {}
        result.unlink(missing_ok=True)
    if "model" in outcome:
        return Path(outcome["model"])
    reason = outcome.get("error", f"exit status {status}; see the log")
    raise TrainingError(f"training in {processes} processes failed: {reason}")


@contextlib.contextmanager
def _folder(given: Any) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="l2s-learn-") as folder:
        yield Path(folder)


def _environment(threads: int | None, processes: int) -> dict[str, str]:
    # What another launcher has set is not for these processes.
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    variables = {k: v for k, v in os.environ.items() if k not in names}
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(max(1, threads // processes))
    return variables


def _run(command: list[str], variables: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=variables, start_new_session=True)

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    try:
        with Ending(end):
            return process.wait()
    finally:
        if process.poll() is None:
            end()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _result_file(specification: Path) -> Path:
    return specification.with_suffix(".result")


def main(argv: list[str] | None = None) -> int:
    """Be one of the processes; the command of torchrun and srun.

    Parameters
    ----------
    argv : list of str, optional
        One file that :func:`write_specification` wrote; and, where :func:`launch` started this
        process, the number of the process that did, with which this one ends.

    Returns
    -------
    int
        0, or 1 if the training failed.
    """
    given = sys.argv[1:] if argv is None else argv
    if len(given) not in (1, 2):
        sys.stderr.write(f"usage: torchrun ... -m l2s_pydra.steps.parallel {_NAME}\n")
        return 2
    specification = Path(given[0])
    if len(given) == 2:
        threading.Thread(target=_follow, args=(int(given[1]),), daemon=True).start()
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    logging.basicConfig(
        level=logging.INFO if first else logging.ERROR,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    result: dict[str, str] = {}
    try:
        result["model"] = str(_learn_here(specification))
    except Exception as error:
        logger.exception("training failed")
        result["error"] = f"{type(error).__name__}: {error}"
    if first or "error" in result:
        _result_file(specification).write_text(json.dumps(result))
    return 0 if "model" in result else 1


def _follow(process: int) -> None:
    """End this process when another one is gone, however that ended."""
    while True:
        try:
            # Somebody else's process has its id, which cannot be told from its own: go on.
            with contextlib.suppress(PermissionError):
                os.kill(process, 0)
        except ProcessLookupError:
            break
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def _learn_here(specification: Path) -> Path:
    from ..bilevel.processes import environment, joined
    from .learn import learn_shared

    arguments = _read(specification)
    found = environment(os.environ)
    local = int(found.get("LOCAL_RANK", "0"))
    arguments["device"] = device = _device(arguments.get("device", "auto"), local, found)
    arguments["threads"] = _threads(arguments.get("threads"), len(found) > 0)
    with joined(device) as processes:
        return learn_shared(processes=processes, **arguments)


def _read(specification: Path) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = json.loads(specification.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{specification}: cannot be read ({error}); give the {_NAME} that a run of the level "
            "learn left beside its checkpoint"
        ) from error
    for name in ("images", "labels", "label_maps", "validation_maps"):
        arguments[name] = [Path(item) for item in arguments.get(name) or ()]
    for name in (
        "real_table",
        "maps_table",
        "label_mapping",
        "start_from",
        "out_dir",
        "checkpoint_dir",
        "cache_dir",
    ):
        value = arguments.get(name)
        arguments[name] = Path(value) if value else None
    return arguments


def _device(asked: str, local: int, found: Mapping[str, str]) -> str:
    """Device of this process: the GPU of its number, or the CPU."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not gpus):
        return "cpu"
    if not found:
        return asked
    if local >= gpus:
        raise ConfigError(
            f"process {local + 1} of this machine has no GPU of its own ({gpus} are usable); "
            "start fewer processes, or use the device 'cpu'"
        )
    return f"cuda:{local}"


def _threads(asked: int | None, shared: bool) -> int | None:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if shared and given.isdigit() else asked


if __name__ == "__main__":
    sys.exit(main())
