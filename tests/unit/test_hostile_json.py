"""Any text in the place of a manifest, a record or an address: read, or refused in one line. Nothing else is raised."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mugv.platform.records import DamagedRecordError, RunRecord, read_json
from mugv.store import open_store
from mugv.store.manifest import Entry, Manifest, ManifestError
from mugv.store.uri import file_path, file_uri, scheme_of

NAMES = st.sampled_from(["key", "digest", "files", "sha256", "bytes", "run", "node", "started", "status", "output", "git", "a/b", "../x"])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), children, max_size=5),
    max_leaves=12,
)
PATHS = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda n: n not in (".", "..")
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_any_json_is_a_manifest_that_stays_in_its_folder_or_none(tree: object) -> None:
    try:
        found = Manifest.parse(json.dumps(tree))
    except ManifestError:
        return
    assert all(isinstance(entry, Entry) for entry in found.files.values())
    assert not [name for name in found.files if ".." in name.split("/") or name.startswith("/")]


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_any_json_is_a_record_that_can_be_shown_or_none(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    record = RunRecord.of(tmp_path_factory.getbasetemp(), "r")
    (record.folder / "stages").mkdir(parents=True, exist_ok=True)
    for path in (record.folder / "run.json", record.folder / "stages" / "scan.json"):
        path.write_text(json.dumps(tree))
        with suppress(DamagedRecordError):
            assert 0 <= read_json(path).get("ended", 1.0) < 1e11
    assert all(stage["node"] and stage.get("started", 0.0) >= 0 for stage in record.stages() if stage["node"])
    record.damage()


@settings(max_examples=300, deadline=None)
@given(PATHS)
def test_any_path_survives_the_way_into_a_uri_and_back(name: str) -> None:
    path = Path("/data") / name / "store"
    assert file_path(file_uri(path)) == path
    assert file_path(str(path)) == path
    assert open_store(f"{name}:/x").uri == file_uri(Path(f"{name}:/x")) or name.lower() == "file"
    assert scheme_of(file_uri(path)) == "file"
