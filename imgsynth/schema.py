"""The closed part of the configuration, as plain dataclasses.

Behind the door (``imgsynth.config``) everybody reads these.

Comments give units and meanings; ranges are checked at the door, which reports all faults at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class PhantomConfig:
    """The procedural thorax-CT cohort that imgsynth makes itself (public, no patient behind it)."""

    patients: int = 600
    size: int = 32  # voxels along each axis of every volume
    lesion_share: float = 0.4  # share of patients with a lesion
    extra_studies: float = 0.25  # share of patients with more than one study
    traps: bool = True  # shuffled file names, localizers, mixed slopes: what clinical exports have
    seed: int = 0


@dataclass
class SplitsConfig:
    """Shares of patients that training never sees: holdout for the audit, test for the evaluation."""

    holdout: float = 0.15
    test: float = 0.15
    seed: int = 0
    official: bool = False  # medmnist: the source's own parts, train, val (as the holdout) and test, instead of shares


@dataclass
class DicomwebConfig:
    """An image server that speaks DICOMweb, and which of its series are wanted (and data.modality says more).

    Credentials are no configuration: they come from the environment or from netrc (docs/intake.md).
    """

    url: str | None = None  # root of its DICOMweb services, https://HOST/dicom-web; http for this machine alone
    study_date: str | None = None  # YYYYMMDD, or a range YYYYMMDD-YYYYMMDD with either end left open
    patients: str | None = None  # text file, one patient id a line; default: every patient


@dataclass
class DataConfig:
    kind: str = "phantom"  # phantom | dicom | dicomweb | nifti | bids | nnunet | npz | medmnist | images | table
    root: str | None = None  # folder of scans, zip of one (dicom), or npz file; dicomweb: folder to fetch into
    cohort: str | None = None  # the cohort's name in the privacy ledger; default: its content fingerprint
    issuer: str | None = (
        None  # who gave out the patient ids, as DICOM's Issuer of Patient ID (0010,0021): the same id of
    )
    # two issuers is two patients in the ledger; null: may be anybody's
    unit: str = "patient"  # privacy unit; "image" only where the source has no patient ids
    table: str | None = None  # csv or tsv with ids and labels: one row per file, patient or npz row
    key: str | None = None  # column of the table that names the file or the patient (table: the path); default: found
    patient: str | None = None  # table column or npz array with patient ids
    label: str | None = None  # table column, npz array or DICOM keyword with the label
    site: str | None = None  # table column with the site or scanner
    sex: str | None = None  # table column; default: "sex" or "gender", or DICOM PatientSex
    age: str | None = None  # table column; default: "age", or DICOM PatientAge
    pattern: str | None = None  # regular expression on the relative path with (?P<patient>…), (?P<label>…)
    images: str = "images"  # npz: name of the array of images
    # bids: which images, {suffix: T1w, space: …}: a value, a list, null (images without it) or "*" for each entity
    entities: Any = field(default_factory=dict)
    derivatives: str | None = None  # bids: take images from derivatives/<this>; null: from the dataset itself
    channel: str | None = None  # nnunet: which channel of several, by its name in dataset.json or its number
    classes: list[str] | None = None  # the public list of labels, in order; needed as soon as there is a label
    # The public list of structures of the masks beside the images, in the order of their values 1, 2, …; or entries
    # {name, value, code: [scheme, value, meaning]}, the code for DICOM. null: masks are not used.
    masks: list[Any] | None = None
    modality: str | None = None  # for sources that do not say: CT, MR, DX, CR
    defaced: bool | None = None  # heads: faces removed or skulls stripped, as the custodian declares; null: nobody did
    images_per_patient: int = 1  # K: how many images of a patient one step uses at most
    augmentation_multiplicity: int = 1  # M: copies of each, with random transforms and random inputs of their own
    cache: str = "memory"  # of preprocessed images: memory | disk | none
    dicomweb: DicomwebConfig = field(default_factory=DicomwebConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    splits: SplitsConfig = field(default_factory=SplitsConfig)


@dataclass
class PreprocessConfig:
    """How an image is brought to the public grid. All of it is declared here, none of it is fitted to the cohort."""

    shape: list[int] = field(default_factory=lambda: [32, 32, 32])  # voxels; two or three axes
    spacing: list[float] | None = None  # mm; null with fit=resize: nominal
    orientation: str = "RAS"
    fit: str = "crop_pad"  # crop_pad (keeps the spacing) | resize (keeps the field of view)
    intensity: str = "window"  # window (fixed low..high) | percentile (per image) | minmax (per image)
    low: float = 0.0  # window: the intensity that becomes -1
    high: float = 1.0  # window: the intensity that becomes +1; otherwise the scale that releases are written in
    extra: list[Any] = field(default_factory=list)  # further MONAI transforms, {_target_: monai.transforms.…}


@dataclass
class PrivacyConfig:
    mode: str = "dp"  # dp | none (ε = ∞; the release is marked not releasable)
    epsilon: float | None = 8.0  # the run's total ε: training and label histogram together
    delta: float = 1e-5
    noise_multiplier: float | None = None  # σ; default: calibrated from (ε, δ, n, rate, steps)
    clipping_norm: float = 1.0  # C, of a patient's weighted-mean gradient; where it adapts, where it starts
    clipping_quantile: float | None = None  # γ: C follows this quantile of the patients' norms, privately; null: fixed
    clipping_learning_rate: float = 0.2  # η: a step moves log C by η at most, but for the noise
    count_noise_multiplier: float | None = None  # σ_b, of the count that C follows; null: max(q n / 20, 2.5 σ)
    query_share: float = 0.1  # of ε, for each question that a model asks of the whole cohort once, beside its training
    query_noise_multiplier: float | None = None  # σ of such a query; null: from query_share
    fakes: str = "joint"  # generated images beside real ones: joint (clipped in each patient's unit) | plain (a mean)
    batch_patients: int | None = None  # expected patients in a batch; sampling rate = batch_patients / n; see batch_for
    sampling_rate: float | None = None  # q, instead of batch_patients; 1: every patient is in every step
    n: int | None = None  # declared public size of the training cohort; default: the count, declared public thereby
    engine: str = "ghost"  # ghost | functional | loop
    physical_batch: int = 32  # patients whose gradients are held at once; changes memory, not privacy
    budget_epsilon: float | None = None  # the cohort's budget over all runs; null: none beyond each run's own
    ledger: str | None = None  # folder; default: $IMGSYNTH_LEDGER or ~/.imgsynth/ledger
    seed: int | None = None  # makes noise and sampling repeatable, for tests; such a run is not releasable

    def batch_for(self, n: int) -> int:
        """Expected patients in a batch for a cohort of ``n`` (declared, public): as configured, else 64 or n/2."""
        if self.sampling_rate is not None:
            return max(1, round(self.sampling_rate * n))
        return max(1, min(64, n // 2)) if self.batch_patients is None else self.batch_patients


@dataclass
class InitConfig:
    """What training begins with: random numbers, or the weights of a run on public images."""

    run: str | None = None  # folder of a finished run without privacy (privacy.mode=none) on public images
    public: str | None = (
        None  # whose images those were and why they are public; goes on the card. Phantoms are nobody's
    )
    train: Any = "all"  # "all", or regular expressions on the private network's parameters: the rest stays as it was
    rank: int = 0  # above 0: layers learn by adapters of that rank beside them (LoRA) instead of their full weights


@dataclass
class TrainerConfig:
    steps: int = 300  # private steps
    steps_before: int = 0  # before them: steps of models that begin on noised means (model.warm_up); they cost no ε
    steps_after: int = 0  # further steps, after the private ones, of the networks that see no data: they cost no ε
    optimizer: str = (
        "adam"  # of the private networks: adam | adam_bc (freed of the noise's bias) | sgd (momentum beta1) | summary
    )
    learning_rate: float = 1e-3  # for the private networks
    generator_learning_rate: float = 1e-3  # of Adam, for the post-processing networks
    beta1: float = 0.9
    beta2: float = 0.999
    second_moment_floor: float = 0.05  # adam_bc: γ', the least squared gradient, in units of the noise's variance
    ema: float = 0.99  # decay of the weight average per step
    checkpoint_every: int = 50  # steps
    sheet_every: int = 100  # steps
    device: str = "auto"  # auto | cpu | cuda
    precision: str = "float32"  # of the private network's forward and backward pass: float32 | bf16 (autocast)
    memory_format: str = "contiguous"  # of convolutions: contiguous | channels_last (docs/engines.md says for whom)
    threads: int | None = None  # CPU threads of each process; default: torch's own
    rank_timeout: float = 1800.0  # seconds that the processes of one torchrun wait for each other

    @property
    def all_steps(self) -> int:
        """Private steps and those after them."""
        return self.steps + self.steps_after


@dataclass
class SelectionConfig:
    """Which step's averaged weights a run ends with; `imgsynth select`: which of several runs. docs/privacy.md."""

    rule: str = "last"  # last | fixed (selection.step) | public | noisy_max | exponential (both on patients, charged)
    step: int | None = None  # fixed: the step, declared beforehand
    every: int | None = None  # public, noisy_max, exponential: candidates are every so many steps, and the last one
    share: float = 0.05  # noisy_max, exponential: of privacy.epsilon, for the choice
    epsilon: float | None = None  # ε of the choice, instead of share; of imgsynth select in any case
    samples: int = 256  # images generated by each candidate, which patients' images are held against
    encoder: str = "random_conv"  # random_conv | efficientnet_lite: the public features in which near is meant
    public: str | None = None  # public: whose images selection.data are, and why they are public; goes on the card.
    # Phantoms are nobody's
    data: DataConfig = field(default_factory=DataConfig)  # public: the cohort that votes; all settings as in data


@dataclass
class SampleConfig:
    n: int = 64  # synthetic patients, one volume each
    formats: list[str] = field(default_factory=lambda: ["dicom", "nifti"])
    labels: str = "uniform"  # uniform | histogram (noisy counts of the training labels, charged to the ledger)
    histogram_epsilon: float = 0.5  # ε of that histogram, part of privacy.epsilon
    metadata: list[str] = field(default_factory=list)  # of age_band, sex, site: released with each synthetic patient
    metadata_by: str = "dp"  # dp (a noisy histogram by class and facts) | anonymised (k, l, t: no DP of the table)
    sites: list[str] | None = None  # dp: the public list of sites; any other is "unknown"
    k: int = 5  # anonymised: least rows that share age band, sex and site
    l: int = 2  # anonymised: least labels among them, where there are as many
    t: float = 0.3  # anonymised: largest distance of their labels' distribution from the whole table's, in [0, 1]
    masks: str | None = None  # folder of masks (NIfTI, PNG) that images are painted onto; null: the generator's own
    masks_origin: str | None = None  # what those are, as the user declares: synthetic | public; goes on the card
    # Changes of generated masks, each {structure, move: [mm…], scale: f, add: {radius: mm, at: [mm…]}}: every sample is
    # then released twice, before and after.
    edits: list[Any] = field(default_factory=list)
    burned_in: str | None = (
        None  # "YES" | "NO": text in the pixels, as somebody who looked declares it; null: nobody did
    )
    dicom: str = "single_frame"  # single_frame (a file for each slice) | enhanced (one for all; CT, MR; burned_in NO)
    transfer_syntax: str = "explicit_little_endian"  # or jpeg2000_lossless (planes of 32² pixels or more), rle_lossless
    seed: int | None = (
        None  # of labels, images and UIDs: the same weights and seed give the same bytes; null: nobody knows
    )
    writers: int | None = None  # processes that write files; changes no byte; null: as many as pay
    uid_root: str = "2.25"  # of all UIDs of DICOM files; the default is of random UUIDs, which needs no registration
    bids_suffix: str = "T1w"  # MR volumes only: the cohort's contrast as BIDS names it (T1w, T2w, FLAIR, PDw)
    sign: str | None = None  # file of an Ed25519 private key (PEM) that signs the release's checksums; null: not signed

    @property
    def counted(self) -> list[str]:
        """The facts by which patients are counted with noise, beside their class."""
        return self.metadata if self.metadata_by == "dp" else []

    @property
    def epsilon_for_histogram(self) -> float:
        """What the plan spends on counts of patients; 0 where none are taken."""
        return self.histogram_epsilon if self.labels == "histogram" or self.counted else 0.0


@dataclass
class ReleaseConfig:
    """What only the custodian can say of a release; docs/release.md. What is null stands in its documents as open.

    ``watermark`` alone is no answer: null puts none in (docs/recognition.md).
    """

    title: str | None = None
    creators: list[str] | None = None  # each "Family, Given" of a person, or the name of an institution
    license: str | None = None  # SPDX id (CC-BY-4.0, say), or LicenseRef-NAME for terms of your own
    license_text: str | None = None  # file with the whole text, for LICENSE.txt
    contact: str | None = None  # where questions, and reports of trouble with the data, go
    description: str | None = None  # what the cohort was, and what the data are for
    ethics: str | None = None  # approval or waiver, consent, and the legal ground of the release
    date: str | None = None  # of publication, YYYY-MM-DD; null: no file of the release has a date
    watermark: float | None = None  # strength, in standard deviations of each image's own noise; null: none is put in


@dataclass
class EncoderConfig:
    name: str = "random_conv"  # efficientnet_lite | radiomics | inception | random_conv | file | classifier
    seed: int = 0  # random_conv, classifier: of its weights
    path: str | None = None  # file: an .onnx graph or a .pt file of weights; inception: its weights, if not downloaded
    network: str | None = None  # file of weights: what they are of: resnet10 | resnet18 | resnet34 | resnet50 (MONAI)


EVALUATION_PARTS = (
    "metrics", "classes", "subgroups", "utility", "augmentation", "segmentation", "plausibility", "detectability",
)  # fmt: skip
EVALUATION_CLASSIFIERS = ("small_cnn", "resnet", "logistic_regression", "gradient_boosting")


@dataclass
class EvaluateConfig:
    n: int = 512  # real and synthetic images used at most
    bootstrap: int = 200
    # Which parts are done; each left out is named among what was not done. "augmentation" is training on real and
    # synthetic images together, in utility and segmentation.
    parts: list[str] = field(default_factory=lambda: list(EVALUATION_PARTS))
    # of the utility test; the first is also the one of the curve of shares
    classifiers: list[str] = field(default_factory=lambda: list(EVALUATION_CLASSIFIERS))
    classifier_seeds: int = 3
    rivals: bool = True  # networks trained by DP-SGD and noised class means, at the run's ε, beside the rest
    readers: int = 0  # images of each kind in a blinded folder for a reader study, local/readers; 0: not made
    shares: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.25, 1.0])  # of real patients, for the curve
    seed: int = 0
    # folder for what does not depend on the generator (real features and ceilings, networks trained on patients,
    # rivals), which runs on one cohort share; local: it must stay; null: features in the run's own, the rest not kept
    shared: str | None = None


@dataclass
class ExplainConfig:
    """`imgsynth explain`."""

    samples: int = 256  # synthetic images that are compared with each other, and at most as many real ones
    codes: int = 64  # latent codes over which maps of change and of classes are averaged
    directions: int = 3  # of the latent space, those that change images most
    attributed: int = 32  # images of each kind on which the real/synthetic classifier is explained; 0: not done
    seed: int = 0


@dataclass
class CanariesConfig:
    """`imgsynth audit canaries`: twins of a run with pseudo-patients."""

    m: int = 500  # pseudo-patients; each is put in by a fair coin
    kinds: list[str] = field(default_factory=lambda: ["weights", "input"])  # weights | side | input | text, a twin each
    steps: int | None = None  # of each twin, which is then compared with the ε of that many; null: all of the run's
    guesses: float = 0.1  # share of the coins that are guessed at, half of them as heads
    samples: int = 500  # images drawn from a twin with text canaries, in which their strings are looked for
    control: bool = True  # with each twin a short one without noise, which must be caught


@dataclass
class AuditConfig:
    n: int = 512  # images of members, of non-members and of reference patients used at most
    samples: int | None = None  # synthetic images generated for the attacks; default: 4 n
    attacks: list[str] = field(  # names of imgsynth/audit/registry.py: a family and its space
        default_factory=lambda: ["nearest_neighbour/raw"]
    )
    policy: str | None = None  # file of the custodian's conditions, docs/audit/policy.md; where one fails, exit code 1
    # The attack whose result is the verdict, fixed before the audit runs; null: all of them, each at alpha over their
    # number, and each with controls of its own.
    primary: str | None = "nearest_neighbour/raw"
    references: int = 0  # reference models for rmia, lira and groundhog, each trained as the run was; even; 0: none
    overfit_steps: int = 0  # of the positive controls that are trained without noise on few patients; 0: not made
    controls: bool = True  # leaking and innocent synthesizers, label swap, two holdouts, blind classifier
    alpha: float = 0.05
    extraction_samples: int = 2000  # samples among which near-duplicates are looked for; 0: not done
    ocr_pictures: int = 24  # real and as many synthetic pictures in which text is looked for; 0: not done
    bootstrap: int = 500  # random deals and replicates, 100 or more: of fewer no p-value could be small enough
    seed: int = 0
    canaries: CanariesConfig = field(default_factory=CanariesConfig)


@dataclass
class CurveConfig:
    """`imgsynth sweep`: ordinary runs over cohorts, models and ε, and one table and figure of what came of them."""

    epsilons: list[float] = field(default_factory=lambda: [1.0, 3.0, 8.0])  # ε of each run; .inf is without privacy
    models: list[str] = field(default_factory=list)  # names in configs/model; none: the configuration's own
    repetitions: int = 1  # runs of each; their noise differs and cannot be seeded, their evaluation is seeded alike
    # Several cohorts: {name: [overrides]}, "experiment=nih" among them, say; none: the configuration's own
    cohorts: Any = field(default_factory=dict)
    # Further overrides: {pattern: [overrides]}, the pattern over COHORT/MODEL/ε with * and ? as in file names
    overrides: Any = field(default_factory=dict)
    public: Any = field(default_factory=dict)  # {cohort: whose images these are and why they are public}
    unbounded: list[str] = field(default_factory=list)  # private cohorts, by name, on which ε = ∞ is run all the same
    leave_out: list[str] = field(default_factory=list)  # of curve.cohorts, by name
    root: str = "data"  # folder of real data that experiments refer to as ${curve.root}


@dataclass
class PlanConfig:
    """`imgsynth plan`: which method to take."""

    patients: int | None = None  # training patients, where no data are named; default: as the data's headers count them
    hours: float | None = None  # most hours of training on this machine; a method that takes longer is not proposed


@dataclass
class Config:
    """One run, whole."""

    output: str | None = None  # the run's folder; default: runs/<date>-<experiment>
    experiment: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    model: Any = None  # {_target_: imgsynth.models.VAE, …}: an open set
    init: InitConfig = field(default_factory=InitConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    curve: CurveConfig = field(default_factory=CurveConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
