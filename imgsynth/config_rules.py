"""What values the configuration may take, one line a rule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from imgsynth.audit.policy import read_policy
from imgsynth.audit.registry import settings_faults
from imgsynth.cohort.build_dicomweb import date_range
from imgsynth.cohort.dicomweb import url_fault
from imgsynth.cohort.facts import FACTS, UNKNOWN
from imgsynth.cohort.masks import declaration_faults, structures_of
from imgsynth.privacy.public import DECLARATION, is_declaration
from imgsynth.privacy.selection import RULES as SELECTION_RULES
from imgsynth.privacy.selection import setting_faults as selection_faults
from imgsynth.release.edit_masks import edit_faults
from imgsynth.release.licences import licence_faults
from imgsynth.release.supplied_masks import ORIGIN_EXPECTED, ORIGINS
from imgsynth.release.watermark import SMALLEST_MARKED
from imgsynth.schema import (
    EVALUATION_CLASSIFIERS,
    EVALUATION_PARTS,
    Config,
    DataConfig,
    InitConfig,
    PreprocessConfig,
    PrivacyConfig,
    SplitsConfig,
)
from imgsynth.types import Fault, InputError
from imgsynth.volumes.dicom_syntax import SMALLEST_JPEG2000, SYNTAXES
from imgsynth.volumes.dicom_write import KINDS
from imgsynth.volumes.uids import UID_ROOT, is_uid_root

Rule = tuple[str, Callable[[Any], bool], str]


def _one_of(*options: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in options, "one of " + ", ".join(options)


def _some_of(*options: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: 0 < len(v) == len(set(v)) and set(v) <= set(options), "one or more of " + ", ".join(options)


_at_least_one: tuple[Callable[[Any], bool], str] = (lambda v: v >= 1, "1 or more")
_positive: tuple[Callable[[Any], bool], str] = (lambda v: v > 0 and math.isfinite(v), "a finite number above 0")
_not_negative: tuple[Callable[[Any], bool], str] = (lambda v: v >= 0, "0 or more")
_decay: tuple[Callable[[Any], bool], str] = (lambda v: 0 <= v < 1, "in [0, 1)")
_share: tuple[Callable[[Any], bool], str] = (lambda v: 0 < v < 0.5, "a share in (0, 0.5)")
_level: tuple[Callable[[Any], bool], str] = (lambda v: 0 < v < 0.5, "a level in (0, 0.5), 0.05 say")

_one_line: tuple[Callable[[Any], bool], str] = (
    lambda v: isinstance(v, str) and bool(v.strip()) and v.isprintable(),
    "text on one line",
)


def _is_date(value: str) -> bool:
    try:
        return datetime.strptime(value, "%Y-%m-%d").strftime("%Y-%m-%d") == value
    except ValueError:
        return False


def is_train(value: Any) -> bool:
    """Whether it can be ``init.train``."""
    if value == "all":
        return True
    if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
        return False
    try:
        return all(re.compile(one) for one in value)
    except re.error:
        return False


RULES: tuple[Rule, ...] = (
    (
        "data.kind",
        *_one_of("phantom", "dicom", "dicomweb", "nifti", "bids", "nnunet", "npz", "medmnist", "images", "table"),
    ),
    ("data.issuer", lambda v: bool(v.strip()), "a name, or null where the issuer of the ids is not known"),
    ("data.unit", *_one_of("patient", "image")),
    ("data.images_per_patient", *_at_least_one),
    ("data.augmentation_multiplicity", *_at_least_one),
    ("data.cache", *_one_of("memory", "disk", "none")),
    ("data.modality", *_one_of("CT", "MR", "DX", "CR")),
    ("data.phantom.patients", lambda v: v >= 3, "3 or more, so that each split has one"),
    ("data.phantom.size", lambda v: 8 <= v <= 256, "8 to 256 voxels"),
    ("data.phantom.lesion_share", lambda v: 0 <= v <= 1, "a share in [0, 1]"),
    ("data.phantom.extra_studies", lambda v: 0 <= v <= 1, "a share in [0, 1]"),
    ("data.splits.holdout", *_share),
    ("data.splits.test", *_share),
    ("preprocess.shape", lambda v: len(v) in (2, 3) and min(v) >= 8, "two or three axes of 8 voxels or more"),
    ("preprocess.spacing", lambda v: min(v) > 0, "millimetres above 0"),
    (
        "preprocess.orientation",
        lambda v: re.fullmatch("[RL][AP][SI]|[SI][RL]|[AP][RL]|[SI][AP]", v) is not None,
        "RAS, LPS or the like, with the axes in this order; for single images IL, PL or IP, where rows and columns run",
    ),
    ("preprocess.fit", *_one_of("crop_pad", "resize")),
    ("preprocess.intensity", *_one_of("window", "percentile", "minmax")),
    ("init.public", is_declaration, DECLARATION),
    ("init.train", is_train, '"all", or a list of regular expressions on names of parameters'),
    ("init.rank", *_not_negative),
    ("privacy.mode", *_one_of("dp", "none")),
    ("privacy.epsilon", *_positive),
    ("privacy.delta", lambda v: 0 < v < 1, "in (0, 1), and below 1/n"),
    ("privacy.noise_multiplier", *_positive),
    ("privacy.clipping_norm", *_positive),
    ("privacy.clipping_quantile", lambda v: 0 < v < 1, "a share in (0, 1)"),
    ("privacy.clipping_learning_rate", *_positive),
    ("privacy.count_noise_multiplier", *_positive),
    ("privacy.query_share", lambda v: 0 < v < 1, "a share in (0, 1)"),
    ("privacy.query_noise_multiplier", *_positive),
    ("privacy.fakes", *_one_of("joint", "plain")),
    ("privacy.batch_patients", *_at_least_one),
    ("privacy.sampling_rate", lambda v: 0 < v <= 1, "a rate in (0, 1]"),
    ("privacy.n", *_at_least_one),
    ("privacy.engine", *_one_of("ghost", "functional", "loop")),
    ("privacy.physical_batch", *_at_least_one),
    ("privacy.budget_epsilon", *_positive),
    ("trainer.steps", *_at_least_one),
    ("trainer.steps_before", *_not_negative),
    ("trainer.steps_after", *_not_negative),
    ("trainer.optimizer", *_one_of("adam", "adam_bc", "sgd", "summary")),
    ("trainer.learning_rate", *_positive),
    ("trainer.generator_learning_rate", *_positive),
    ("trainer.beta1", *_decay),
    ("trainer.beta2", *_decay),
    ("trainer.second_moment_floor", *_positive),
    ("trainer.ema", *_decay),
    ("trainer.checkpoint_every", *_at_least_one),
    ("trainer.sheet_every", *_at_least_one),
    ("trainer.device", *_one_of("auto", "cpu", "cuda")),
    ("trainer.precision", *_one_of("float32", "bf16")),
    ("trainer.memory_format", *_one_of("contiguous", "channels_last")),
    ("trainer.threads", *_at_least_one),
    ("trainer.rank_timeout", *_positive),
    ("selection.rule", *_one_of("last", *SELECTION_RULES)),
    ("selection.step", *_at_least_one),
    ("selection.every", *_at_least_one),
    ("selection.share", lambda v: 0 < v < 1, "a share in (0, 1)"),
    ("selection.epsilon", *_positive),
    ("selection.samples", *_at_least_one),
    ("selection.encoder", *_one_of("random_conv", "efficientnet_lite")),
    ("selection.public", is_declaration, DECLARATION),
    ("sample.n", *_at_least_one),
    ("sample.formats", lambda v: bool(v) and set(v) <= {"dicom", "nifti", "zarr"}, "a list of dicom, nifti, zarr"),
    ("sample.labels", *_one_of("uniform", "histogram")),
    ("sample.histogram_epsilon", *_positive),
    ("sample.metadata", lambda v: len(set(v)) == len(v) and set(v) <= set(FACTS), "some of age_band, sex, site"),
    ("sample.metadata_by", *_one_of("dp", "anonymised")),
    ("sample.sites", lambda v: len(set(v)) == len(v) > 0 and UNKNOWN not in v, "a list of different names"),
    ("sample.k", lambda v: v >= 2, "2 or more"),
    ("sample.l", *_at_least_one),
    ("sample.t", lambda v: 0 <= v <= 1, "a distance in [0, 1]"),
    ("sample.masks_origin", lambda v: v in ORIGINS, ORIGIN_EXPECTED),
    ("sample.burned_in", lambda v: v in ("YES", "NO"), '"YES" or "NO", in quotes (bare, YAML reads a truth value)'),
    ("sample.dicom", *_one_of(*KINDS)),
    ("sample.transfer_syntax", *_one_of(*SYNTAXES)),
    ("sample.seed", *_not_negative),
    ("sample.writers", *_at_least_one),
    ("sample.uid_root", is_uid_root, UID_ROOT),
    ("sample.bids_suffix", lambda v: re.fullmatch("[A-Za-z0-9]+", v) is not None, "letters and digits, T1w say"),
    ("encoder.name", *_one_of("efficientnet_lite", "radiomics", "inception", "random_conv", "file", "classifier")),
    ("release.title", *_one_line),
    ("release.creators", lambda v: bool(v) and all(map(_one_line[0], v)), 'a list of "Family, Given", or institutions'),
    ("release.contact", *_one_line),
    ("release.date", _is_date, "a date, YYYY-MM-DD, in quotes"),
    ("release.watermark", lambda v: 0 < v <= 1, "above 0, at most 1: the noise hides no more (null: no watermark)"),
    ("evaluate.n", *_at_least_one),
    ("evaluate.bootstrap", lambda v: v >= 2, "2 or more: of one resampling there is no interval"),
    ("evaluate.parts", *_some_of(*EVALUATION_PARTS)),
    ("evaluate.classifiers", *_some_of(*EVALUATION_CLASSIFIERS)),
    ("evaluate.classifier_seeds", *_at_least_one),
    ("evaluate.readers", lambda v: v >= 0, "0 or more"),
    ("evaluate.shares", lambda v: all(0 < share <= 1 for share in v), "shares above 0, at most 1"),
    (
        "curve.epsilons",
        lambda v: bool(v) and len(set(v)) == len(v) and all(e > 0 for e in v),
        "different numbers above 0, or inf: without privacy",
    ),
    ("curve.models", lambda v: len(set(v)) == len(v), "different names of configs/model"),
    ("curve.repetitions", *_at_least_one),
    ("plan.patients", lambda v: v >= 2, "2 or more"),
    ("plan.hours", *_positive),
    ("explain.samples", lambda v: v >= 8, "8 or more"),
    ("explain.codes", lambda v: v >= 2, "2 or more: one has no spread"),
    ("explain.directions", *_at_least_one),
    ("explain.attributed", *_not_negative),
    ("explain.seed", *_not_negative),
    ("audit.n", *_at_least_one),
    ("audit.samples", *_at_least_one),
    ("audit.references", lambda v: v == 0 or (v >= 4 and v % 2 == 0), "0, or an even number of 4 or more"),
    ("audit.overfit_steps", lambda v: v >= 0, "0 or more"),
    ("audit.alpha", *_level),
    ("audit.extraction_samples", *_not_negative),
    ("audit.ocr_pictures", *_not_negative),
    ("audit.bootstrap", lambda v: v >= 100, "100 or more: the copy check's p-value is 1/(1 + this) at least"),
    ("audit.canaries.m", lambda v: v >= 20, "20 or more"),
    (
        "audit.canaries.kinds",
        lambda v: bool(v) and set(v) <= {"weights", "side", "input", "text"} and len(set(v)) == len(v),
        "a list of weights, side, input, text",
    ),
    ("audit.canaries.steps", *_at_least_one),
    ("audit.canaries.samples", *_at_least_one),
    ("audit.canaries.guesses", lambda v: 0 < v <= 0.2, "a share in (0, 0.2]"),
)


def rule_faults(config: Config) -> list[Fault]:
    """Every single value out of its range."""
    faults = []
    for path, holds, expected in RULES:
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        if value is not None and not holds(value):
            faults.append(Fault(path, repr(value), expected, f"{path}=<value>"))
    return faults


def range_faults(config: Config) -> list[Fault]:
    """Every value out of its range, every file that is not there, every pair of settings that exclude each other."""
    faults = rule_faults(config)
    together = (
        _source_faults(config.data),
        _split_faults(config.data),
        _choice_faults(config.data),
        _dicomweb_faults(config.data),
        declaration_faults(config.data.masks),
        _grid_faults(config.preprocess),
        _init_faults(config.init),
        _privacy_faults(config.privacy),
        _selection_faults(config),
        _dicom_faults(config),
        _painting_faults(config),
        _across_sections(config),
    )
    return [*faults, *chain.from_iterable(together)]


def _source_faults(data: DataConfig) -> Iterator[Fault]:
    if data.kind != "phantom" and data.root is None:
        yield Fault("data.root", "nothing", f"the {data.kind} source's folder or file", "data.root=PATH")
    if data.kind not in ("phantom", "dicomweb") and data.root is not None and not Path(data.root).exists():
        yield Fault(
            "data.root",
            data.root,
            "an existing folder or file",
            "check the path (it is taken from the folder that you are in)",
        )
    if data.kind == "table" and data.table is None:
        yield Fault("data.table", "nothing", "the csv or tsv that names the images", "data.table=FILE")
    if data.table is not None and not Path(data.table).is_file():
        yield Fault("data.table", data.table, "an existing csv or tsv file", "check the path")
    if data.classes is not None and (not data.classes or len(set(data.classes)) != len(data.classes)):
        yield Fault("data.classes", repr(data.classes), "distinct names", "data.classes=[normal,lesion]")
    if data.pattern is not None:
        try:
            re.compile(data.pattern)
        except re.error as error:
            yield Fault("data.pattern", data.pattern, "a regular expression", str(error))


def _split_faults(data: DataConfig) -> Iterator[Fault]:
    splits, usual = data.splits, SplitsConfig()
    if splits.official and data.kind != "medmnist":
        yield Fault("data.splits.official", f"true, with data.kind={data.kind}", "a source that has parts of its own",
                    "data=medmnist, or data.splits.official=false")  # fmt: skip
    for name in ("holdout", "test", "seed"):
        if splits.official and getattr(splits, name) != getattr(usual, name):
            yield Fault(f"data.splits.{name}", f"{getattr(splits, name)}, with data.splits.official=true",
                        "nothing: the source says who is where", f"leave out data.splits.{name}")  # fmt: skip


def _choice_faults(data: DataConfig) -> Iterator[Fault]:
    """Settings that choose among the images of one kind of source."""
    if data.channel is not None and data.kind not in ("nnunet", "nifti"):
        yield Fault("data.channel", data.channel, f"null, with data.kind={data.kind}", "data=nnunet")
    if not isinstance(data.entities, dict):
        yield Fault("data.entities", repr(data.entities), "entities with their values", "data.entities.suffix=T1w")
    for name, value in (("entities", data.entities), ("derivatives", data.derivatives)):
        if value and data.kind != "bids":
            yield Fault(f"data.{name}", str(value), f"nothing, with data.kind={data.kind}", "data=bids")


def _dicomweb_faults(data: DataConfig) -> Iterator[Fault]:
    asked = data.dicomweb
    if data.kind != "dicomweb":
        for name in ("url", "study_date", "patients"):
            if getattr(asked, name) is not None:
                yield Fault(f"data.dicomweb.{name}", f"a value, with data.kind={data.kind}", "null", "data=dicomweb")
        return
    if asked.url is None:
        yield Fault("data.dicomweb.url", "nothing", "the root of an image server's DICOMweb services",
                    "data.dicomweb.url=https://HOST/dicom-web")  # fmt: skip
    elif fault := url_fault(asked.url):
        yield fault
    if asked.study_date is not None and date_range(asked.study_date) is None:
        yield Fault("data.dicomweb.study_date", asked.study_date, "YYYYMMDD or YYYYMMDD-YYYYMMDD",
                    "data.dicomweb.study_date='20200101-20231231'")  # fmt: skip
    if asked.patients is not None and not Path(asked.patients).is_file():
        yield Fault("data.dicomweb.patients", asked.patients, "an existing text file, one id a line", "check the path")


def _grid_faults(pre: PreprocessConfig) -> Iterator[Fault]:
    if pre.spacing is not None and len(pre.spacing) != len(pre.shape):
        yield Fault(
            "preprocess.spacing",
            repr(pre.spacing),
            f"{len(pre.shape)} numbers, as in preprocess.shape",
            "preprocess.spacing=[…]",
        )
    if pre.spacing is None and pre.fit == "crop_pad":
        yield Fault(
            "preprocess.spacing",
            "null",
            "millimetres, because fit=crop_pad keeps sizes",
            "preprocess.spacing=[…] (public numbers) or preprocess.fit=resize",
        )
    if not pre.low < pre.high:
        yield Fault("preprocess.low", repr(pre.low), f"less than preprocess.high={pre.high}", "preprocess.low=<value>")


def _privacy_faults(privacy: PrivacyConfig) -> Iterator[Fault]:
    if privacy.mode == "dp" and (privacy.epsilon is None) == (privacy.noise_multiplier is None):
        yield Fault(
            "privacy.epsilon",
            f"epsilon={privacy.epsilon}, noise_multiplier={privacy.noise_multiplier}",
            "exactly one of the two",
            "leave one out: privacy.epsilon=null, say",
        )
    if privacy.mode == "none" and (privacy.epsilon is not None or privacy.noise_multiplier is not None):
        yield Fault(
            "privacy.mode",
            "none, with an epsilon or a noise multiplier",
            "no ε where there is no noise",
            "privacy=none, or privacy=dp privacy.epsilon=<ε>",
        )
    if privacy.mode == "none" and privacy.clipping_quantile is not None:
        yield Fault(
            "privacy.clipping_quantile",
            f"{privacy.clipping_quantile:g} in mode none",
            "null where nothing is clipped",
            "privacy.clipping_quantile=null",
        )
    if privacy.clipping_quantile is None and privacy.count_noise_multiplier is not None:
        yield Fault(
            "privacy.count_noise_multiplier",
            f"{privacy.count_noise_multiplier:g}, but C is fixed",
            "null where nothing is counted",
            "privacy.clipping_quantile=0.5, or leave it out",
        )
    if privacy.sampling_rate is not None and privacy.batch_patients is not None:
        yield Fault(
            "privacy.sampling_rate",
            f"{privacy.sampling_rate:g}, and batch_patients={privacy.batch_patients}",
            "one of the two: the rate is batch_patients / n",
            "privacy.batch_patients=null",
        )
    if privacy.n is not None and privacy.delta >= 1 / privacy.n:
        yield Fault(
            "privacy.delta", repr(privacy.delta), f"below 1/n = {1 / privacy.n:.3g}", "privacy.delta=1e-6 or so"
        )
    if privacy.n is not None and privacy.batch_patients is not None and privacy.batch_patients > privacy.n:
        yield Fault(
            "privacy.batch_patients",
            repr(privacy.batch_patients),
            f"at most n = {privacy.n} patients",
            "privacy.batch_patients=<fewer>",
        )


def _init_faults(init: InitConfig) -> Iterator[Fault]:
    given = [("init.public", init.public, None), ("init.train", init.train, "all"), ("init.rank", init.rank, 0)]
    if init.run is None:
        for where, got, default in given:
            if got != default:
                yield Fault(where, f"{got}, and no init.run", "a run on public images that this is about",
                            f"init.run=FOLDER, or leave {where} out")  # fmt: skip


def _selection_faults(config: Config) -> Iterator[Fault]:
    """Of the choice among a run's steps, and of the public cohort that it may be made on."""
    selection = config.selection
    if selection.rule == "last":
        given = [("step", selection.step, None), ("every", selection.every, None), ("public", selection.public, None)]
        for name, got, default in given:
            if got != default:
                yield Fault(f"selection.{name}", f"{got}, and selection.rule=last", "a rule that it is about",
                            f"selection.rule=…, or leave selection.{name} out")  # fmt: skip
        return
    yield from selection_faults(selection, config.privacy, config.trainer.all_steps)
    if selection.rule == "public":
        for fault in (*_source_faults(selection.data), *_choice_faults(selection.data)):
            yield replace(fault, where=f"selection.{fault.where}")


def _dicom_faults(config: Config) -> Iterator[Fault]:
    sample, rows_and_columns = config.sample, config.preprocess.shape[:2]
    if "dicom" not in sample.formats:
        return
    if sample.dicom == "enhanced" and config.data.modality in ("DX", "CR"):
        yield Fault("sample.dicom", f"enhanced, and data.modality={config.data.modality}", "CT or MR",
                    "sample.dicom=single_frame")  # fmt: skip
    if sample.dicom == "enhanced" and (sample.burned_in != "NO" or config.privacy.mode == "none"):
        yield Fault("sample.dicom", f"enhanced, sample.burned_in={sample.burned_in}, privacy={config.privacy.mode}",
                    "images that somebody declared to show no text: enhanced DICOM holds no others",
                    "look at samples/, then sample.burned_in='NO'; or sample.dicom=single_frame")  # fmt: skip
    if sample.transfer_syntax == "jpeg2000_lossless" and min(rows_and_columns) < SMALLEST_JPEG2000:
        yield Fault("sample.transfer_syntax", f"jpeg2000_lossless, and preprocess.shape={config.preprocess.shape}",
                    f"planes of {SMALLEST_JPEG2000} pixels or more along each side",
                    "sample.transfer_syntax=rle_lossless")  # fmt: skip


def _painting_faults(config: Config) -> Iterator[Fault]:
    """Masks that are supplied, and edits."""
    sample, declared = config.sample, not list(declaration_faults(config.data.masks))
    if (sample.masks is None) != (sample.masks_origin is None):
        missing = "sample.masks_origin" if sample.masks_origin is None else "sample.masks"
        yield Fault(missing, "nothing, and the other of sample.masks and sample.masks_origin", ORIGIN_EXPECTED,
                    "sample.masks=FOLDER sample.masks_origin=synthetic")  # fmt: skip
    if sample.masks is not None and not Path(sample.masks).is_dir():
        yield Fault("sample.masks", sample.masks, "a folder with masks", "check the path")
    if not sample.edits:
        return
    if declared:
        yield from edit_faults(sample.edits, structures_of(config.data.masks), len(config.preprocess.shape))
    if sample.masks is not None:
        yield Fault("sample.edits", "edits, and sample.masks", "edits of the generator's own masks",
                    "edit yours before, and leave one of the two out")  # fmt: skip
    if sample.n % 2:
        yield Fault("sample.n", str(sample.n), "an even number: with sample.edits every sample is released twice",
                    f"sample.n={sample.n + 1}")  # fmt: skip
    if sample.metadata:
        yield Fault("sample.metadata", repr(sample.metadata), "none with sample.edits: two images are one patient's",
                    "sample.metadata=[]")  # fmt: skip


def _across_sections(config: Config) -> Iterator[Fault]:
    privacy = config.privacy
    if config.audit.policy is not None:
        try:
            read_policy(Path(config.audit.policy))
        except InputError as error:
            yield from error.faults
    yield from settings_faults(config.audit)
    yield from licence_faults(config.release)
    if config.release.watermark is not None and sorted(config.preprocess.shape)[-2] < SMALLEST_MARKED:
        yield Fault("release.watermark", f"a strength, and preprocess.shape={config.preprocess.shape}",
                    f"{SMALLEST_MARKED} voxels or more along two axes: in less it cannot be found again",
                    "release.watermark=null")  # fmt: skip
    if "site" in config.sample.counted and config.sample.sites is None:
        yield Fault("sample.sites", "nothing, and sites are to be released", "the public list of sites: a list read "
                    "from private data is not free", "sample.sites=[A,B], or sample.metadata without site")  # fmt: skip
    histogram = config.sample.epsilon_for_histogram > 0 and privacy.mode == "dp" and privacy.epsilon is not None
    if histogram and config.sample.histogram_epsilon >= (privacy.epsilon or 0):
        yield Fault(
            "sample.histogram_epsilon",
            repr(config.sample.histogram_epsilon),
            f"below privacy.epsilon={privacy.epsilon}, of which it is a part",
            "sample.histogram_epsilon=0.1",
        )
