"""A model in this process: what it says must depend on the clip's own pictures, alone and in a batch."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caption_tools import write_part
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mugv.curation.captions import read_captioned
from mugv.curation.captions.compose import prompt
from mugv.curation.captions.local import LocalModel
from mugv.curation.captions.model import NoAnswerError, Question
from mugv.curation.captions.part import caption_part
from mugv.errors import UserError
from mugv.recipe.curation import Captioning, Curation

SAID = {"dark": "a dark circle moves left", "bright": "the bright square is on a floor"}
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {% for c in m.content %}{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def _processor() -> LlavaProcessor:
    words = ["<pad>", "</s>", "<unk>", "<image>", "user", "assistant", *sorted({w for s in SAID.values() for w in s.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": ["<image>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return LlavaProcessor(images, fast, chat_template=TEMPLATE, **settings)


def _network(words: int) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=16)
    text = LlamaConfig(**sizes, vocab_size=words, max_position_embeddings=1024, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA, taught in seconds to tell dark pictures from bright ones, in the layout of a real model."""
    home = tmp_path_factory.mktemp("vlm")
    processor = _processor()
    network = _network(len(processor.tokenizer))
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    question = prompt(Captioning(structured=False), 2)
    for step in range(120):
        level = [(30, "dark"), (220, "bright")][step % 2]
        inputs = _inputs(processor, question, [level[0] + step % 16] * 2, f"{SAID[level[1]]} </s>")
        loss = network(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    network.save_pretrained(home)
    processor.save_pretrained(home)
    return home


def _inputs(processor: LlavaProcessor, question: str, levels: list[int], answer: str) -> dict[str, Any]:
    content = [{"type": "image", "image": Image.fromarray(np.full((48, 64, 3), level, np.uint8))} for level in levels]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    asked = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    ids = processor.tokenizer(answer, return_tensors="pt", add_special_tokens=False).input_ids
    whole = torch.cat([asked["input_ids"], ids], 1)
    labels = torch.cat([torch.full_like(asked["input_ids"], -100), ids], 1)
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole), "pixel_values": asked["pixel_values"], "labels": labels}


def settings(folder: Path, **caption: Any) -> Captioning:
    return Captioning(kind="transformers", model=str(folder), structured=False, frames=2, **caption)


def test_the_caption_follows_the_pictures_also_in_a_batch(folder: Path) -> None:
    model = LocalModel(settings(folder))
    text = prompt(settings(folder), 2)
    questions = [Question(text, (jpeg(level),) * 2, max_tokens=12) for level in (30, 220, 34, 226, 28)]

    async def together() -> list[str]:
        answers = await asyncio.gather(*map(model.ask, questions))
        await model.close()
        assert not any(answer.cut for answer in answers)
        assert all(answer.tokens_input > 20 for answer in answers)
        return [answer.text for answer in answers]

    assert asyncio.run(together()) == [SAID[k] for k in ("dark", "bright", "dark", "bright", "dark")]


def test_a_part_is_captioned_without_any_server(folder: Path, tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", count=2, frames=2)
    (tmp_path / "out").mkdir()
    curation = Curation(caption=settings(folder))
    metrics = caption_part(part, tmp_path / "out", tmp_path / "work", curation, lambda *_: None)
    found = read_captioned([tmp_path / "out"])
    assert {f.caption for f in found.values()} == {SAID["dark"]}
    assert {f.source for f in found.values()} == {folder.name}, "a machine's path is nothing for the manifest"
    assert metrics["tokens_output"] == 10


def test_an_answer_without_an_end_is_marked_as_cut(folder: Path) -> None:
    model = LocalModel(settings(folder))
    answer = asyncio.run(model.ask(Question(prompt(settings(folder), 2), (jpeg(30),) * 2, max_tokens=3)))
    assert (answer.text, answer.tokens_output, answer.cut) == ("a dark circle", 3, True)


def test_a_failure_of_one_batch_is_an_answer_to_those_who_wait(folder: Path) -> None:
    model = LocalModel(settings(folder))

    async def both() -> list[Any]:
        bad, good = Question("x", (b"no jpeg",), max_tokens=3), Question(prompt(settings(folder), 2), (jpeg(30),) * 2, max_tokens=12)
        return await asyncio.gather(model.ask(bad), model.ask(good), return_exceptions=True)

    failed, answer = asyncio.run(both())
    assert isinstance(failed, NoAnswerError)
    assert answer.text == SAID["dark"]


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"curation\.caption\.model: the folder .*empty has no usable vision language model") as raised:
        LocalModel(settings(tmp_path / "empty"))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"curation\.caption\.model: no such folder"):
        LocalModel(settings(tmp_path / "absent"))
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (plain / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="no processor with a chat template"):
        LocalModel(settings(plain))
