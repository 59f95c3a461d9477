"""What runs inside a batch job: one task, whose result goes to Pydra's cache.

Pydra's ``load_and_run`` fails while it reports a failure, which hides the failure.
"""

import pickle
import sys
from pathlib import Path

__all__ = ["main"]


def main(file: Path) -> None:
    """Run the task in a file that :class:`l2s_pydra.workflows.batch.BatchJobs` wrote.

    Parameters
    ----------
    file : Path
        The pickled job.
    """
    content = pickle.loads(file.read_bytes())
    # Modules that the parent could import, a script's neighbours for instance.
    sys.path += [entry for entry in content["path"] if entry not in sys.path]
    import cloudpickle

    from .worker import run_pickled

    prepare = cloudpickle.loads(content["prepare"])
    if prepare is not None:
        prepare()
    run_pickled(content["job"], content["rerun"], Path(content["log"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
