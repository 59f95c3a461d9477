"""Nothing in a finished derivative names a person, a computer or a folder of it."""

import getpass
import gzip
import shutil
import socket
import struct
import zipfile
from pathlib import Path

import nibabel as nib
import pytest

TEXT = {
    ".json",
    ".tsv",
    ".html",
    ".toml",
    ".md",
    ".txt",
    ".bib",
    ".svg",
    ".csv",
    ".log",
    ".bidsignore",
    "lock",
}


def gzip_header(path):
    """File name and time in the header of a gzip file (RFC 1952)."""
    with path.open("rb") as file:
        magic, _, flags, mtime = struct.unpack("<HBBI", file.read(8))
        assert magic == 0x8B1F
        file.read(2)
        name = b""
        if flags & 8:
            while (byte := file.read(1)) not in (b"", b"\x00"):
                name += byte
    return name, mtime


def png_chunks(content):
    """Kind and content of the chunks of a PNG file."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        yield kind, content[place + 8 : place + 8 + length]
        place += 12 + length


def spoken(path):
    """All bytes of a file that could hold words."""
    content = path.read_bytes()
    if path.name.endswith(".nii.gz"):
        name, mtime = gzip_header(path)
        assert mtime == 0, f"{path.name}: tells when it was written"
        header = nib.load(path).header
        fields = [
            bytes(header[key].tobytes())
            for key in ("descrip", "aux_file", "db_name", "intent_name")
        ]
        extensions = [bytes(e.get_content()) for e in header.extensions]
        return b"\n".join([name, *fields, *extensions, gzip.decompress(content)[:1024]])
    if path.suffix == ".png":
        return b"\n".join(
            data for kind, data in png_chunks(content) if kind not in (b"IDAT", b"PLTE")
        )
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return "\n".join(i.filename + repr(i.extra) for i in archive.infolist()).encode()
    if path.suffix == ".safetensors":
        (length,) = struct.unpack("<Q", content[:8])
        return content[8 : 8 + length]
    assert path.suffix in TEXT or path.name in TEXT, f"{path.name}: of a kind this test cannot read"
    return content


def told(root, *secrets):
    """Which files hold which secrets."""
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    contents = {path: spoken(path) for path in files}
    return sorted(
        f"{path.relative_to(root)}: {secret}"
        for path, content in contents.items()
        for secret in secrets
        if secret.encode() in content
    )


def secrets_of(run, data):
    """What a derivative may not tell."""
    folders = {run.output.parent, run.work, Path(data).parent, Path.home(), Path.cwd()}
    names = {socket.gethostname(), f"/{getpass.getuser()}/", f"-of-{getpass.getuser()}"}
    return [*map(str, folders - {Path("/")}), *names, "/site-packages/", "/tmp/"]


def test_the_sweep_sees_what_it_looks_for(finished, tmp_path):
    """Each kind of file, with a secret put where its kind can hide one."""
    dseg = next(finished.output.rglob("*_dseg.nii.gz"))
    image = nib.load(dseg)
    image.header["descrip"] = b"secret1"
    nib.save(image, tmp_path / "a.nii.gz")
    with (
        (tmp_path / "b.nii.gz").open("wb") as raw,
        gzip.GzipFile("secret2.nii", "wb", fileobj=raw, mtime=0) as file,
    ):
        file.write(gzip.decompress(dseg.read_bytes()))
    picture = next(finished.output.rglob("*_dseg.png")).read_bytes()
    chunk = b"tEXtSource\x00secret3"
    (tmp_path / "c.png").write_bytes(
        picture[:33] + struct.pack(">I", len(chunk) - 4) + chunk + bytes(4) + picture[33:]
    )
    (tmp_path / "d.toml").write_text("secret4")
    found = told(tmp_path, *(f"secret{i}" for i in range(1, 5)))
    assert found == ["a.nii.gz: secret1", "b.nii.gz: secret2", "c.png: secret3", "d.toml: secret4"]


def test_a_finished_run_tells_no_secrets(finished, phantom):
    assert told(finished.output, *secrets_of(finished, phantom)) == []


@pytest.fixture(scope="module")
def failed(app, finished, phantom, tmp_path_factory):
    """A run on copied data in which one image is broken, one cannot be read, and the model is given."""
    folder = tmp_path_factory.mktemp("someone")
    data = folder / "data"
    shutil.copytree(phantom, data)
    for path in (data, *data.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    (data / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"no image")
    (model,) = (finished.output / "models").iterdir()
    run = app(
        data,
        folder / "l2s_pydra",
        folder / "work",
        "participant",
        "--model",
        str(model),
        "--skip-bids-validation",
    )
    assert run.code == 1, run.said
    return run, data


def test_a_failed_run_tells_no_secrets(failed):
    run, data = failed
    assert list(run.output.glob("sub-03/log/*/crash-*.txt"))
    assert told(run.output, *secrets_of(run, data)) == []


def test_records_say_what_was_run_all_the_same(failed):
    run, _ = failed
    (record,) = run.output.glob("sub-03/log/*/l2s_pydra.toml")
    text = record.read_text()
    assert '"<bids_dir>", "<output_dir>"' in text
    assert "participant" in text
