"""Latents that are not finite would stop the training that reads them, days later: encoding names the clips."""

import numpy as np
import pytest
import torch

from mugv.errors import UserError
from mugv.stages.encode import check_finite

CLIPS = ["a", "b", "c"]


def texts() -> list[np.ndarray]:
    return [np.ones((2, 4), np.float32) for _ in CLIPS]


def test_finite_ones_pass():
    check_finite(CLIPS, {(32, 32): torch.zeros(3, 4, 1, 4, 4)}, texts())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_clips_are_named(value):
    latents = torch.zeros(3, 4, 1, 4, 4)
    latents[1, 2, 0, 3, 3] = value
    with pytest.raises(UserError, match=r"latents at 32x48 are not finite: 1 of 3 clips, b;"):
        check_finite(CLIPS, {(32, 48): latents}, texts())


def test_so_are_those_of_a_text():
    spoilt = texts()
    spoilt[2][0, 0] = np.nan
    with pytest.raises(UserError, match=r"text encoder .* 1 of 3 clips, c"):
        check_finite(CLIPS, {}, spoilt)
