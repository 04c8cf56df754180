"""Every key of a recipe, with its unit and its default. Frozen and strict: an unknown key is an error.

Sizes are pixels, times seconds, learning rates per step, unless a name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mugv.precision import Precision, resolve
from mugv.recipe.curation import Curation as Curation
from mugv.recipe.flow import Flow as Flow
from mugv.recipe.flow import FrameMask as FrameMask
from mugv.recipe.flow import Sampler as Sampler
from mugv.recipe.models import DiTModel, TextEncoder, VAEModel

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class SampleFootage(Part):
    """The footage that is written when no videos are given."""

    shots: Positive = 1000
    """Clean shots of moving shapes, before the planted defects."""
    shots_per_file: Positive = 16
    size: Positive = 96
    fps: Positive = 12
    shot_frames: tuple[Positive, Positive] = (24, 28)
    seed: NonNegative = 0


class Data(Part):
    """Where raw video comes from. With `videos` unset the sample footage is written and used."""

    videos: str | None = None
    """A folder (or file:// URI) that holds video files, `s3://bucket/prefix`, or a .parquet list (local or in S3) with a column
    `uri` (paths, file://, s3://bucket/key) and, where known, `name`, `licence`, `caption`, `bytes` and `etag`."""
    captions: str | None = None
    """A captions.jsonl (path or s3://); unset: `captions.jsonl` beside the videos when there is one."""
    dvc_revision: str | None = None
    shards: Positive = 2
    """How many curation tasks share the sources."""
    sample: SampleFootage = SampleFootage()


class VAEPhase(Part):
    """A part of VAE training. `spatial`: the 2D trunk alone, an image autoencoder on single frames; `temporal`: the
    temporal net on the frozen trunk's features; `joint`: everything, on pixels."""

    parts: Literal["spatial", "temporal", "joint"]
    steps: Positive
    batch: Positive
    """Frames (spatial) or 8-frame chunks (temporal, joint)."""
    learning_rate: Annotated[float, Field(gt=0)]
    size: Positive = 48
    windows: tuple[Positive, ...] = (1, 2)
    """Lengths of decoder windows in latents, drawn uniformly (paper 3.1.2: 1, 4, 8)."""
    decode_frames: NonNegative | None = None
    """Frames of each window, drawn at random, that reach pixels and the pixel loss. Unset: none in `temporal`, all in `joint`."""
    freeze_encoder: bool = False
    """`joint` without the trunk's encoder, whose features are then computed once."""


class VAETraining(Part):
    phases: tuple[VAEPhase, ...]
    kl_weight: float = 1e-6
    mse_weight: float = 0.5
    l1_weight: float = 0.5
    perceptual_weight: float = 0.0
    gan_weight: float = 0.0
    gan_last_fraction: Fraction = 0.2
    saliency_weight: float = 0.0
    """alpha of the adaptive weight 1 + alpha |d_t laplacian(x)| / mean, clipped at 5 (paper 4.1)."""
    linear_start: bool = False
    """The first `temporal` phase starts from the PCA of the trunk's features; for windows of one latent."""
    precision: Precision = "auto"
    """Of the arithmetic; weights are fp32. auto: bf16 on a GPU and on processors with bf16 units, else fp32."""
    save_every: Positive = 200


class VAESection(Part):
    model: VAEModel = VAEModel()
    train: VAETraining


class Encode(Part):
    sizes: tuple[tuple[Positive, Positive], ...]
    """Height and width of each resolution that clips are encoded at; multiples of 16."""
    batch: Positive = 8

    @model_validator(mode="after")
    def _grid(self) -> Encode:
        for size in self.sizes:
            if any(s % 16 for s in size):
                raise ValueError(f"sizes must be multiples of 16 (8 of the VAE x 2 of the patch), got {list(size)}")
        return self


class Optimizer(Part):
    learning_rate: Annotated[float, Field(gt=0)]
    minimum_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: NonNegative = 0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    epsilon: float = 1e-10
    weight_decay: float = 0.0
    clip_gradient: float = 1.0


class Expansion(Part):
    """Width expansion from the stage before (paper 4.2.1): each width grows by `factor`."""

    factor: Annotated[int, Field(ge=2)] = 2
    noise_db: float | None = None
    """Signal-to-noise ratio of the perturbation in dB; unset: none, and copies of a channel never part."""
    noise: Literal["symmetric", "plain"] = "symmetric"
    """symmetric: cancels over the copies of a channel, the function is kept; plain: independent, as HyperCloning."""


LoRATarget = Literal["linear_qkv", "linear_proj", "linear_kv", "linear_q", "linear_fc1", "linear_fc2"]


class LoRA(Part):
    """Low-rank adapters beside frozen linears of the blocks (mug-v 6.3): W + alpha / rank B A, with A normal and B zero at first."""

    rank: Positive = 64
    alpha: Annotated[float, Field(gt=0)] = 32.0
    targets: Annotated[tuple[LoRATarget, ...], Field(min_length=1)] = get_args(LoRATarget)


class TrainStage(Part):
    """What every DiT training stage has: data, length, optimizer, checkpoints."""

    steps: Positive
    batch: Positive
    """Clips a step over all data-parallel ranks."""
    size: tuple[Positive, Positive]
    frames: Positive
    optimizer: Optimizer
    flow: Flow = Flow()
    mask: FrameMask = FrameMask()
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a running average of the weights that later stages start from; 0: none."""
    save_every: Positive = 200
    lora: LoRA | None = None
    """Train adapters alone; they are merged into the weights at the stage's end and kept beside them. Unset: train everything."""

    @model_validator(mode="after")
    def _one_kind_of_average(self) -> TrainStage:
        if self.lora and self.average_decay:
            raise ValueError("average_decay averages whole networks; leave it at 0 where lora trains adapters alone")
        return self


class PretrainStage(TrainStage):
    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    image_fraction: tuple[Fraction, Fraction] = (0.0, 0.0)
    """Share of single-frame samples, from the first to the last step, linear."""
    expand: Expansion | None = None


class SFT(TrainStage):
    best_fraction: Fraction = 0.5
    """Share of the training clips kept, by composite score (paper 2.2: 0.1)."""
    checkpoints: Positive = 4
    """How many evenly spaced checkpoints of the stage are averaged."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """rho of the average: weight of checkpoint i of N is rho^(N - i)."""


class AlignRound(Part):
    method: Literal["kto", "dpo"]
    steps: Positive
    batch: Positive
    optimizer: Optimizer
    beta: float = 100.0
    sft_weight: float = 1.0
    save_every: Positive = 50


class Align(Part):
    prompts: Positive = 24
    """Prompts that candidates are generated for; never one of the evaluation's."""
    candidates: Positive = 4
    """Clips a prompt."""
    sampler: Sampler = Sampler(steps=10)
    labels: str | None = None
    """A labels.jsonl filled by people; unset: the judge labels the candidates."""
    rounds: tuple[AlignRound, ...] = ()


class Evaluate(Part):
    clips: Positive = 144
    """Clips of each column of the judge's table."""
    sampler: Sampler = Sampler()
    judge: Literal["shapes", "none"] = "shapes"
    flow_loss_clips: Positive = 64
    seed: NonNegative = 1234


class Gate(Part):
    """Thresholds, metric name -> smallest value that lets a version become `champion`."""

    minimum: dict[str, float] = {}
    compare: str | None = None
    """The metric that must exceed the present champion's."""


class Register(Part):
    model: str = "mugv"
    gate: Gate = Gate()


class Parallel(Part):
    """Layout of the training stages' processes: world = data x tensor x pipeline x context."""

    world: Positive = 1
    tensor: Positive = 1
    pipeline: Positive = 1
    virtual_pipeline: Positive = 1
    """Parts of the network that each pipeline rank holds (interleaved 1F1B); 1: plain 1F1B."""
    context: Positive = 1
    context_method: Literal["auto", "ulysses", "gather"] = "auto"
    """ulysses swaps tokens for heads, gather collects keys and values; auto: ulysses where the heads divide."""
    sequence_parallel: bool = False
    distributed_optimizer: bool = False
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


class Toleration(Part):
    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = "NoSchedule"


class Pool(Part):
    """A node pool of the cluster: what a task asks for and where it may run."""

    cpu: str = "2"
    memory: str = "8G"
    gpus: NonNegative = 0
    gpu_type: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class Resources(Part):
    data: Pool = Pool()
    vae: Pool = Pool()
    train: Pool = Pool()
    image_data: str = "mugv/data-python:dev"
    image_train: str = "mugv/train-python:dev"
    gpus_per_node: NonNegative = 0


class Weights(Part):
    """Networks that the run starts from instead of new ones; folders that `mugv convert` or a training stage made."""

    dit: str | None = None
    """The first pretraining stage goes on from this DiT, and latents are normalised as it was trained."""
    vae: str | None = None
    """This VAE is used as it is: train_vae measures and publishes it."""


class Recipe(Part):
    """One whole run."""

    name: str
    seed: NonNegative = 0
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
    parallel: Parallel = Parallel()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        from mugv.recipe.checks import check_recipe

        check_recipe(self)
        return self
