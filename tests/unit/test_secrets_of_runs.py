"""What a run writes down holds no passwords: refused in recipes, hidden elsewhere."""

import base64
import io
import socket
from pathlib import Path

import pytest
from PIL import Image
from recipes import TREE, write_recipe
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.errors import UserError
from mugv.platform.tracking import Tracking
from mugv.recipe import load_recipe

SECRET = "hunter2secret"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host:8000/v1",
        f"https://{SECRET}@host/v1",
        f"https://host/v1?api-key={SECRET}",
        f"http://host/v1?token={SECRET}",
    ],
)
def test_recipe_takes_no_password_in_the_address_of_a_captioner(tmp_path: Path, url: str) -> None:
    path = write_recipe(tmp_path)
    with pytest.raises(UserError, match=r"url must not hold a user, a password or a token.*MUGV_CAPTION_KEY") as caught:
        load_recipe(path, ["curation.caption.kind=endpoint", "curation.caption.model=m", f"curation.caption.url={url}"])
    assert SECRET not in str(caught.value)
    assert load_recipe(path, ["curation.caption.kind=endpoint", "curation.caption.model=m", "curation.caption.url=http://host:8000/v1"])
    assert "curation" not in TREE


@pytest.mark.parametrize(
    "uri", [f"http://user:{SECRET}@host:5000", f"postgresql://user:{SECRET}@host/mlflow", f"mysql+pymysql://u:{SECRET}@h/d"]
)
def test_password_of_the_tracking_server_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking = Tracking.of_state(tmp_path)
    assert tracking.uri == uri
    assert SECRET not in tracking.shown
    assert "host" in tracking.shown or "h/d" in tracking.shown


def test_pictures_of_a_request_that_are_none_are_one_line() -> None:
    from mugv.platform.video_model import _decoded, picture

    whole = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(whole, "PNG")
    assert picture(_decoded(base64.b64encode(whole.getvalue()).decode())).shape == (64, 64, 3)
    for text in ("no base64!", "é", base64.b64encode(b"text").decode(), base64.b64encode(whole.getvalue()[:60]).decode()):
        with pytest.raises(UserError, match="image"):
            picture(_decoded(text))


@pytest.mark.parametrize("command", [("lineage",), ("promote", "1"), ("rollback",), ("generate", "x", "-o", "x.mp4")])
def test_server_that_is_away_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{SECRET}@127.0.0.1:{port}")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "--state", str(tmp_path)])
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, SECRET in done.output, done.output.count("\n")) == (2, False, 1)
    assert done.output.startswith(f"error: MLflow http://***@127.0.0.1:{port} does not answer as asked (")
