"""Every key of a recipe, with its unit and its default. Frozen and strict: an unknown key is an error.

Sizes are pixels, times seconds, learning rates per step, unless a name says otherwise.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from mugv.precision import Precision, resolve
from mugv.recipe.curation import Curation as Curation
from mugv.recipe.fetch import Fetch as Fetch
from mugv.recipe.flow import Flow as Flow
from mugv.recipe.flow import FrameMask as FrameMask
from mugv.recipe.flow import Sampler as Sampler
from mugv.recipe.models import DiTModel, Fraction, Name, NonNegative, Positive, Rate, Seed, TextEncoder, VAEModel, Weight
from mugv.recipe.models import ModelPart as Part
from mugv.recipe.optimizer import Guard as Guard
from mugv.recipe.optimizer import MuonSettings as MuonSettings
from mugv.recipe.optimizer import Optimizer as Optimizer
from mugv.recipe.resources import Pool as Pool
from mugv.recipe.resources import Resources as Resources
from mugv.recipe.resources import Toleration as Toleration
from mugv.recipe.retrain import Retrain as Retrain


def _pixels(value: Any) -> Any:
    """`720x1280` as [720, 1280]."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value.strip()) if isinstance(value, str) else None
    return [int(found[1]), int(found[2])] if found else value


Size = Annotated[tuple[Positive, Positive], BeforeValidator(_pixels)]
"""Height and width, pixels: [720, 1280] or 720x1280."""
Sizes = Annotated[tuple[Size, ...], BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)]


class SampleFootage(Part):
    """The footage that is written when no videos are given."""

    shots: Positive = 1000
    """Clean shots of moving shapes, before the planted defects."""
    shots_per_file: Positive = 16
    """Shots of one video file."""
    size: Positive = 96
    """Height and width of the footage, pixels."""
    fps: Positive = 12
    """Frames a second."""
    shot_frames: tuple[Positive, Positive] = (24, 28)
    """Shortest and longest shot, frames, in this order."""
    seed: Seed = 0
    """Other seeds give other footage."""

    @model_validator(mode="after")
    def _shots(self) -> SampleFootage:
        shortest, longest = self.shot_frames
        if shortest > longest:
            raise ValueError(f"shot_frames is [shortest, longest], got [{shortest}, {longest}]")
        return self


class Data(Part):
    """Where raw video comes from. With `videos` unset the sample footage is written and used."""

    videos: str | None = None
    """A folder (or file:// URI) that holds video files, `s3://bucket/prefix`, or a .parquet list (local or in S3) with a column
    `uri` (paths, file://, s3://bucket/key, https://) and, where known, `name`, `licence`, `caption`, `bytes` and `etag`."""
    captions: str | None = None
    """A captions.jsonl (path or s3://); unset: `captions.jsonl` beside the videos when there is one."""
    dvc_revision: str | None = None
    """Revision of a DVC project that `videos` was resolved from; written by the retraining pipeline and kept in the lineage."""
    shards: Annotated[int, Field(ge=1, le=10_000)] = 2
    """How many curation tasks share the sources; more than 10,000 is more than a workflow engine holds."""
    parallelism: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How many shards are curated at once on a cluster; 0: no limit of the pipeline's own. On one machine it is two."""
    fetch: Fetch = Fetch()
    sample: SampleFootage = SampleFootage()


class VAEPhase(Part):
    """A part of VAE training. `spatial`: the 2D trunk, on frames; `temporal`: the net on the frozen trunk's features; `joint`: all."""

    parts: Literal["spatial", "temporal", "joint"]
    """Which part of the VAE learns."""
    steps: Positive
    """Optimizer steps."""
    batch: Positive
    """Frames (spatial) or 8-frame chunks (temporal, joint)."""
    learning_rate: Rate
    """Highest rate: linear warm-up over a tenth of the phase, at most 50 steps, then linear to 0."""
    size: Positive = 48
    """Height and width that clips are scaled and cropped to, pixels; a multiple of 16."""
    windows: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2)
    """Lengths of decoder windows in latents, drawn uniformly (paper 3.1.2: 1, 4, 8)."""
    decode_frames: NonNegative | None = None
    """Frames of each window, drawn at random, that reach pixels and the pixel loss. Unset: none in `temporal`, all in `joint`."""
    freeze_encoder: bool = False
    """`joint` without the trunk's encoder, whose features are then computed once."""


class VAETraining(Part):
    """How the VAE is trained: phases, and the weights of the loss's terms."""

    phases: tuple[VAEPhase, ...]
    """In order; empty where `weights.vae` brings a trained VAE."""
    kl_weight: Weight = 1e-6
    """Weight of the divergence from the unit Gaussian, a mean over latent values."""
    mse_weight: Weight = 0.5
    """Weight of the mean squared error of pixels in [-1, 1]."""
    l1_weight: Weight = 0.5
    """Weight of the mean absolute error of pixels in [-1, 1]."""
    perceptual_weight: Weight = 0.0
    """Weight of the perceptual loss; its image network is not part of this package, so values over 0 are refused before a run starts."""
    gan_weight: Weight = 0.0
    """Weight of the adversarial loss; 0: no discriminator."""
    gan_last_fraction: Fraction = 0.2
    """Share of the steps, at the end, with the adversarial loss."""
    saliency_weight: Weight = 0.0
    """alpha of the adaptive weight 1 + alpha |d_t laplacian(x)| / mean, clipped at 5 (paper 4.1)."""
    linear_start: bool = False
    """The first `temporal` phase starts from the PCA of the trunk's features; for windows of one latent."""
    precision: Precision = "auto"
    """Of the arithmetic; weights are fp32. auto: bf16 on a GPU and on processors with bf16 units, else fp32."""
    guard: Guard = Guard()
    save_every: Positive = 200
    """Steps between checkpoints."""


class VAESection(Part):
    """The VAE: its size and its training."""

    model: VAEModel = VAEModel()
    train: VAETraining


class Encode(Part):
    """The clips as latents, made once."""

    sizes: Sizes
    """Height and width of each resolution that clips are encoded at, [720, 1280] or 720x1280; multiples of 16."""
    batch: Positive = 8
    """Clips that are encoded at once."""

    @model_validator(mode="after")
    def _grid(self) -> Encode:
        for size in self.sizes:
            if any(s % 16 for s in size):
                raise ValueError(f"sizes must be multiples of 16 (8 of the VAE x 2 of the patch), got {list(size)}")
        return self


class Expansion(Part):
    """Width expansion from the stage before (paper 4.2.1): each width grows by `factor`."""

    factor: Annotated[int, Field(ge=2)] = 2
    """Width after over width before."""
    noise_db: float | None = None
    """Signal-to-noise ratio of the perturbation in dB; unset: none, and copies of a channel never part."""
    noise: Literal["symmetric", "plain"] = "symmetric"
    """symmetric: cancels over the copies of a channel, the function is kept; plain: independent, as HyperCloning."""


LoRATarget = Literal["linear_qkv", "linear_proj", "linear_kv", "linear_q", "linear_fc1", "linear_fc2"]


class LoRA(Part):
    """Low-rank adapters beside frozen linears of the blocks: W + alpha / rank B A, with A normal and B zero at first."""

    rank: Positive = 64
    """Rank of B A."""
    alpha: Rate = 32.0
    """Scale: the adapter counts alpha / rank."""
    targets: Annotated[tuple[LoRATarget, ...], Field(min_length=1)] = get_args(LoRATarget)
    """Linears of every block that get an adapter."""


class TrainStage(Part):
    """What every DiT training stage has: data, length, optimizer, checkpoints."""

    steps: Positive
    """Optimizer steps."""
    batch: Positive
    """Clips a step over all data-parallel ranks."""
    size: Size
    """Height and width, pixels, [720, 1280] or 720x1280; one of `encode.sizes`."""
    frames: Positive
    """Frames of a clip: 1 + 8k, at most `curation.clip.frames`."""
    optimizer: Optimizer
    flow: Flow = Flow()
    mask: FrameMask = FrameMask()
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a running average of the weights that later stages start from; 0: none."""
    save_every: Positive = 200
    """Steps between checkpoints, from which a killed stage goes on."""
    lora: LoRA | None = None
    """Train adapters alone; they are merged into the weights at the stage's end and kept beside them. Unset: train everything."""

    @model_validator(mode="after")
    def _one_kind_of_average(self) -> TrainStage:
        if self.lora and self.average_decay:
            raise ValueError("average_decay averages whole networks; leave it at 0 where lora trains adapters alone")
        return self


class PretrainStage(TrainStage):
    """A stage of pretraining; each goes on from the one before."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """Names the stage in tables and reports; unique."""
    image_fraction: tuple[Fraction, Fraction] = (0.0, 0.0)
    """Share of single-frame samples, from the first to the last step, linear."""
    expand: Expansion | None = None


class SFT(TrainStage):
    """Fine-tuning on the best clips, ended by an average of its checkpoints."""

    best_fraction: Fraction = 0.5
    """Share of the training clips kept, by composite score (paper 2.2: 0.1)."""
    checkpoints: Positive = 4
    """How many evenly spaced checkpoints of the stage are averaged; with `average_decay`, the running averages in them."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """rho of the average: weight of checkpoint i of N is rho^(N - i)."""


class AlignRound(Part):
    """A round of preference training."""

    method: Literal["kto", "dpo"]
    """kto learns from passes and failures, dpo from pairs."""
    steps: Positive
    """Optimizer steps."""
    batch: Positive
    """Candidates a step, half of them good and half bad, over all data-parallel ranks; at least one of each on every rank."""
    optimizer: Optimizer
    beta: Rate = 100.0
    """Scale, in the preference loss, of the difference between the flow losses of the model and of the frozen reference."""
    sft_weight: Weight = 1.0
    """Weight of the flow loss on real clips beside the preference loss."""
    save_every: Positive = 50
    """Steps between checkpoints."""


class Align(Part):
    """Preference alignment: candidates that the model generates, labels, rounds. Unset: left out."""

    prompts: Positive = 24
    """Prompts that candidates are generated for; never one of the evaluation's."""
    candidates: Positive = 4
    """Clips a prompt."""
    sampler: Sampler = Sampler(steps=10)
    labels: str | None = None
    """A labels.jsonl filled by people; unset: the judge labels the candidates."""
    rounds: tuple[AlignRound, ...] = ()


class Evaluate(Part):
    """What is measured of the last checkpoint."""

    clips: Positive = 144
    """Clips of each column of the judge's table."""
    sampler: Sampler = Sampler()
    judge: Literal["shapes", "none"] = "shapes"
    """shapes: colour, shape and direction of the sample footage are measured in the generated pixels; none: clips for people to look at."""
    flow_loss_clips: Positive = 64
    """Held-out clips that the validation flow loss is measured on, at most."""
    seed: Seed = 1234
    """Seed of the first clip; clip k has seed + k."""


class Gate(Part):
    """What lets a version become `champion`: thresholds, and a paired test against the present champion. A metric that is not finite
    holds every version back."""

    minimum: dict[str, float] = Field(default_factory=dict)
    """Metric of the evaluation, such as `vae_psnr` (dB) or `t2v_seen_colour` (share), -> its smallest value."""
    maximum: dict[str, float] = Field(default_factory=dict)
    """Metric of the evaluation, such as `validation_flow_loss`, -> its largest value."""
    compare: str | None = "auto"
    """The metric that is compared with the present champion's on the prompts that both were asked for. auto: `t2v_seen_all` where the
    judge saw it, else `validation_flow_loss`. null: the champion is not looked at."""
    replace: Literal["better", "not-worse"] = "better"
    """better: a version replaces the champion when the test finds it better; not-worse: unless the test finds it worse, which suits
    retraining on fresh data, and lets losses too small for the test add up over many versions."""
    significance: Annotated[float, Field(ge=0.001, le=0.5)] = 0.05
    """Level of the one-sided paired test: how often one of two equal models is taken for better."""


class Register(Part):
    """The version in the model registry and the gate to `champion`."""

    model: Name = "mugv"
    """Name of the registered model in MLflow: letters, digits, spaces and `_ . -`, which keep their meaning in models:/NAME/VERSION."""
    gate: Gate = Gate()


class Parallel(Part):
    """Layout of the training stages' processes: world = data x tensor x pipeline x context."""

    world: Positive = 1
    """Processes, one a GPU. Left out: `mugv run` takes the GPUs of this machine. auto or 0: a cluster too takes those of one node."""
    tensor: Positive = 1
    """Ranks that share each layer's matrices."""
    pipeline: Positive = 1
    """Ranks that share the layers."""
    virtual_pipeline: Positive = 1
    """Parts of the network that each pipeline rank holds (interleaved 1F1B); 1: plain 1F1B."""
    context: Positive = 1
    """Ranks that share the tokens of a clip."""
    context_method: Literal["auto", "ulysses", "gather"] = "auto"
    """ulysses swaps tokens for heads, gather collects keys and values; auto: ulysses where the heads divide."""
    sequence_parallel: bool = False
    """Split the tokens over the tensor ranks outside the matrices; needs `tensor` of at least 2."""
    distributed_optimizer: bool = False
    """Each data-parallel rank keeps its share of the optimizer's state (ZeRO-1)."""
    overlap: bool = False
    """Reduce gradients during backward and gather parameters during forward; needs the distributed optimizer."""
    recompute: Literal["none", "selective", "full"] = "none"
    """selective: norms, GELU and rotations are made again in backward; full: whole blocks."""
    precision: Precision = "auto"
    """Of weights and arithmetic. auto: bf16 on a GPU (with fp32 masters in the optimizer), fp32 on a CPU."""
    micro_batch: Positive | None = None
    """Clips of a micro-batch on one data-parallel rank; unset: all of the rank's clips at once."""
    pack: bool = False
    """Videos and images of a micro-batch as one packed sequence, each clip with its own timestep."""
    attention: Literal["auto", "sdpa", "varlen", "flash", "te"] = "auto"
    """Kernel: PyTorch's SDPA; varlen, flash (FlashAttention) and te (Transformer Engine) need a GPU. auto: what the device has."""
    async_save: bool = False
    """Checkpoints are written while training goes on."""

    def resolved(self, device: str) -> Parallel:
        """The same layout with the precision that `auto` means on a device type."""
        return self.model_copy(update={"precision": resolve(self.precision, device)})

    @property
    def data(self) -> int:
        """Data-parallel ranks."""
        return self.world // (self.tensor * self.pipeline * self.context)

    @model_validator(mode="after")
    def _layout(self) -> Parallel:
        model = self.tensor * self.pipeline * self.context
        if self.world % model:
            raise ValueError(f"world {self.world} is not a multiple of tensor x pipeline x context = {model}")
        if self.sequence_parallel and self.tensor == 1:
            raise ValueError("sequence_parallel needs tensor of at least 2")
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise ValueError("virtual_pipeline needs pipeline of at least 2")
        if self.overlap and not self.distributed_optimizer:
            raise ValueError("overlap needs distributed_optimizer: true")
        return self


class Weights(Part):
    """Networks that the run starts from instead of new ones; folders that `mugv convert` or a training stage made."""

    dit: str | None = None
    """The first pretraining stage goes on from this DiT, and latents are normalised as it was trained."""
    vae: str | None = None
    """This VAE is used as it is: train_vae measures and publishes it."""


class Recipe(Part):
    """One whole run."""

    name: Name
    """Name of the run's recipe, in reports, MLflow and names of pipelines: letters, digits, spaces and `_ . -`."""
    seed: Seed = 0
    """Weights, order of clips, timesteps and noise follow from it."""
    training_seed: Seed | None = None
    """The DiT's own seed: another one trains it anew on the same clips, VAE and latents. Unset: `seed`."""
    data: Data = Data()
    curation: Curation = Curation()
    weights: Weights = Weights()
    vae: VAESection
    encode: Encode
    text: TextEncoder = TextEncoder()
    dit: DiTModel
    pretrain: tuple[PretrainStage, ...] = Field(min_length=1)
    sft: SFT | None = None
    align: Align | None = None
    evaluate: Evaluate = Evaluate()
    register_: Register = Field(default=Register(), alias="register")
    retrain: Retrain = Retrain()
    parallel: Parallel = Parallel()
    resources: Resources = Resources()

    @property
    def dit_seed(self) -> int:
        return self.seed if self.training_seed is None else self.training_seed

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        from mugv.recipe.checks import check_recipe

        check_recipe(self)
        return self
