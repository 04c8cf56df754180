"""A checkpoint folder from elsewhere cannot run code, whatever its pickles name, and a damaged one is one line."""

import json
import os
import pickle
import shutil
from pathlib import Path, PosixPath

import pytest
import torch
from release_tools import released_state, write_release
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import WriteItemType

from mugv.cli.main import app
from mugv.errors import UserError
from mugv.training.convert import convert
from mugv.training.convert.trusted import read_metadata
from mugv.training.model_io import load_dit


class Runs:
    """Unpickled without limits, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    convert(write_release(folder / "dit.pt", released_state()), folder / "dit")
    return folder / "dit"


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "dit"))


def hidden_in_a_good_one(folder: Path, mark: Path) -> bytes:
    metadata = read_metadata(folder / "model")
    metadata.planner_data = [Runs(mark)]
    return pickle.dumps(metadata)


PICKLES = {
    "a call alone": lambda folder, mark: pickle.dumps(Runs(mark)),
    "in an old protocol": lambda folder, mark: pickle.dumps(Runs(mark), protocol=0),
    "hidden in a good one": hidden_in_a_good_one,
    "before a good one": lambda folder, mark: pickle.dumps(Runs(mark))[:-1] + b"0" + (folder / "model/.metadata").read_bytes()[2:],
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", [".metadata", "__0.metadata"])
def test_metadata_that_names_a_function_is_refused_and_not_run(folder, tmp_path, kind, name):
    (folder / "model" / name).write_bytes(PICKLES[kind](folder, tmp_path / "ran"))
    (folder / "model" / "digests.json").unlink()
    for use in (load_dit, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(UserError, match=r"refused: .*metadata wants to run posix\.mkdir") as error:
            use(folder)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_generate_refuses_a_checkpoint_that_wants_to_run_code(folder, tmp_path):
    from typer.testing import CliRunner

    (folder / "model" / ".metadata").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    arguments = ["generate", "a circle", "-o", str(tmp_path / "x.mp4"), "--checkpoint", str(folder), "--vae", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "ran").exists()


NAMES = ["builtins.eval", "builtins.getattr", "torch.load", "torch.hub.load", "torch.float32.__class__", "os.system"]


@pytest.mark.parametrize("target", NAMES)
def test_nothing_but_the_classes_of_the_format_is_found(folder, target):
    module, _, name = target.partition(".") if target.count(".") == 1 else target.rpartition(".")
    call = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93)R."
    (folder / "model" / ".metadata").write_bytes(call)
    with pytest.raises(UserError, match=r"refused|not a distributed checkpoint"):
        read_metadata(folder / "model")


@pytest.mark.parametrize("place", ["/etc/passwd", "../../config.json", "sub/__0_0.distcp", "..", ""])
def test_a_data_file_outside_of_the_folder_is_refused(folder, place):
    metadata = read_metadata(folder / "model")
    for info in metadata.storage_data.values():
        object.__setattr__(info, "relative_path", place)
    (folder / "model" / ".metadata").write_bytes(pickle.dumps(metadata))
    (folder / "model" / "digests.json").unlink()
    with pytest.raises(UserError, match="outside of the folder"):
        load_dit(folder)


def test_what_other_versions_of_python_write_is_read(folder):
    """Enumerations by getattr, and the folder as a path."""
    metadata = read_metadata(folder / "model")
    metadata.storage_meta = StorageMeta(checkpoint_id=PosixPath("/somewhere/else"))

    class ByName:
        def __reduce__(self):
            return getattr, (WriteItemType, "TENSOR")

    metadata.planner_data = [ByName(), MetadataIndex("a"), torch.Size([2]), torch.bfloat16]
    (folder / "model" / ".metadata").write_bytes(pickle.dumps(metadata))
    found = read_metadata(folder / "model")
    assert isinstance(found, Metadata)
    assert found.planner_data == [WriteItemType.TENSOR, MetadataIndex("a"), torch.Size([2]), torch.bfloat16]
    load_dit_without_digests(folder)


def load_dit_without_digests(folder: Path) -> None:
    """As a folder of an older version, or of another program."""
    (folder / "model" / "digests.json").unlink()
    load_dit(folder)


def test_common_state_that_wants_to_run_code_is_not_run(folder, tmp_path):
    (folder / "model" / "digests.json").unlink()
    evil = Runs(tmp_path / "ran")
    for write in (lambda path: torch.save({"a": evil}, path), lambda path: path.write_bytes(pickle.dumps(evil))):
        write(folder / "model" / "common.pt")
        with pytest.raises(UserError) as error:
            load_dit(folder)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_turned_bit_of_a_weight_is_named(folder, tmp_path):
    file = folder / "model" / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    file.write_bytes(content)
    for use in (load_dit, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(UserError, match=r"model: damaged since it was written: __0_0\.distcp is not what was written; copy"):
            use(folder)


def test_a_turned_bit_of_a_vae_is_named(tmp_path):
    from vae_tools import random_vae

    from mugv.vae.folder import load_vae, save_vae

    save_vae(random_vae(), tmp_path)
    load_vae(tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is not what was written"):
        load_vae(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"sha256": 3}', '{"sha256": {"a": 1}}', "[" * 100_000])
def test_damaged_digests_are_damage(folder, text):
    (folder / "model" / "digests.json").write_text(text)
    with pytest.raises(UserError, match=r"digests\.json is missing or damaged"):
        load_dit(folder)


def test_config_may_be_edited_by_hand(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"fps": 24.0}))
    assert load_dit(folder)[1]["fps"] == 24.0
