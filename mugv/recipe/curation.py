"""The recipe's part on data: how raw footage becomes clips. Same rules as mugv.recipe.schema: frozen, strict, units in the docstrings.

A score's thresholds are a `Range`; limits that are unset reject nothing, the score is measured and kept all the same.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mugv.recipe.models import ModelPart as Part
from mugv.recipe.models import Positive
from mugv.redact import has_secrets

NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=16, le=16384)]
"""Pixels. Below, no codec has a picture; above, no picture fits the memory."""
Pictures = Annotated[int, Field(ge=1, le=1000)]


class ShotSplit(Part):
    """Shot boundaries: candidates by PySceneDetect, each checked for a change of scene; gradual transitions; frames trimmed beside each."""

    content_threshold: Annotated[float, Field(gt=0)] = 8.0
    """Least content score (PySceneDetect) of a candidate for a hard cut; each is checked for a change of scene."""
    fade_threshold: Annotated[float, Field(ge=0, le=255)] = 12.0
    """Mean luma (0 to 255) under which a frame counts as faded to black."""
    gradual_threshold: Annotated[float, Field(gt=0)] = 3.0
    """Standard deviations of the shot's own frame-to-frame change that mark a gradual transition."""
    minimum_frames: Positive = 8
    """A shorter shot gives no clip."""
    maximum_seconds: Annotated[float, Field(gt=0)] | None = None
    """No more than this of one shot, from its start, becomes clips; unset: all of it."""
    trim_frames: NonNegative = 2
    """Frames left out beside every boundary."""


class SourceRule(Part):
    """Shot thresholds for the sources whose name matches (the paper tunes them for each source)."""

    match: str
    """Glob on the source's name, such as `phone/*.mp4`. The first rule that matches counts."""
    shot: ShotSplit


class Range(Part):
    """Keep a clip when minimum <= score <= maximum."""

    least: ClassVar[float] = 0.0
    """Smallest and largest value that the score can have."""
    most: ClassVar[float] = math.inf
    minimum: float | None = None
    """Smallest score that is kept; unset: no limit."""
    maximum: float | None = None
    """Largest score that is kept; unset: no limit."""

    @model_validator(mode="after")
    def _order(self) -> Range:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} must not exceed maximum {self.maximum:g}")
        if self.minimum is not None and self.minimum > self.most:
            raise ValueError(f"minimum {self.minimum:g} would reject every clip: the score is {self.most:g} at most")
        if self.maximum is not None and self.maximum < self.least:
            raise ValueError(f"maximum {self.maximum:g} would reject every clip: the score is {self.least:g} at least")
        return self


class Share(Range):
    """A score from 0 to 1."""

    most: ClassVar[float] = 1.0


class Levels(Range):
    """A score in levels of brightness, 0 to 255."""

    most: ClassVar[float] = 255.0


class Sharpness(Range):
    """Variance of the Laplacian after a resize of the short side (paper 2.1: 200 to 2000, size unknown)."""

    minimum: float | None = 8.0
    short_side: Side = 720
    """Pixels; a larger source is scaled down to it, a smaller one is measured as it is."""


class Motion(Range):
    """Mean optical-flow magnitude over three frame pairs, pixels in `gap_seconds` at `short_side` (paper 2.1: 1 to 20)."""

    minimum: float | None = 0.3
    maximum: float | None = 45.0
    short_side: Side = 360
    """Pixels that the displacement is told in."""
    gap_seconds: Annotated[float, Field(gt=0, le=10)] = 0.125
    """Unit of time: pairs lie at most a twelfth of a second apart, and their flow is scaled to this gap."""
    method: Literal["dis", "raft"] = "dis"
    """raft needs the `raft` extra and a GPU; same unit."""
    weights: str | None = None
    """raft: file with its weights."""


class Border(Share):
    """Share of the picture that is black border, 0 to 1."""

    crop: bool = True
    """Cut borders off the kept clips; every other score sees the picture without them."""


class OverlaidText(Share):
    """Share of the picture that boxes of overlaid text cover, 0 to 1. Under a short side of about 160 writing is too small to be found."""

    maximum: float | None = 0.01
    detector: Literal["rapidocr", "off"] = "rapidocr"
    """off: not measured."""
    short_side: Side = 192
    """Pixels of the picture that is searched."""


class Aesthetic(Range):
    """LAION-style head on CLIP image embeddings, about 1 to 10 (paper 2.1: at least 4.5)."""

    least: ClassVar[float] = -math.inf
    clip: str | None = None
    """Folder of a CLIP model (transformers); unset: neither aesthetic score nor embeddings."""
    head: str | None = None
    """File with the head's weights (.safetensors or .pth); unset: embeddings alone."""
    frames: Pictures = 3
    """Pictures of a clip that are scored, evenly spaced; their mean counts."""


class ClipFormat(Part):
    """How a kept clip is cut and stored."""

    frames: Annotated[int, Field(ge=1, le=10_001)] = 17
    """Frames of a clip at `fps`: 1 + 8k."""
    fps: Annotated[float, Field(ge=0.1, le=1000)] = 12.0
    """Frames a second of a clip; sources are resampled to it."""
    short_side: Side = 96
    """Clips are scaled down to this short side, never up."""
    stride_frames: Positive = 17
    """Distance between windows over one long shot."""
    copy_streams: bool = False
    """Cut without re-encoding where a clip begins on a key frame and needs neither scaling, cropping nor another frame rate."""

    @model_validator(mode="after")
    def _length(self) -> ClipFormat:
        if self.frames % 8 != 1:
            raise ValueError(f"frames must be 1 + 8k (9, 17, 25, ...), got {self.frames}")
        return self


Language = Literal[
    "ar", "de", "en", "es", "fr", "he", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "tr", "uk", "vi", "zh"
]


SERVICE = ("url", "key_variable", "concurrency", "requests_a_minute", "attempts", "timeout_seconds", "price_input", "price_output")
"""Settings of `Captioning` that change no output: captions that were paid for stay when these change, and no data card names them."""


class Captioning(Part):
    """Where captions come from. A sidecar caption wins over a model's."""

    kind: Literal["sidecar", "endpoint", "transformers"] = "sidecar"
    """sidecar: captions.jsonl alone; endpoint: an OpenAI-compatible server; transformers: a model in the process."""
    url: str | None = None
    """endpoint: base address of an OpenAI-compatible server, such as http://vllm:8000/v1; keys go into `key_variable`'s variable."""
    model: str | None = None
    """endpoint: name of the model; transformers: folder or hub name."""
    key_variable: str = "MUGV_CAPTION_KEY"
    """Environment variable with the endpoint's key."""
    frames: Pictures = 8
    """Pictures of a clip that the model sees, evenly spaced."""
    short_side: Side = 336
    """Pictures are scaled down to this short side, never up."""
    language: Language = "en"
    """What a model's caption must be written in; a caption in another language is asked again, then rejected."""
    structured: bool = True
    """Ask for subject, appearance, motion, camera and background; the caption is composed from them."""
    maximum_words: Positive = 260
    """Of a model's caption; where words are not parted by spaces (zh, ja, th), two characters count as one."""
    minimum_words: Positive = 3
    """Of a model's caption; a shorter one is asked again, then rejected."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Requests under way at once."""
    requests_a_minute: Positive | None = None
    """Highest rate of requests; unset: no limit."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """Requests for one clip; then a clip whose answers were refused is rejected, one that got no answer waits for the next run."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """Of one request."""
    price_input: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million input tokens, for the cost count."""
    price_output: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million output tokens, for the cost count."""
    score_suffix: bool = False
    """Append ` aesthetic score: 6.0.` with the clip's own score, as the release does."""

    @model_validator(mode="after")
    def _complete(self) -> Captioning:
        if self.kind != "sidecar" and not self.model:
            raise ValueError(f"kind {self.kind} needs model: {'its name at the endpoint' if self.kind == 'endpoint' else 'a folder'}")
        if self.kind == "endpoint" and not self.url:
            raise ValueError("kind endpoint needs url: the base address of an OpenAI-compatible server, such as http://vllm:8000/v1")
        if self.url is not None and has_secrets(self.url):
            raise ValueError(
                "url must not hold a user, a password or a token: a recipe goes into records, MLflow and compiled pipelines; "
                f"set the environment variable {self.key_variable}, which key_variable names"
            )
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url {self.url!r} must begin with http:// or https://, such as http://vllm:8000/v1")
        if self.minimum_words > self.maximum_words:
            raise ValueError(f"minimum_words {self.minimum_words} must not exceed maximum_words {self.maximum_words}")
        return self


class Tags(Part):
    """Entities (subjects, actions, scenes) of each caption."""

    kind: Literal["rules", "endpoint"] = "rules"
    """rules: a word list, English captions only. endpoint: the server and model of `caption`, whose settings it shares."""


class Balance(Part):
    """Stratified sampling: how the kept clips divide over tags."""

    shares: dict[str, Fraction]
    """Tag, such as `subject:person` -> least share of the kept clips; the other clips are thinned until it holds, the best scores stay."""


class Duplicates(Part):
    """When two clips are the same."""

    distance: Annotated[float, Field(ge=0)] | None = 15.0
    """Difference of two clips' small pictures, in percent of their contrast, up to which they are the same (mugv.curation.hashing); null:
    pictures are not compared."""
    similarity: Fraction | None = None
    """Cosine of two clips' embeddings from which on they are the same; needs aesthetic.clip. Unset: hash alone."""
    earlier: tuple[str, ...] = ()
    """Folders of clip sets whose clips must not come again."""


class Curation(Part):
    """From raw video to clips: shots, scores and their thresholds, captions, tags, duplicates, balance, validation split."""

    shot: ShotSplit = ShotSplit()
    per_source: tuple[SourceRule, ...] = ()
    score_only: bool = False
    """Measure everything, drop nothing: what a threshold would reject is said in `reason`, the clip stays."""
    sharpness: Sharpness = Sharpness()
    motion: Motion = Motion()
    aesthetic: Aesthetic = Aesthetic()
    exposure: Levels = Levels(minimum=8, maximum=247)
    """Mean luma, 0 to 255."""
    contrast: Levels = Levels(minimum=8)
    """Luma levels between the 5th and the 95th percentile."""
    saturation: Levels = Levels()
    """Mean of the largest minus the smallest colour channel, 0 (grey) to 255."""
    border: Border = Border()
    text: OverlaidText = OverlaidText()
    shake: Range = Range(maximum=15)
    """Median second difference of the picture's displacement from frame to frame, pixels at short side 360."""
    freeze: Share = Share(maximum=0.28)
    """Longest run of frames that show the same picture, as a share of the clip."""
    speed_change: Range = Range()
    """Octaves between the fastest and the slowest of motion's pairs. Unset: a whip pan has as much as footage whose speed was altered."""
    blockiness: Range = Range(maximum=2)
    """Mean step on the coder's 8x8 grid over the mean step elsewhere."""
    bits_per_pixel: Range = Range(minimum=0.005)
    """Of the source's stream, a pixel and frame."""
    source_seconds: Range = Range()
    """Length of the source file, seconds."""
    source_fps: Range = Range()
    """Frames a second of the source."""
    aspect: Range = Range(minimum=0.333, maximum=3)
    """Width over height without borders."""
    clip: ClipFormat = ClipFormat()
    caption: Captioning = Captioning()
    require_caption: bool = True
    """Reject clips without a caption."""
    tags: Tags = Tags()
    duplicates: Duplicates = Duplicates()
    balance: Balance | None = None
    validation_fraction: Fraction = 0.15
    """Share of the sources whose clips are kept for validation."""

    @model_validator(mode="after")
    def _tagging(self) -> Curation:
        if self.tags.kind == "endpoint" and (self.caption.kind == "transformers" or not (self.caption.url and self.caption.model)):
            raise ValueError("tags.kind endpoint needs caption.url and caption.model of an endpoint, and caption.kind endpoint or sidecar")
        return self
