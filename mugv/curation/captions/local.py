"""A vision language model in this process (transformers), for a GPU box without a server. An endpoint (vLLM) is several times as fast.

Any model that AutoProcessor and AutoModelForImageTextToText open, such as Qwen2.5-VL or LLaVA; processors of the Qwen-VL family
need torchvision. Requests that wait together are generated together.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

from mugv.curation.captions.model import Answer, NoAnswerError, Question
from mugv.errors import UserError
from mugv.precision import here
from mugv.recipe.curation import Captioning
from mugv.store.carried import local_path

BATCH = 8


class LocalModel:
    """Weights and processor are read on construction. Raises UserError when they cannot be."""

    def __init__(self, settings: Captioning) -> None:
        import torch

        assert settings.model is not None
        path = settings.model
        self.name = Path(path).name
        self.device = here()
        self._processor, model = _load(path, torch.bfloat16 if self.device == "cuda" else torch.float32)
        self._model = model.to(self.device).eval().requires_grad_(False)
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await answer

    async def close(self) -> None:
        if self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        """Generate until nobody waits: each time the first question with those that may share its batch."""
        while self._waiting:
            # One turn of the loop, so that requests of one moment come into one batch.
            await asyncio.sleep(0)
            first = self._waiting[0][0]
            batch = [item for item in self._waiting if _together(item[0], first)][:BATCH]
            self._waiting = [item for item in self._waiting if item not in batch]
            try:
                answers: list[Answer] = await asyncio.to_thread(self._generate, [question for question, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(_failure(error))
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _generate(self, questions: list[Question]) -> list[Answer]:
        import torch

        inputs = self._processor.apply_chat_template(
            [_messages(question) for question in questions],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.device, dtype=self._model.dtype)
        first = questions[0]
        sampling = {"do_sample": True, "temperature": first.temperature} if first.temperature else {"do_sample": False}
        with torch.inference_mode():
            written = self._model.generate(**inputs, max_new_tokens=first.max_tokens, **sampling)
        start = inputs["input_ids"].shape[1]
        return [self._answer(row[start:], int(mask.sum())) for row, mask in zip(written, inputs["attention_mask"], strict=True)]

    def _answer(self, row: Any, asked: int) -> Answer:
        """`row`: int64 [tokens], padded after the end."""
        tokenizer = self._processor.tokenizer
        ends = self._model.generation_config.eos_token_id
        stops = {tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])}
        tokens = row.tolist()
        length = next((k for k, token in enumerate(tokens) if token in stops), len(tokens))
        text = tokenizer.decode(tokens[:length], skip_special_tokens=True).strip()
        return Answer(text, asked, length, cut=length == len(tokens))


def _together(one: Question, other: Question) -> bool:
    return (one.temperature, one.max_tokens, len(one.pictures)) == (other.temperature, other.max_tokens, len(other.pictures))


def _messages(question: Question) -> list[dict[str, Any]]:
    from PIL import Image

    content: list[dict[str, Any]] = [{"type": "image", "image": Image.open(io.BytesIO(p)).convert("RGB")} for p in question.pictures]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question.text}]}]


def _failure(error: Exception) -> Exception:
    """Out of memory is the user's to change; anything else is said as it is."""
    if type(error).__name__ == "OutOfMemoryError":
        return UserError("curation.caption: the GPU's memory is too small; lower concurrency, frames or short_side")
    lines = str(error).strip().splitlines()
    return NoAnswerError(type(error).__name__, lines[0][:160] if lines else "", again=False)


def _load(path: str, dtype: Any) -> tuple[Any, Any]:
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError:
        raise UserError("curation.caption.kind: transformers needs the package transformers; install it or use kind endpoint") from None
    path = str(local_path(path)) if "://" in path else path
    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
        where = "the folder" if Path(path).exists() else "no such folder, and the hub copy of"
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"curation.caption.model: {where} {path} has no usable vision language model and processor ({reason})") from None
    if getattr(processor, "chat_template", None) is None or not hasattr(processor, "tokenizer"):
        raise UserError(f"curation.caption.model: {path} has no processor with a chat template; give an instruction-tuned model")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor, model
