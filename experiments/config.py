"""Every setting, as dataclasses that OmegaConf checks YAML files and `key=value` arguments against.

Importing this module imports no model code, so that a wrong key is answered at once.
"""

from dataclasses import dataclass, field


@dataclass
class Pair:
    """Which two models: one of the zoo by name, or two of one's own.

    One's own are files (.pt2, .onnx, .tflite, TorchScript; their content decides) or `module:function`, a Python
    function without arguments that returns a module or a callable; it and TorchScript need `--allow-code`.
    """

    name: str | None = None
    original: str | None = None
    compressed: str | None = None
    download: bool = False  # may pretrained weights be fetched (ImageNet models of the zoo)


@dataclass
class ModelSettings:
    """What one's own models want to see in place of images in [0, 1], and how their answers are read.

    Null: as `models.both` says, else as the model's file says, else what stands in brackets.
    """

    weights: str | None = None  # file with the state dict of a `module:function` (those that the function gives it)
    range: list[float] | None = None  # the numbers for black and white, such as [0,255] or [-1,1] ([0,1])
    mean: list[float] | None = None  # then subtracted, in units of the range; one number or one a channel (nothing)
    std: list[float] | None = None  # then divided by; one number or one a channel (nothing)
    channels: str | None = None  # grey, rgb or bgr (the images' own)
    layout: str | None = None  # nchw or nhwc (nchw)
    fit: str | None = None  # how images of another size are brought to the model's: stretch, crop (they are refused)
    size: list[int] | None = None  # height and width that the model takes (any)
    scores: str | None = None  # logits or probabilities (found out on the first images)
    classes: str | None = None  # which answers, counted from 0, are class 0, 1, ...: "1-1000", "7,0-5" (all)


@dataclass
class Models:
    """How one's own models are shown images: both, or one of them where it differs."""

    both: ModelSettings = field(default_factory=ModelSettings)
    original: ModelSettings = field(default_factory=ModelSettings)
    compressed: ModelSettings = field(default_factory=ModelSettings)


@dataclass
class Preflight:
    """What one's own models must say of real images before any search; a pair that does not is diagnosed."""

    images: int = 200
    min_agreement: float = 0.7  # share of the images on which the two must agree


@dataclass
class Data:
    """Which images: digits, mnist, fashion_mnist, cifar10, or one's own in `root`.

    One's own are imagefolder (folders named after classes), images (a folder of image files), metadata (a folder with
    a metadata.csv) or arrays (.npz, .npy). Null: what the zoo's pair was made for, or what `root` looks like.
    """

    name: str | None = None
    root: str | None = None
    download: bool = False
    image_size: int | None = None  # pixels a side; null: as they are, one's own photos as the models take them


@dataclass
class Split:
    """Shares of the three sides; a set with an official test split gives all of it to `judge`."""

    train: float = 0.6
    validate: float = 0.2
    judge: float = 0.2


@dataclass
class SearchSettings:
    """How triggers are searched for; the seeds of each side are its first ones by id."""

    strategy: str = "dflare"
    other_strategy: str | None = "auto"  # finds further held-out triggers; auto: boundary or dflare; null: none
    mutations: list[str] | None = None  # mutations or sets of them by name; null: those of the strategy
    references: int = 256  # real images of the same side that `boundary` draws its ways to
    seeds: int = 600  # on the train side
    validate_seeds: int = 200
    judge_seeds: int = 400
    choose: str = "random"  # which seeds: random (the first by id), or balanced (as many of each class)
    max_queries: int = 1000  # a chain
    max_seconds: float | None = None  # a search of one side; what is unfinished is taken up again by the next run
    batch_size: int | None = None  # images shown to the models at once; null: 64 to 1024, by their size
    max_l_inf: float | None = None  # greatest distance of a candidate from its seed, on [0, 1]; null: no limit
    max_l_2: float | None = None  # the same, Euclidean
    min_ssim: float | None = None  # least structural similarity, in (0, 1)
    shrink: bool = False  # bring found triggers as near to their seeds as they still deviate
    shrink_queries: int = 500  # questions for each, counted apart


@dataclass
class Verify:
    """How found triggers are asked again, one at a time and in a fresh process; no runtimes: not at all.

    A runtime is a way to compute with the same file: `default` (as the search asked), `unoptimized` (.onnx), `builtin`
    and `reference` (.tflite). A file whose format lacks it is asked as by default.
    """

    runtimes: list[str] = field(default_factory=lambda: ["default"])
    repeats: int = 3  # how often each trigger is asked; 1 says nothing about determinism


@dataclass
class Localise:
    """Which layers answer for the deviations: written for the model that enters each round."""

    method: str | None = "intervention"  # also gradient, activation, pareto; null: not at all
    triggers: int = 128  # looked at, at most; and as many clean images


@dataclass
class Precision:
    """Mixed precision repair: which tensors of an int8 .onnx get 16 bits before the first training; none by default.

    What the file may cost is a ratio to the one handed in; null: no limit. See docs/mixed_precision.md.
    """

    activations: str | None = None  # all, or chosen: the few that lower the share of differing labels; null: none
    choose: str = "greedy"  # in which order they are tried: greedy (by what each is worth), size or chance (controls)
    weights: float = 0.0  # share of the file's bytes that weights of 16 bits may add, the smallest tensors first
    float_output: bool = False  # leave the rounding of the scores out
    max_bytes: float | None = None  # of the file, such as 1.1
    max_latency: float | None = None  # of one image on one thread, such as 1.5
    images: int = 2000  # mutated images of the validate side that judge the choice; a quarter of the train side make it


@dataclass
class RepairSettings:
    """How the compressed model is repaired."""

    recipe: str = "imitation"  # a row of docs/repair.md, a shipped file of configs/repair by name, or one's own .yaml
    steps: int = 1500  # of the optimiser, at most
    batch_size: int = 128
    learning_rate: float = 1e-3  # times the recipe's rate
    replay: float = 0.5  # share of clean images in a batch, unless the recipe says otherwise
    validate_every: int = 100  # steps
    patience: int = 10  # validations without improvement after which it stops; the rate decays, so gains come late
    precision: Precision = field(default_factory=Precision)


@dataclass
class Probe:
    """The fixed set of mutated images that no model chose."""

    images: int = 50_000


@dataclass
class Loop:
    """Search, repair, re-test, and again."""

    rounds: int = 1


@dataclass
class Gate:
    """What the repaired model must keep to be released; null is not checked."""

    max_probe_rate: float | None = None  # upper confidence bound of the probe deviation rate
    min_queries_ratio: float | None = None  # queries per trigger, after / before
    max_drawdown: float | None = 0.01  # share of clean images broken, and no more broken than fixed
    max_accuracy_drop: float | None = None  # in shares of 1
    max_bytes: int | None = None
    max_latency_ms: float | None = None  # one image at a time
    beat_placebo: bool = False


@dataclass
class EstimateSettings:
    """How often the pair deviates on images that nobody labelled, from few questions. See docs/estimate.md."""

    root: str | None = None  # folder or file of images; null: the data's own, those that no repair has seen
    queries: int = 400  # to each compressed model
    confidence: float = 0.95  # of the intervals


@dataclass
class TrainerSettings:
    """How many workers search, and where (names of Lightning); the repair runs on the first. See docs/scale.md."""

    accelerator: str = "cpu"
    devices: int = 1  # workers on each node
    num_nodes: int = 1
    precision: str = "32-true"  # of a repair's arithmetic; 16-mixed (GPU) and bf16-mixed round more and take less time
    strategy: str = "auto"  # of a repair's training, on the one device of the first worker


@dataclass
class Config:
    """All settings of a run."""

    pair: Pair = field(default_factory=Pair)
    models: Models = field(default_factory=Models)
    preflight: Preflight = field(default_factory=Preflight)
    data: Data = field(default_factory=Data)
    split: Split = field(default_factory=Split)
    search: SearchSettings = field(default_factory=SearchSettings)
    verify: Verify = field(default_factory=Verify)
    localise: Localise = field(default_factory=Localise)
    repair: RepairSettings = field(default_factory=RepairSettings)
    probe: Probe = field(default_factory=Probe)
    loop: Loop = field(default_factory=Loop)
    gate: Gate = field(default_factory=Gate)
    estimate: EstimateSettings = field(default_factory=EstimateSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    seed: int = 0
    threads: int | None = None  # of torch, null: as many as there are cores, shared by the workers of a node
    run_dir: str | None = None  # null: runs/<pair>
    fast_dev: bool = False  # two batches, eight seeds: does everything run? claims nothing
