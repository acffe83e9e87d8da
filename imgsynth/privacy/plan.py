"""One frozen object for all that must agree: sampler, K, clip, noise, normaliser and accounting.

ε is no field: it is computed from the mechanism, so that no plan can state an ε that its σ does not buy.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from dp_accounting import dp_event as dp

from imgsynth.privacy import accounting
from imgsynth.privacy.calibrate import calibrated
from imgsynth.privacy.engines import ENGINES
from imgsynth.schema import PrivacyConfig
from imgsynth.types import Fault, InputError, Unit


@dataclass(frozen=True)
class PrivacyPlan:
    """The mechanism of one training run (and of its label histogram), whole.

    Formal guarantee (mode "dp", unseeded): the run's outputs are (``epsilon``, ``delta``)-differentially private for
    datasets that differ by adding or removing all data of one ``unit``, provided that nothing but ``private_step``
    under this plan, on batches from ``PoissonPatients`` under this plan, and ``noisy_histogram`` at
    ``histogram_epsilon`` reads the private data. The mechanism is DP-SGD (Abadi et al. 2016, arXiv 1607.00133)
    with users as units (McMahan et al. 2018, arXiv 1710.06963).

    | case                     | meaning                                                                     |
    |--------------------------|-----------------------------------------------------------------------------|
    | mode "none"              | no clipping, no noise, ε = ∞, not releasable; sampler and normaliser alike  |
    | noise_multiplier = 0     | clipping without noise, for audits: ε = ∞, not releasable                   |
    | seeded                   | as stated, but void for whoever knows the seed: not releasable, ∞ in ledger |
    | ids = "case"             | as stated for the data of one case id; a person with two has that for two   |
    | sampling_rate = 1        | every unit in every step                                                    |
    """

    mode: Literal["dp", "none"]
    unit: Unit
    n: int  # declared, public number of units in the training cohort
    sampling_rate: float  # q: every unit is in a batch with this probability, independently
    steps: int  # T
    clipping_norm: float  # C
    noise_multiplier: float  # σ: the noise of the sum has standard deviation σC
    images_per_patient: int  # K
    delta: float
    histogram_epsilon: float = 0.0  # of the label histogram; 0: none is taken
    engine: str = "functional"
    physical_batch: int = 32  # patients whose gradients are held at once; memory, not privacy
    seeded: bool = False
    ids: Literal["patient", "case"] = "patient"  # what the source tells apart; "case": two may be one person

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise InputError(*faults)

    @property
    def normaliser(self) -> float:
        """q·n, the expected batch. A public constant: the size of the drawn batch never enters."""
        return self.sampling_rate * self.n

    @property
    def companion_size(self) -> int:
        """How many generated units go beside a private batch: as public and as constant as the normaliser."""
        return max(1, round(self.normaliser))

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the clipped sum, σC; 0 in mode "none"."""
        return self.noise_multiplier * self.clipping_norm if self.mode == "dp" else 0.0

    def event(self) -> dp.DpEvent:
        """All that this plan does to the cohort, as the accountants read it."""
        if self.mode == "none":
            return dp.NonPrivateDpEvent()
        return accounting.mechanism(self.sampling_rate, self.noise_multiplier, self.steps, self.histogram_epsilon)

    def ledger_event(self) -> dp.DpEvent:
        """``event`` as the ledger must count it: with a seed there is no guarantee against whoever knows the seed."""
        return dp.NonPrivateDpEvent() if self.seeded else self.event()

    @property
    def ledger_epsilon(self) -> float:
        """ε of ``ledger_event``."""
        return math.inf if self.seeded else self.epsilon

    @cached_property
    def epsilon(self) -> float:
        """The proven ε at ``delta`` of training and label histogram together; ∞ where there is no guarantee."""
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
            "normaliser": self.normaliser,
            "adjacency": "add or remove one unit",
            "epsilon": self.epsilon if finite else None,
            "releasable": self.releasable,
            "statement": self.statement(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PrivacyPlan:
        """InputError where a field is missing or out of range, or where the ε stated is less than the ε proven."""
        value = {"ids": "patient", **value}  # plans of earlier versions do not say
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in value]
        if missing:
            raise InputError(Fault("plan", f"no {', '.join(missing)}", "every field of a plan", "restore plan.json"))
        plan = cls(**{name: value[name] for name in names})
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
    epsilon_for_histogram: float = 0.0,
    ids: Literal["patient", "case"] = "patient",
) -> PrivacyPlan:
    """The plan for a cohort of ``n`` units (``privacy.n`` wins where declared), σ calibrated where it is not given.

    ``privacy.epsilon`` is the total: σ is such that training *and* histogram cost at most that. δ must be below 1/n
    for the declared and for the actual number. Raises InputError with all faults at once, before anything is computed.
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
    }
    if privacy.mode == "none":
        return PrivacyPlan(**draft)
    draft["noise_multiplier"] = 1.0 if privacy.noise_multiplier is None else privacy.noise_multiplier
    faults = [*_faults_of_target(privacy, epsilon_for_histogram), *_faults_of(draft, counted)]
    if faults:
        raise InputError(*faults)
    plan = PrivacyPlan(**draft)
    return plan if privacy.epsilon is None else calibrated(plan, privacy.epsilon)


def _faults_of_target(privacy: PrivacyConfig, histogram: float) -> list[Fault]:
    """What is wrong with (ε, σ), of which exactly one is given."""
    faults = []
    if (privacy.epsilon is None) == (privacy.noise_multiplier is None):
        got = "neither" if privacy.epsilon is None else "both"
        remedy = "privacy.epsilon=8" if privacy.epsilon is None else "privacy.epsilon=null to keep the noise multiplier"
        faults.append(Fault("privacy.epsilon, privacy.noise_multiplier", got, "exactly one of the two", remedy))
    if privacy.epsilon is not None and not 0 < privacy.epsilon < math.inf:
        got, remedy = f"{privacy.epsilon:g}", "privacy.epsilon=8, or privacy.mode=none for no guarantee at all"
        faults.append(Fault("privacy.epsilon", got, "a finite number above 0", remedy))
    elif privacy.epsilon is not None and histogram >= privacy.epsilon:
        expected = f"less than the run's whole ε of {privacy.epsilon:g}"
        faults.append(Fault("sample.histogram_epsilon", f"{histogram:g}", expected, "sample.labels=uniform costs none"))
    return faults


def _faults(plan: PrivacyPlan) -> list[Fault]:
    return _faults_of({field.name: getattr(plan, field.name) for field in fields(plan)})


def _faults_of(d: dict[str, Any], counted: int = 0) -> list[Fault]:
    """Every field that is out of range, by the name of the configuration key that sets it; ``counted`` is actual n."""
    n, q, delta = d["n"], d["sampling_rate"], d["delta"]
    largest = max(n, counted, 1)
    checks = [
        (d["mode"] in ("dp", "none"), "privacy.mode", d["mode"], "dp or none", "privacy.mode=dp"),
        (d["unit"] in ("patient", "image"), "data.unit", d["unit"], "patient or image", "data.unit=patient"),
        (d["ids"] in ("patient", "case"), "manifest, ids", d["ids"], "patient or case", "build the cohort anew"),
        (n >= 1, "privacy.n", n, "at least 1 unit", "declare the size of the training cohort"),
        (n < 1 or 0 < q <= 1, "privacy.batch_patients", f"{q * n:g} of n = {n}, a rate of {q:g}", "1 to n patients",
         f"privacy.batch_patients={max(1, n // 4)}"),
        (delta > 0 and (n < 1 or delta < 1 / largest), "privacy.delta", f"{delta:g}",
         f"more than 0, less than 1/n = {1 / largest:.3g}",
         f"privacy.delta={0.1 / largest:.0e}: at 1/n, publishing one patient's data outright would pass"),
        (d["steps"] >= 1, "trainer.steps", d["steps"], "at least 1", "trainer.steps=300"),
        (0 < d["clipping_norm"] < math.inf, "privacy.clipping_norm", d["clipping_norm"], "a finite number above 0",
         "privacy.clipping_norm=1"),
        (0 <= d["noise_multiplier"] < math.inf, "privacy.noise_multiplier", d["noise_multiplier"],
         "a finite number, 0 or more", "privacy.noise_multiplier=null calibrates it from privacy.epsilon"),
        (d["engine"] in ENGINES, "privacy.engine", d["engine"], f"one of {', '.join(ENGINES)}",
         "privacy.engine=functional"),
        (d["images_per_patient"] >= 1, "data.images_per_patient", d["images_per_patient"], "at least 1",
         "data.images_per_patient=1"),
        (0 <= d["histogram_epsilon"] < math.inf, "sample.histogram_epsilon", d["histogram_epsilon"],
         "a finite number, 0 or more", "sample.histogram_epsilon=0.5"),
        (d["physical_batch"] >= 1, "privacy.physical_batch", d["physical_batch"], "at least 1 patient",
         "privacy.physical_batch=32"),
    ]  # fmt: skip
    return [Fault(where, str(got), expected, remedy) for good, where, got, expected, remedy in checks if not good]


def _round_up(value: float, digits: int = 3) -> str:
    """To ``digits`` significant digits, never below: a stated ε must hold."""
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return f"{math.ceil(value / unit) * unit:.{digits}g}"
