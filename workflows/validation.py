"""Validation of the raw data set with the BIDS validator, where it is installed."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from l2s_pydra.errors import DatasetError

__all__ = ["InvalidBidsError", "validate"]

_log = logging.getLogger(__name__)
_PROGRAM = "bids-validator-deno"


class InvalidBidsError(DatasetError):
    """The data set is not valid BIDS."""


def validate(bids_dir: Path) -> None:
    """Validate a BIDS data set; without the validator, say so and go on.

    Parameters
    ----------
    bids_dir : Path
        Root of the data set.

    Raises
    ------
    InvalidBidsError
        If the validator finds errors; warnings do not count.
    """
    program = shutil.which(_PROGRAM) or shutil.which(
        _PROGRAM, path=str(Path(sys.executable).parent)
    )
    if program is None:
        _log.info("the BIDS validator is not installed; pip install 'l2s_pydra[validate]'")
        return
    command = [program, "--ignoreWarnings", "--ignoreNiftiHeaders", "--format", "json"]
    _log.info("validating %s", bids_dir)
    done = subprocess.run(
        [*command, str(bids_dir)], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
    except (ValueError, KeyError, TypeError):
        _log.warning("the BIDS validator did not work: %s", done.stderr.strip()[-300:])
        return
    errors = [issue for issue in issues if issue.get("severity") == "error"]
    if errors:
        raise InvalidBidsError(
            f"{bids_dir}: is not valid BIDS, {len(errors)} error(s), first {_describe(errors[0])}; "
            "correct the data set, or pass --skip-bids-validation"
        )


def _describe(issue: dict[str, Any]) -> str:
    code = " ".join(str(issue[key]) for key in ("code", "subCode") if issue.get(key))
    return f"{code} in {issue.get('location') or 'the data set'}"
