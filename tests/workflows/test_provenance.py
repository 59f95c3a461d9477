"""The provenance of a whole derivative, asked as an auditor would ask it."""

import json
import shutil
import warnings

import pytest

from l2s_pydra.bids.checksums import sha256_of

SHA256 = "http://id.loc.gov/vocabulary/preservation/cryptographicHashFunctions/sha256"
PREFIX = "PREFIX prov: <http://www.w3.org/ns/prov#> SELECT DISTINCT * WHERE "


@pytest.fixture(scope="module")
def ask(finished):
    from rdflib import Graph

    graph = Graph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # within rdflib
        for path in sorted((finished.output / "prov").glob("*.json")):
            graph.parse(path, format="json-ld")

    def ask(pattern):
        rows = graph.query(f"{PREFIX} {{ {pattern} }}")
        return [{str(k): str(v) for k, v in row.asdict().items()} for row in rows]

    return ask


def test_every_segmentation_on_disk_came_from_an_image_and_weights(ask, finished, phantom):
    found = ask(
        f"""?dseg prov:wasGeneratedBy ?act ; <{SHA256}> ?sum ; prov:atLocation ?path .
        ?act prov:used ?image, ?weights ; prov:wasAssociatedWith ?software .
        ?image <{SHA256}> ?imagesum ; prov:atLocation ?source . ?weights <{SHA256}> ?weightsum .
        FILTER(STRENDS(STR(?path), "_dseg.nii.gz")) FILTER(STRSTARTS(STR(?image), "bids:raw:"))
        FILTER(STRENDS(STR(?weights), "weights.safetensors"))"""
    )
    on_disk = {
        p.relative_to(finished.output).as_posix() for p in finished.output.rglob("*_dseg.nii.gz")
    }
    assert {row["path"] for row in found} == on_disk
    (weights,) = finished.output.glob("models/*/weights.safetensors")
    for row in found:
        assert row["sum"] == sha256_of(finished.output / row["path"])
        assert row["imagesum"] == sha256_of(phantom / row["source"])
        assert row["weightsum"] == sha256_of(weights)
        sidecar = json.loads(
            (finished.output / row["path"].replace(".nii.gz", ".json")).read_text()
        )
        assert sidecar["Sources"] == [row["image"], row["weights"]]
        assert sidecar["SourceSHA256"] == row["imagesum"]
        assert sidecar["ModelSHA256"] == row["weightsum"]


def test_all_digests_are_those_of_the_files(ask, finished, phantom):
    roots = {"": finished.output, "raw": phantom, "models": finished.output / "models"}
    derivatives = phantom / "derivatives"
    roots |= {"labels": derivatives / "reference", "labelmaps": derivatives / "labelmaps"}
    found = ask(f"?file <{SHA256}> ?sum")
    assert len(found) > 30
    for row in found:
        _, dataset, path = row["file"].split(":", 2)
        assert row["sum"] == sha256_of(roots[dataset] / path), row["file"]


def test_the_weights_came_from_what_was_learned_from(ask, finished):
    found = ask(
        """?weights prov:wasGeneratedBy ?act . ?act prov:used ?image ; prov:startedAtTime ?began ;
        prov:endedAtTime ?ended . FILTER(STRENDS(STR(?weights), "weights.safetensors"))
        FILTER(STRSTARTS(STR(?image), "bids:raw:"))"""
    )
    (splits,) = finished.output.glob("models/*/splits.tsv")
    learned = {line.split("\t")[2] for line in splits.read_text().splitlines()[1:]}
    assert {row["image"].rpartition("/")[2] for row in found} == learned
    assert all(row["began"] <= row["ended"] for row in found)


def test_tables_of_the_group_and_of_images_have_a_source(ask, finished):
    made = {row["path"] for row in ask("?x prov:wasGeneratedBy ?act ; prov:atLocation ?path")}
    tables = finished.output.rglob("*_morph.tsv"), finished.output.rglob("*_dice.tsv")
    assert {p.relative_to(finished.output).as_posix() for t in tables for p in t} <= made


def test_software_and_environment_are_told_once(ask, finished):
    assert len(ask("?x a prov:SoftwareAgent")) == 1
    files = sorted(p.name for p in (finished.output / "prov").glob("prov-software*"))
    assert [name.rpartition("_")[2] for name in files] == ["env.json", "soft.json"]
    (env,) = (finished.output / "prov").glob("*_env.json")
    (environment,) = json.loads(env.read_text())["Environments"]
    assert environment["Dependencies"]["torch"]


def test_descriptions_link_all_that_was_used(finished):
    links = json.loads((finished.output / "dataset_description.json").read_text())["DatasetLinks"]
    assert set(links) == {"raw", "models", "labels", "labelmaps"}


def test_a_finished_tree_is_valid(finished, bids_validator):
    done = bids_validator(finished.output, "--format", "json")
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [i for i in issues if i["severity"] == "error"] == []
    # Who the authors are is for the user to say.
    assert {i["code"] for i in issues if i["severity"] == "warning"} <= {"TOO_FEW_AUTHORS"}


def test_lost_provenance_comes_back(copied, app, phantom):
    before = {p.name: p.read_text() for p in (copied.output / "prov").glob("prov-sub*")}
    assert len(before) == 8
    shutil.rmtree(copied.output / "prov")
    run = app(phantom, copied.output, copied.work, "participant")
    assert run.code == 0, run.said
    after = {p.name: p.read_text() for p in (copied.output / "prov").glob("prov-sub*")}
    assert after == before
