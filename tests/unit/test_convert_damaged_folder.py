"""A checkpoint folder that is damaged or of another network ends in one line when it is loaded for training or generation."""

import json
import shutil
from pathlib import Path

import pytest
from release_tools import released_state, write_release

from mugv.errors import UserError
from mugv.training.convert import convert
from mugv.training.model_io import load_dit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    convert(write_release(folder / "dit.pt", released_state()), folder / "dit")
    return folder / "dit"


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "dit"))


def change_config(folder: Path, **changes: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 96, "heads": 8}, r"54 tensors do not match: start_token is \[48\], expected \[96\]; end_token is"),
        ({"layers": 3}, r"21 tensors do not match: layers\.2\.scale_shift_table is missing"),
        ({"layers": 1}, r"21 tensors do not match: layers\.1\.scale_shift_table is unexpected"),
        ({"latent_channels": 8}, r"3 tensors do not match: patch_embedder\.weight is \[48, 16\], expected \[48, 32\]"),
    ],
)
def test_a_size_that_is_not_the_weights_names_the_first_tensors(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(UserError, match=message):
        load_dit(folder)


@pytest.mark.parametrize("name", ["model/__0_0.distcp", "model/.metadata", "model/common.pt", "model/metadata.json", "config.json"])
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 0.9])
def test_a_file_that_is_cut_or_gone_is_one_line(folder, name, share):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"damaged|not a distributed checkpoint|no checkpoint folder") as error:
        load_dit(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
