"""BIDS-Prov files, read by rdflib as anyone's tool would, without a network."""

import json
import socket
import warnings

import attrs
import pytest

from l2s_pydra.bids.checksums import sha256_of
from l2s_pydra.bids.derivatives import write_json, write_text
from l2s_pydra.bids.manifest import FileEntry, ImageEntry, Manifest, manifest_of
from l2s_pydra.bids.prov import Run, group_prov, model_prov, participant_prov
from l2s_pydra.bids.provenance import run_record, to_toml

RUN = "20260131-235959_cccb4441"
WEIGHTS = "ab" * 32
SHA256 = "http://id.loc.gov/vocabulary/preservation/cryptographicHashFunctions/sha256"


def record(run=RUN, **changes):
    model = {"name": "m1", "version": "1", "sha256": WEIGHTS, "theta": {"noise": 0.1}}
    command = ["/usr/bin/l2s-pydra", "/data/a b", "/out", "participant"]
    return run_record(run=run, command=command, settings={}, **{"model": model, **changes})


def image_entry(source, outputs, **changes):
    made_from = {
        "image": "cd" * 32,
        "weights": WEIGHTS,
        "model_in_dataset": True,
        "flip": True,
        "test_time_draws": 1,
        "keep_largest": None,
    }
    values = {"source": source, "segmentation": "tissue", "run": RUN, "outputs": outputs}
    return ImageEntry(**{**values, "made_from": made_from, **changes})


@pytest.fixture
def derivative(tmp_path):
    """Two images of a participant, with a manifest and the record of a run."""
    manifest = Manifest()
    for session in ("a", "b"):
        stem = f"sub-01/ses-{session}/anat/sub-01_ses-{session}"
        names = [f"{stem}_seg-tissue_desc-T1w_dseg{e}" for e in (".nii.gz", ".json", ".tsv")]
        for name in names:
            path = write_text(tmp_path / name, f"contents of {name}")
            manifest.files[name] = FileEntry(sha256=sha256_of(path), size=1, run=RUN)
        entry = image_entry(f"{stem}_T1w.nii.gz", names)
        manifest.images[entry.name] = entry
    manifest.write(tmp_path / manifest_of("sub-01/"))
    write_text(tmp_path / f"sub-01/log/{RUN}/l2s_pydra.toml", to_toml(record()))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def graph(no_network):
    """Parse documents into one graph."""

    def graph(documents):
        from rdflib import Graph

        whole = Graph()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # within rdflib
            for document in documents.values():
                whole.parse(data=json.dumps(document), format="json-ld")
        return whole

    return graph


def query(graph, pattern):
    prefixes = "PREFIX prov: <http://www.w3.org/ns/prov#> "
    rows = graph.query(f"{prefixes} SELECT DISTINCT * WHERE {{ {pattern} }}")
    return [{str(k): str(v) for k, v in row.asdict().items()} for row in rows]


def test_every_segmentation_came_from_its_image_and_the_weights(derivative, graph):
    found = query(
        graph(participant_prov(derivative, "sub-01")),
        f"""?dseg a prov:Entity ; prov:wasGeneratedBy ?act ; <{SHA256}> ?digest ; prov:atLocation ?path .
        ?act a prov:Activity ; prov:used ?image, ?weights ; prov:startedAtTime ?began .
        ?act prov:wasAssociatedWith ?software . ?software a prov:Agent .
        ?image <{SHA256}> ?source . ?weights <{SHA256}> ?weightsum .
        FILTER(STRENDS(STR(?dseg), "_dseg.nii.gz"))
        FILTER(STRSTARTS(STR(?image), "bids:raw:")) FILTER(STRSTARTS(STR(?weights), "bids:models:"))""",
    )
    assert len(found) == 2
    for row in found:
        assert row["digest"] == sha256_of(derivative / row["path"])
        session = row["path"].split("/")[1]
        assert row["image"] == f"bids:raw:sub-01/{session}/anat/sub-01_{session}_T1w.nii.gz"
        assert row["weights"] == "bids:models:model-m1/weights.safetensors"
        assert (row["source"], row["weightsum"]) == ("cd" * 32, WEIGHTS)
        assert row["began"].startswith("2026-01-31T23:59:59")


def test_keys_are_those_of_the_draft(derivative):
    documents = participant_prov(derivative, "sub-01")
    ours = {"@context", "Parameters"}
    known = {
        "act": {"Id", "Label", "Command", "AssociatedWith", "Used", "Type", "StartedAtTime", "EndedAtTime"},
        "ent": {"Id", "Label", "AtLocation", "GeneratedBy", "Type", "Digest"},
        "soft": {"Id", "Label", "Version", "Type"},
        "env": {"Id", "Label", "OperatingSystem", "Dependencies", "Type", "Container"},
    }  # fmt: skip
    lists = {"act": "Activities", "ent": "Files", "soft": "Software", "env": "Environments"}
    assert len(documents) == 4
    for path, document in documents.items():
        suffix = path.rpartition("_")[2].removesuffix(".json")
        assert set(document) == {"@context", lists[suffix]}
        for row in document[lists[suffix]]:
            assert set(row) - ours <= known[suffix]
            assert row["Id"].startswith("bids:")
    (names, _) = (sorted(documents), None)
    assert names[-2:] == ["prov/prov-sub01_act.json", "prov/prov-sub01_ent.json"]


def test_every_key_has_a_meaning(derivative, graph):
    documents = participant_prov(derivative, "sub-01")
    everything = graph(documents)
    for document in documents.values():
        (rows,) = (value for key, value in document.items() if key != "@context")
        for row in rows:
            facts = query(everything, f"<{row['Id']}> ?key ?value")
            told = {key for key, value in row.items() if key != "Id" and value is not None}
            assert len({fact["key"] for fact in facts}) == len(told)


def test_written_again_it_is_the_same(derivative):
    assert participant_prov(derivative, "sub-01") == participant_prov(derivative, "sub-01")


def test_another_run_of_one_image_leaves_the_other_as_it_was(derivative):
    before = participant_prov(derivative, "sub-01")
    place = derivative / manifest_of("sub-01/")
    manifest = Manifest.read(place)
    later = "20270101-000000_dddd"
    key = next(key for key in manifest.images if "ses-b" in key[0])
    manifest.images[key] = attrs.evolve(manifest.images[key], run=later)
    manifest.write(place)
    write_text(derivative / f"sub-01/log/{later}/l2s_pydra.toml", to_toml(record(run=later)))
    after = participant_prov(derivative, "sub-01")
    name = "prov/prov-sub01_act.json"
    first, second = (documents[name]["Activities"] for documents in (before, after))
    assert first[0] == second[0]
    assert first[1]["Id"] != second[1]["Id"]
    assert second[1]["StartedAtTime"] == "2027-01-01T00:00:00Z"
    # Software and environment are the same, and so are their files.
    assert {n: d for n, d in after.items() if "software" in n} == {
        n: d for n, d in before.items() if "software" in n
    }


def test_an_image_that_was_changed_between_two_segmentations_is_two(derivative, graph):
    path = derivative / manifest_of("sub-01/")
    manifest = Manifest.read(path)
    first = next(iter(manifest.images.values()))
    name = first.source.replace("_T1w.nii.gz", "_seg-lobes_desc-T1w_dseg.nii.gz")
    sha256 = sha256_of(write_text(derivative / name, "other labels"))
    later = "20260201-000000_aaaaaaaa"
    manifest.files[name] = FileEntry(sha256=sha256, size=1, run=later)
    changed = {**first.made_from, "image": "01" * 32}
    again = attrs.evolve(first, segmentation="lobes", run=later, outputs=(name,), made_from=changed)
    manifest.images[again.name] = again
    manifest.write(path)
    whole = graph(participant_prov(derivative, "sub-01"))
    for output, digest in ((first.outputs[0], "cd" * 32), (name, "01" * 32)):
        rows = query(
            whole,
            f"""?file prov:wasGeneratedBy ?act . ?act prov:used ?image . ?image <{SHA256}> ?source .
            FILTER(STRENDS(STR(?file), "{output.rpartition("/")[2]}"))
            FILTER(STRSTARTS(STR(?image), "bids:raw:"))""",
        )
        assert [row["source"] for row in rows] == [digest]
        assert rows[0]["image"].startswith(f"bids:raw:{first.source}")


def test_a_model_from_elsewhere_is_named_by_its_checksum(derivative):
    place = derivative / manifest_of("sub-01/")
    manifest = Manifest.read(place)
    for key, entry in manifest.images.items():
        made_from = {**entry.made_from, "model_in_dataset": False}
        manifest.images[key] = attrs.evolve(entry, made_from=made_from)
    manifest.write(place)
    documents = participant_prov(derivative, "sub-01")
    used = documents["prov/prov-sub01_act.json"]["Activities"][0]["Used"]
    assert f"bids::prov#entity-{WEIGHTS[:16]}" in used
    assert "models" not in json.dumps(documents)


@pytest.mark.parametrize("text", [None, "not = [toml", "[" * 50_000])
def test_a_lost_record_costs_the_run_and_not_the_files(derivative, text, graph):
    path = derivative / f"sub-01/log/{RUN}/l2s_pydra.toml"
    path.unlink() if text is None else path.write_text(text)
    found = query(graph(participant_prov(derivative, "sub-01")), "?x prov:wasGeneratedBy ?y")
    assert len(found) == 4  # label map and label table of two images


def test_nothing_recorded_nothing_told(tmp_path):
    assert participant_prov(tmp_path, "sub-01") == {}


def test_ten_thousand_participants_need_little(derivative):
    documents = participant_prov(derivative, "sub-01")
    own = [json.dumps(d, indent=2) for n, d in documents.items() if "sub01" in n]
    assert sum(map(len, own)) < 12_000  # two images; 60 MB for ten thousand participants of one


def test_container_is_part_of_the_environment():
    run = Run(values=record(container={"Type": "docker", "Tag": "l2s:1"}))
    assert run.environment["Label"] == "l2s:1"
    assert run.environment["Container"] == {"Type": "docker", "Tag": "l2s:1"}
    assert run.environment["Id"] != Run(values=record()).environment["Id"]


def test_a_model_was_made_from_what_it_learned_from(tmp_path, graph):
    folder = tmp_path / "model-m1"
    for name in ("weights.safetensors", "labels.tsv"):
        write_text(folder / name, name)
    config = {"learn": {"training": {"mode": "synthseg", "steps": 3, "seed": 5}}, "theta": {"a": 1}}
    write_json(folder / "config.json", config)
    inputs = [{"uri": "bids:raw:sub-01/anat/sub-01_T1w.nii.gz", "sha256": "ef" * 32}]
    documents = model_prov(folder, run=record(), inputs=inputs)
    found = query(
        graph(documents),
        f"?weights prov:wasGeneratedBy ?act ; <{SHA256}> ?digest . ?act prov:used ?image . "
        f'?image <{SHA256}> "{"ef" * 32}"',
    )
    sums = {row["weights"].rpartition("/")[2]: row["digest"] for row in found}
    assert sums == {path.name: sha256_of(path) for path in folder.iterdir()}
    (activity,) = documents["prov/prov-modelm1_act.json"]["Activities"]
    assert activity["Parameters"] == {"mode": "synthseg", "steps": 3, "seed": 5, "theta": {"a": 1}}


def test_tables_of_the_group_come_from_the_whole(graph):
    tables = {"seg-tissue_dice.tsv": "ab" * 32}
    documents = group_prov(run=record(), outputs=tables, references="labels")
    found = query(graph(documents), "?x prov:wasGeneratedBy ?act . ?act prov:used ?data")
    assert {row["data"] for row in found} >= {"bids::.", "bids:labels:."}
    assert {row["x"] for row in found} == {"bids::seg-tissue_dice.tsv"}
