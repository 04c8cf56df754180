"""The encoder of the published system: a frozen T5 (DeepFloyd/t5-v1_1-xxl, 4096 wide, at most 300 tokens).

`path` is a folder in the transformers layout or the name of a hub repository. Captions are encoded as they are, as in the published
code, which cleans none. What is longer than `max_tokens` is cut, as there; an encoder says so the first time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mugv.errors import UserError
from mugv.precision import here
from mugv.store.carried import local_path

BATCH = 8

logger = logging.getLogger(__name__)


class T5Encoder:
    """Weights and tokenizer are read on construction. Raises UserError when they cannot be, or have another width."""

    def __init__(
        self, path: str, width: int, max_tokens: int, precision: Literal["fp32", "bf16"] = "fp32", device: str | None = None
    ) -> None:
        import torch

        self.width = width
        self.max_tokens = max_tokens
        self.device = device or here()
        self._tokenizer, model = _load(path, torch.bfloat16 if precision == "bf16" else torch.float32)
        if model.config.d_model != width:
            raise UserError(f"text.width: {width} given, but the T5 encoder at {path} is {model.config.d_model} wide")
        self._model = model.to(self.device).eval().requires_grad_(False)
        self._said = False

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for start in range(0, len(captions), BATCH):
            found += self._batch(list(captions[start : start + BATCH]))
        return found

    def encode_null(self) -> np.ndarray:
        return self.encode([""])[0]

    def _batch(self, captions: list[str]) -> list[np.ndarray]:
        import torch

        self._say_what_is_cut(captions)
        tokens = self._tokenizer(
            captions, max_length=self.max_tokens, truncation=True, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float().cpu().numpy()
        return [row[: int(length)] for row, length in zip(hidden, mask.sum(dim=1).tolist(), strict=True)]

    def _say_what_is_cut(self, captions: list[str]) -> None:
        if self._said:
            return
        for caption in captions:
            # Short texts have fewer tokens than characters and their blanks: they need not be counted.
            if 2 * len(caption) >= self.max_tokens and (count := len(self._tokenizer(caption)["input_ids"])) > self.max_tokens:
                self._said = True
                logger.warning("text of %d tokens cut to %d: %s... (later cuts are not named)", count, self.max_tokens, caption[:60])
                return


def _load(path: str, dtype: Any) -> tuple[Any, Any]:
    try:
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError:
        raise UserError("text.kind: t5 needs the package transformers; install it or use text.kind=hashed") from None
    path = str(local_path(path)) if "://" in path else path
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False), T5EncoderModel.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        where = "the folder" if Path(path).exists() else "no such folder, and the hub copy of"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"text.path: {where} {path} has no usable T5 encoder and tokenizer ({reason})") from None
