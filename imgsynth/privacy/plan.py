"""One frozen object for all that must agree: sampler, K, clip, noise, normaliser and accounting.

ε is no field: it is computed from the mechanism, so that no plan can state an ε that its σ does not buy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from dp_accounting import dp_event as dp

from imgsynth.privacy import accounting
from imgsynth.privacy.calibrate import calibrated, gaussian_noise
from imgsynth.privacy.clipping import default_count_noise, gradient_noise
from imgsynth.privacy.plan_faults import faults_of, faults_of_target
from imgsynth.privacy.public import PublicImages, PublicStart
from imgsynth.privacy.selection import Selection
from imgsynth.schema import PrivacyConfig
from imgsynth.types import Fault, InputError, Unit

# Plan files of earlier versions do not have these.
IN_EARLIER_VERSIONS = {
    "ids": "patient",
    "augmentation_multiplicity": 1,
    "fakes": "separate",
    "clipping_quantile": None,
    "clipping_learning_rate": 0.2,
    "count_noise_multiplier": 0.0,
    "queries": (),
    "teachers": None,
    "public": None,
    "selection": None,
}


@dataclass(frozen=True)
class GaussianQuery:
    """One noised sum over *all* units, taken once, before training or after it: the Gaussian mechanism."""

    name: str
    clipping_norm: float  # C of a unit's vector
    noise_multiplier: float  # the noise has standard deviation σC; 0 where nothing is to be private


@dataclass(frozen=True)
class PrivacyPlan:
    """The mechanism of one training run (and of its label histogram), whole.

    Formal guarantee (mode "dp", unseeded): the run's outputs are (``epsilon``, ``delta``)-differentially private for
    datasets that differ by adding or removing all data of one ``unit``, provided that nothing but ``private_step``
    under this plan and, once for each of ``queries``, under ``for_query``, on batches from ``PoissonPatients`` under
    the same plan, ``noisy_histogram`` at ``histogram_epsilon`` and, once, ``choose.choose`` under ``selection`` on one
    vote of each unit, reads the private data. The mechanism is DP-SGD (Abadi et al. 2016, arXiv 1607.00133) with users
    as units (McMahan et al. 2018, arXiv 1710.06963). Where there are ``teachers``, ``noisy_margin`` of their votes
    takes the place of ``private_step`` (``votes.py``).

    | case                     | meaning                                                                     |
    |--------------------------|-----------------------------------------------------------------------------|
    | mode "none"              | no clipping, no noise, ε = ∞, not releasable; sampler and normaliser alike  |
    | noise_multiplier = 0     | clipping without noise, for audits: ε = ∞, not releasable                   |
    | seeded                   | as stated, but void for whoever knows the seed: not releasable, ∞ in ledger |
    | ids = "case"             | as stated for the data of one case id; a person with two has that for two   |
    | clipping_quantile given  | C adapts; gradient and count of a step together are one mechanism of σ      |
    | queries given            | each is a further Gaussian mechanism on all units, composed with training   |
    | sampling_rate = 1        | every unit in every step                                                    |
    | teachers given           | a step is one noisy vote; C is the length of a teacher's row of votes       |
    | public given             | as stated, for this cohort; whoever is in the public images has no guarantee |
    | selection given          | the released weights are one of several steps'; a charged choice is composed |
    """

    mode: Literal["dp", "none"]
    unit: Unit
    n: int  # declared, public number of units in the training cohort
    sampling_rate: float  # q: every unit is in a batch with this probability, independently
    steps: int  # T
    clipping_norm: float  # C; where it adapts, that of the first step
    noise_multiplier: float  # σ of a whole step: the noise of the sum has standard deviation σC where C is fixed
    images_per_patient: int  # K, images of a patient that one step uses at most
    delta: float
    histogram_epsilon: float = 0.0  # of the label histogram; 0: none is taken
    engine: str = "ghost"
    physical_batch: int = 32  # patients whose gradients are held at once; memory, not privacy
    seeded: bool = False
    ids: Literal["patient", "case"] = "patient"  # what the source tells apart; "case": two may be one person
    augmentation_multiplicity: int = 1  # M copies of each image, each with its own random draws
    # Where generated images enter: in each clipped unit, or as a plain mean; "separate": as a mean of which each is
    # clipped by itself, in plans of earlier versions: they can be read and verified, but no step is taken by them.
    fakes: Literal["joint", "plain", "separate"] = "joint"
    clipping_quantile: float | None = None  # γ: C follows this quantile of the patients' norms; None: C is fixed
    clipping_learning_rate: float = 0.2  # η of that
    count_noise_multiplier: float = 0.0  # σ_b: the noise of its count has standard deviation σ_b
    queries: tuple[GaussianQuery, ...] = ()  # what is asked of the whole cohort once, beside training
    teachers: int | None = None  # K whose votes are noised, each with units of its own; None: gradients are
    public: PublicStart | None = None  # what the networks began with; None: random numbers
    selection: Selection | None = None  # which step's averaged weights the run ends with; None: the last one's

    def __post_init__(self) -> None:
        faults = faults_of({field.name: getattr(self, field.name) for field in fields(self)})
        if faults:
            raise InputError(*faults)

    @property
    def normaliser(self) -> float:
        """q·n, the expected batch. A public constant: the size of the drawn batch never enters."""
        return self.sampling_rate * self.n

    @property
    def images_per_step(self) -> int:
        """K·M, how many images a patient brings to a batch: each of K in M copies."""
        return self.images_per_patient * self.augmentation_multiplicity

    @property
    def companion_size(self) -> int:
        """How many generated images an update without data takes: as public and as constant as the normaliser."""
        return max(1, round(self.normaliser))

    @property
    def fakes_per_patient(self) -> int:
        """How many generated images are in each drawn patient's unit (``fakes`` "joint"): as many as the unit's own."""
        return self.images_per_patient

    @property
    def gradient_noise_multiplier(self) -> float:
        """σ_g: the noise of the sum has standard deviation σ_g C. σ itself where C is fixed, 0 in mode "none"."""
        if self.mode == "none":
            return 0.0
        if self.clipping_quantile is None:
            return self.noise_multiplier
        return gradient_noise(self.noise_multiplier, self.count_noise_multiplier)

    def event(self) -> dp.DpEvent:
        """All that this plan does to the cohort, as the accountants read it."""
        if self.mode == "none":
            return dp.NonPrivateDpEvent()
        return accounting.mechanism(
            self.sampling_rate, self.noise_multiplier, self.steps, self.histogram_epsilon,
            [query.noise_multiplier for query in self.queries],
            0.0 if self.selection is None else self.selection.epsilon,
        )  # fmt: skip

    def for_query(self, name: str) -> PrivacyPlan:
        """The plan of the query of that name alone: one step in which every unit is, with the query's C and σ.

        ``private_step`` under it is the Gaussian mechanism that ``event`` counts for the query.
        """
        (query,) = (query for query in self.queries if query.name == name)
        return replace(
            self, sampling_rate=1.0, steps=1, clipping_norm=query.clipping_norm, histogram_epsilon=0.0, queries=(),
            teachers=None, selection=None,
            noise_multiplier=query.noise_multiplier, clipping_quantile=None, count_noise_multiplier=0.0,
        )  # fmt: skip

    def ledger_event(self) -> dp.DpEvent:
        """``event`` as the ledger must count it: with a seed there is no guarantee against whoever knows the seed."""
        return dp.NonPrivateDpEvent() if self.seeded else self.event()

    @property
    def ledger_epsilon(self) -> float:
        """ε of ``ledger_event``."""
        return math.inf if self.seeded else self.epsilon

    @cached_property
    def epsilon(self) -> float:
        """The proven ε at ``delta`` of training and all beside it together; ∞ where there is no guarantee."""
        return accounting.epsilon(self.event(), self.delta)

    @property
    def releasable(self) -> bool:
        return self.mode == "dp" and not self.seeded and math.isfinite(self.epsilon)

    def statement(self) -> str:
        """One true sentence for the privacy card, ε rounded up."""
        whose = self._whose()
        if not math.isfinite(self.epsilon):
            return f"No privacy guarantee: training was not differentially private, so what it made may show {whose}."
        sentence = (
            f"Adding or removing {whose} changes the probability of any outcome of this run by a factor of at most "
            f"e^ε, up to an added δ, with ε = {_round_up(self.epsilon)} and δ = {self.delta:g}."
        )
        if self.seeded:
            return f"Not releasable, as its noise came from a seed and protects from nobody who knows it: {sentence}"
        return sentence

    def _whose(self) -> str:
        if self.unit == "image":
            return "any one image (no patient ids: per image)"
        if self.ids == "case":
            return (
                "all data filed under any one case id (the source has case ids, not patient ids: a person with two "
                "cases has only the weaker guarantee for two)"
            )
        return "all data of any one patient"

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; ``epsilon`` null means ∞. The derived values are there for readers."""
        finite = math.isfinite(self.epsilon)
        return {
            **asdict(self),
            "queries": [asdict(query) for query in self.queries],
            "selection": self.selection and {**asdict(self.selection), "candidates": list(self.selection.candidates)},
            "normaliser": self.normaliser,
            "gradient_noise_multiplier": self.gradient_noise_multiplier,
            "adjacency": "add or remove one unit",
            "epsilon": self.epsilon if finite else None,
            "releasable": self.releasable,
            "statement": self.statement(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PrivacyPlan:
        """InputError where a field is missing or out of range, or where the ε stated is less than the ε proven."""
        value = {**IN_EARLIER_VERSIONS, **value}
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in value]
        if missing:
            raise InputError(Fault("plan", f"no {', '.join(missing)}", "every field of a plan", "restore plan.json"))
        queries = tuple(GaussianQuery(**query) for query in value["queries"])
        public = None if value["public"] is None else PublicStart(**value["public"])
        selection = _selection_from_json(value["selection"])
        plan = cls(**{**{name: value[name] for name in names}, "queries": queries, "public": public,
                      "selection": selection})  # fmt: skip
        stated = math.inf if value.get("epsilon") is None else value["epsilon"]
        if stated < plan.epsilon * (1 - 1e-3):  # the last digits may differ between versions of the accountant
            expected = f"at least {plan.epsilon:.4g}, which follows from the other fields"
            remedy = "restore plan.json as the run wrote it; a plan cannot be edited"
            raise InputError(Fault("plan, epsilon", f"{stated:g}", expected, remedy))
        return plan


def make_plan(
    privacy: PrivacyConfig,
    *,
    n: int,
    steps: int,
    images_per_patient: int,
    unit: Unit,
    augmentation_multiplicity: int = 1,
    epsilon_for_histogram: float = 0.0,
    ids: Literal["patient", "case"] = "patient",
    queries: Sequence[tuple[str, float]] = (),
    teachers: int | None = None,
    public: PublicStart | None = None,
    selection: Selection | None = None,
) -> PrivacyPlan:
    """The plan for a cohort of ``n`` units (``privacy.n`` wins where declared), σ calibrated where it is not given.

    ``privacy.epsilon`` is the total: σ is such that training, queries, histogram *and* selection cost at most that. δ
    must be below 1/n for the declared and for the actual number. ``queries``: name and clipping norm of each; their
    noise is ``privacy.query_noise_multiplier``, or else such that each alone costs ``privacy.query_share`` of ε. Raises
    InputError with all faults at once, before anything is computed.
    """
    counted, n = n, n if privacy.n is None else privacy.n
    draft: dict[str, Any] = {
        "mode": privacy.mode,
        "unit": unit,
        "n": n,
        "sampling_rate": privacy.batch_for(n) / n if n > 0 else math.inf,
        "steps": steps,
        "clipping_norm": privacy.clipping_norm,
        "noise_multiplier": 0.0,
        "images_per_patient": images_per_patient,
        "delta": privacy.delta,
        "histogram_epsilon": epsilon_for_histogram,
        "engine": privacy.engine,
        "physical_batch": privacy.physical_batch,
        "seeded": privacy.seed is not None,
        "ids": ids,
        "augmentation_multiplicity": augmentation_multiplicity,
        "fakes": privacy.fakes,
        "clipping_quantile": privacy.clipping_quantile,
        "clipping_learning_rate": privacy.clipping_learning_rate,
        "queries": tuple(GaussianQuery(name, norm, 0.0) for name, norm in queries),
        "teachers": teachers,
        "public": public,
        "selection": selection,
    }
    if privacy.mode == "none":
        return PrivacyPlan(**draft)  # refuses what mode "none" cannot have
    draft["noise_multiplier"] = 1.0 if privacy.noise_multiplier is None else privacy.noise_multiplier
    faults = [*faults_of_target(privacy, epsilon_for_histogram, len(queries)), *faults_of(draft, counted)]
    if faults:
        raise InputError(*faults)
    if queries:
        sigma = privacy.query_noise_multiplier
        if sigma is None:
            assert privacy.epsilon is not None  # faults_of_target
            sigma = gaussian_noise(privacy.query_share * privacy.epsilon, privacy.delta)
        draft["queries"] = tuple(GaussianQuery(name, norm, sigma) for name, norm in queries)
    plan = PrivacyPlan(**{**draft, "clipping_quantile": None})  # σ does not depend on what is done with it
    if privacy.epsilon is not None:
        plan = calibrated(plan, privacy.epsilon)
    if privacy.clipping_quantile is None:
        return plan
    count = privacy.count_noise_multiplier
    if count is None:
        count = default_count_noise(plan.noise_multiplier, plan.normaliser)
    return replace(plan, clipping_quantile=privacy.clipping_quantile, count_noise_multiplier=count)


def _selection_from_json(value: dict[str, Any] | None) -> Selection | None:
    if value is None:
        return None
    public = None if value["public"] is None else PublicImages(**value["public"])
    return Selection(**{**value, "candidates": tuple(value["candidates"]), "public": public})


def _round_up(value: float, digits: int = 3) -> str:
    """To ``digits`` significant digits, never below: a stated ε must hold."""
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return f"{math.ceil(value / unit) * unit:.{digits}g}"
