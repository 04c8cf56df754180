"""A text encoder that drifts between processes or leaks padding would silently break every latent set made with it."""

from __future__ import annotations

import hashlib
import re
import string
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mugv.errors import UserError
from mugv.recipe.models import TextEncoder
from mugv.text import open_encoder
from mugv.text.hashed import words

WIDTH = 32
CAPTIONS = ["a red circle moves left", "a blue bar moves up, slowly and for a long time", ""]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory) -> Path:
    """A randomly initialised T5 with a word tokenizer, in the layout of the published one."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    words = sorted({word for caption in CAPTIONS for word in caption.replace(",", "").split()})
    vocabulary = {token: k for k, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(vocabulary), "d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0)).save_pretrained(folder)
    return folder


@pytest.fixture(params=["hashed", "t5"])
def encoder(request):
    path = str(request.getfixturevalue("t5_folder")) if request.param == "t5" else "unused"
    return open_encoder(TextEncoder(kind=request.param, path=path, width=WIDTH, max_tokens=8))


def test_each_token_has_one_float32_row_and_long_captions_are_cut(encoder):
    found = encoder.encode(CAPTIONS)
    assert [e.shape for e in found] == [(6, WIDTH), (8, WIDTH), (1, WIDTH)]
    assert {e.dtype for e in found} == {np.dtype(np.float32)}


def test_a_caption_encodes_alike_alone_and_beside_a_longer_one(encoder):
    together, alone = encoder.encode(CAPTIONS)[0], encoder.encode(CAPTIONS[:1])[0]
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)


def test_null_is_the_empty_caption_and_differs_from_others(encoder):
    null = encoder.encode_null()
    assert null.shape == (1, WIDTH)
    np.testing.assert_allclose(null, encoder.encode([""])[0], rtol=0, atol=1e-6)
    assert np.abs(null[0] - encoder.encode(["red"])[0][0]).max() > 0.1


def test_word_order_changes_the_embedding(encoder):
    first, second = encoder.encode(["red circle", "circle red"])
    assert np.abs(first[0] - second[1]).max() > 0.01


def test_no_captions_give_no_embeddings(encoder):
    assert encoder.encode([]) == []


def test_hashed_embeddings_agree_between_processes():
    config = TextEncoder(width=48, max_tokens=12)
    here = hashlib.sha256(open_encoder(config).encode(CAPTIONS[:1])[0].tobytes()).hexdigest()
    program = (
        "import hashlib, sys; from mugv.recipe.models import TextEncoder; from mugv.text import open_encoder;"
        "e = open_encoder(TextEncoder(width=48, max_tokens=12)).encode(sys.argv[1:])[0]; print(hashlib.sha256(e.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, CAPTIONS[0]]
    root = Path(__file__).parents[2]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": "7"})
    assert there.stdout.strip() == here


def test_hashed_words_have_unit_variance_and_are_nearly_orthogonal():
    words = np.stack([e[0] for e in open_encoder(TextEncoder(width=1024)).encode(["red", "blue", "left", "right", "bar", "circle"])])
    gram = words @ words.T / 1024
    assert np.abs(np.diag(gram) - 1).max() < 0.2
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 0.15


def test_hashed_ignores_case_and_punctuation():
    encoder = open_encoder(TextEncoder(width=16, max_tokens=12))
    first, second = encoder.encode(["A red circle, moves left!", "a red circle moves left"])
    np.testing.assert_array_equal(first, second)


@given(st.text(alphabet=string.printable))
def test_english_words_are_what_they_always_were(text):
    """The figures of the tiny recipe rest on them."""
    assert words(text) == re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("蓝色的圆", ["蓝", "色", "的", "圆"]),
        ("とても ｶﾞ", ["と", "て", "も", "ガ"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("красный Круг", ["красный", "круг"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("हिन्दी عربي", ["हिन्दी", "عربي"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("😀👍🏽 👩\u200d🚀 ❤\ufe0f🇩🇪→", ["😀", "👍🏽", "👩\u200d🚀", "❤", "🇩🇪", "→"]),
        ("don\u2019t \u202ere\u00add\u202c", ["don't", "red"]),
        ("１０ ｒｅｄ", ["10", "red"]),
        ("a_b\u2028c…\ud800", ["a", "b", "c"]),
    ],
)
def test_words_of_every_script_count(text, expected):
    assert words(text) == expected


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_one_text_in_two_forms_is_one_caption(text, form):
    assert words(unicodedata.normalize(form, text)) == words(text)


def test_other_scripts_part_captions_and_none_is_the_empty_text():
    encoder = open_encoder(TextEncoder(width=16, max_tokens=12))
    texts = ["", "红", "蓝", "😀", "😢", "круг", "red"]
    assert len({encoder.encode([text])[0].tobytes() for text in texts}) == len(texts)


def test_what_a_caption_loses_is_said_once(caplog):
    encoder = open_encoder(TextEncoder(width=16, max_tokens=4))
    encoder.encode(["", "  ", "one two three"])
    assert not caplog.records
    encoder.encode(["?!", "...", "one two three four five", "one two three four"])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "'?!' holds no word or symbol and counts as the empty text" in said[0]
    assert "has 5 words and is cut after 3 (text.max_tokens)" in said[1]


def test_changing_a_returned_embedding_does_not_change_the_next_one():
    encoder = open_encoder(TextEncoder(width=16, max_tokens=12))
    encoder.encode(["red"])[0][:] = 0
    assert np.abs(encoder.encode(["red"])[0]).max() > 0


def test_missing_t5_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"^text\.path: the folder .* has no usable T5") as caught:
        open_encoder(TextEncoder(kind="t5", path=str(tmp_path), width=WIDTH))
    assert "\n" not in str(caught.value)


def test_wrong_t5_width_names_the_key(t5_folder):
    with pytest.raises(UserError, match=r"text\.width: 64 given, but .* is 32 wide"):
        open_encoder(TextEncoder(kind="t5", path=str(t5_folder), width=64))


def test_t5_in_bfloat16_stays_close_to_fp32(t5_folder):
    from mugv.text.t5 import T5Encoder

    full, half = (T5Encoder(str(t5_folder), WIDTH, 8, precision=p).encode(CAPTIONS[:1])[0] for p in ("fp32", "bf16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.1


def test_a_model_folder_with_code_of_its_own_is_not_run(t5_folder, tmp_path):
    """A folder may name a Python file as its tokenizer; the library would ask on the terminal, and wait, before it runs it."""
    import json
    import shutil

    folder, mark = tmp_path / "t5", tmp_path / "ran"
    shutil.copytree(t5_folder, folder)
    (folder / "tokenizer_own.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass Own: pass\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"auto_map": {"AutoTokenizer": ["tokenizer_own.Own", None]}}
    settings["tokenizer_class"] = "Own"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    found = open_encoder(TextEncoder(kind="t5", path=str(folder), width=WIDTH, max_tokens=8)).encode(CAPTIONS)
    assert [len(row) for row in found] == [6, 8, 1]
    assert not mark.exists()


def test_a_prompt_that_is_cut_is_said_once(t5_folder, caplog):
    """What stood behind the 300th token was left out without a word."""
    encoder = open_encoder(TextEncoder(kind="t5", path=str(t5_folder), width=WIDTH, max_tokens=8))
    encoder.encode(["a red circle moves left", "a red circle moves left up"])
    assert caplog.messages == []
    encoder.encode(["a red circle moves left up up up"])
    encoder.encode(["a red circle moves left up up up"])
    assert caplog.messages == ["text of 9 tokens cut to 8: a red circle moves left up up up... (later cuts are not named)"]
