"""What is built is what is here, and works where the checkout is not."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "l2s_pydra": "l2s_pydra",
    "workflows": "l2s_pydra/workflows",
    "bids_examples": "l2s_pydra/bids_examples",
}
LEFT_BEHIND = shutil.ignore_patterns(
    *("__pycache__", "*.egg-info", ".git", ".*_cache", ".venv", "build", "dist", "_build", "work")
)

pytestmark = pytest.mark.slow


def run(*command, cwd, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    quiet = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "OMP_NUM_THREADS": "1", "HOME": str(cwd)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **quiet, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the sdist and the wheel, which is made from the sdist."""
    work = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, work / "checkout", ignore=LEFT_BEHIND, symlinks=True)
    run(
        sys.executable, "-m", "build", "--no-isolation", "-o", "../dist", ".", cwd=work / "checkout"
    )
    return work / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Environment with the wheel; it sees the dependencies, and not the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    (wheel,) = built.glob("*.whl")
    python = folder / "env" / "bin" / "python"
    pip = ("-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index")
    run(sys.executable, *pip, wheel, cwd=folder)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    # Lines of a .pth file are folders; .pth files in these, such as an editable install's, are not
    # read.
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return folder


def files_below(folder):
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_has_every_file_of_the_packages(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, target in FOLDERS.items():
        assert {f"{target}/{name}" for name in files_below(ROOT / source)} <= names
    assert {"pydra/tasks/l2s/__init__.py"} <= names
    assert not {"pydra/__init__.py", "pydra/tasks/__init__.py"} & names
    assert any(name.endswith(".dist-info/licenses/bids_examples/NOTICE") for name in names)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if "." not in top} <= {"l2s_pydra", "pydra"}


def test_the_sdist_has_what_its_tests_and_pages_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "benchmarks", "containers", "docs"):
        wanted = {f"{folder}/{name}" for name in files_below(ROOT / folder)}
        assert {w for w in wanted if not w.startswith(("docs/_build/", "docs/api/"))} <= names
    single = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "constraints.txt")
    assert {*single, "README.md", ".ci/run"} <= names


def test_metadata_are_in_order_and_the_readme_renders(built):
    files = sorted(built.iterdir())
    said = run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=built)
    assert len(files) == said.count("PASSED") == 2


def test_names_are_imported_from_the_wheel(installed):
    code = (
        "import l2s_pydra, l2s_pydra.workflows, pydra.tasks.l2s\n"
        "from l2s_pydra.tasks import Segment\n"
        "from l2s_pydra.interfaces import Segment\n"
        "from l2s_pydra.workflows.nipype import init_segment_wf\n"
        "print(l2s_pydra.__file__, pydra.tasks.l2s.__file__, sep='\\n')\n"
    )
    printed = run(installed / "env" / "bin" / "python", "-c", code, cwd=installed)
    assert all(Path(line).is_relative_to(installed) for line in printed.split())


def test_the_command_says_its_version_and_its_options(installed):
    from l2s_pydra import __version__

    command = installed / "env" / "bin" / "l2s-pydra"
    assert __version__ in run(command, "--version", cwd=installed)
    assert "--real-labels" in run(command, "--help", cwd=installed)


def test_it_segments_its_own_example(installed, model):
    data = next((installed / "env" / "lib").glob("python*/site-packages")) / "l2s_pydra"
    data = data / "bids_examples" / "phantom"
    output = installed / "derivatives" / "l2s_pydra"
    arguments = (data, output, "participant", "--participant-label", "04", "--model", model)
    work = ("--work-dir", installed / "work", "--nprocs", "1", "--omp-nthreads", "1")
    run(installed / "env" / "bin" / "l2s-pydra", *arguments, *work, cwd=installed)
    assert list(output.glob("sub-04/**/*_dseg.nii.gz"))
    assert (output / "sub-04.html").is_file()
