import dataclasses
import json
import math

import pytest
from dp_accounting import dp_event as dp

from imgsynth.privacy.cross_check import cross_check
from imgsynth.privacy.plan import PrivacyPlan, make_plan
from imgsynth.schema import PrivacyConfig
from imgsynth.types import InputError

GIVEN = {"epsilon": None, "noise_multiplier": 2.0}  # spares the calibration where it is not what is tested


def plan_of(
    n=400,
    steps=100,
    images_per_patient=2,
    unit="patient",
    epsilon_for_histogram=0.0,
    ids="patient",
    augmentation_multiplicity=1,
    **privacy,
):
    return make_plan(
        PrivacyConfig(**privacy),
        n=n,
        steps=steps,
        images_per_patient=images_per_patient,
        unit=unit,
        epsilon_for_histogram=epsilon_for_histogram,
        ids=ids,
        augmentation_multiplicity=augmentation_multiplicity,
    )


def test_a_plan_couples_everything():
    plan = plan_of(clipping_norm=0.5)
    assert (plan.sampling_rate, plan.normaliser, plan.companion_size) == (0.16, 64.0, 64)
    assert (plan.clipping_norm, plan.gradient_noise_multiplier) == (0.5, plan.noise_multiplier)
    assert plan.event() == dp.SelfComposedDpEvent(
        dp.PoissonSampledDpEvent(0.16, dp.GaussianDpEvent(plan.noise_multiplier)), 100
    )
    assert 7.8 < plan.epsilon <= 8.0
    assert plan.releasable
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.noise_multiplier = 0.1


def test_epsilon_follows_the_noise_and_cannot_be_stated():
    plan = plan_of(**GIVEN)
    assert dataclasses.replace(plan, noise_multiplier=plan.noise_multiplier / 2).epsilon > 2 * plan.epsilon
    with pytest.raises(TypeError):
        dataclasses.replace(plan, epsilon=1.0)


def test_the_histogram_is_part_of_the_total():
    plain, with_histogram = plan_of(), plan_of(epsilon_for_histogram=1.0)
    assert with_histogram.noise_multiplier > plain.noise_multiplier
    assert 7.8 < with_histogram.epsilon <= 8.0
    assert dp.DiscreteLaplaceDpEvent(1.0, 1) in with_histogram.event().events


def test_declared_n_wins_over_the_count():
    privacy = PrivacyConfig(n=400)
    plan = make_plan(privacy, n=413, steps=100, images_per_patient=1, unit="patient")
    assert (plan.n, plan.sampling_rate) == (400, 0.16)


def test_delta_is_below_one_over_the_declared_and_the_actual_number():
    for declared, counted in ((100, 1000), (1000, 100)):
        privacy = PrivacyConfig(n=declared, delta=2e-3, batch_patients=64, **GIVEN)
        with pytest.raises(InputError, match=r"privacy\.delta: .*less than 1/n = 0\.001"):
            make_plan(privacy, n=counted, steps=100, images_per_patient=1, unit="patient")
        plan = make_plan(
            dataclasses.replace(privacy, delta=9e-4), n=counted, steps=9, images_per_patient=1, unit="image"
        )
        assert (plan.n, plan.sampling_rate) == (declared, 64 / declared)


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (34, 17), (127, 63), (128, 64), (5000, 64)])
def test_an_unset_batch_fits_the_declared_cohort(n, batch):
    assert plan_of(n=n, delta=1e-5).normaliser == pytest.approx(batch)
    assert plan_of(n=7 * n, delta=1e-5, batch_patients=None).normaliser == pytest.approx(min(64, 7 * n // 2))


def test_an_adaptive_norm_costs_part_of_the_noise_and_no_epsilon():
    fixed, adaptive = plan_of(), plan_of(clipping_quantile=0.5)
    assert adaptive.noise_multiplier == fixed.noise_multiplier and 7.8 < adaptive.epsilon <= 8.0
    assert adaptive.count_noise_multiplier == max(64 / 20, 2.5 * fixed.noise_multiplier)
    assert 1 < adaptive.gradient_noise_multiplier / fixed.gradient_noise_multiplier < 1.021
    assert plan_of(clipping_quantile=0.5, count_noise_multiplier=50.0).count_noise_multiplier == 50.0
    assert plan_of(**GIVEN, clipping_quantile=0.5).to_json()["gradient_noise_multiplier"] > 2.0


def test_a_patient_brings_K_images_in_M_copies():
    plan = plan_of(**GIVEN, augmentation_multiplicity=3)
    assert (plan.images_per_patient, plan.images_per_step, plan.fakes_per_patient) == (2, 6, 2)
    assert plan.epsilon == plan_of(**GIVEN).epsilon


def test_given_noise_is_taken_as_it_is():
    plan = plan_of(epsilon=None, noise_multiplier=3.0)
    assert plan.noise_multiplier == 3.0
    assert 0 < plan.epsilon < 8


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"epsilon": 0.0}, "privacy.epsilon"),
        ({"epsilon": -1.0}, "privacy.epsilon"),
        ({"epsilon": math.inf}, "privacy.epsilon"),
        ({"epsilon": math.nan}, "privacy.epsilon"),
        ({"epsilon": 8.0, "noise_multiplier": 1.0}, "privacy.epsilon, privacy.noise_multiplier"),
        ({"epsilon": None}, "privacy.epsilon, privacy.noise_multiplier"),
        ({"epsilon": None, "noise_multiplier": -1.0}, "privacy.noise_multiplier"),
        ({"delta": 0.0}, "privacy.delta"),
        ({"delta": 1 / 400}, "privacy.delta"),
        ({"delta": math.nan}, "privacy.delta"),
        ({"batch_patients": 401}, "privacy.batch_patients"),
        ({"batch_patients": 0}, "privacy.batch_patients"),
        ({"clipping_norm": 0.0}, "privacy.clipping_norm"),
        ({"clipping_norm": math.inf}, "privacy.clipping_norm"),
        ({"steps": 0}, "trainer.steps"),
        ({"images_per_patient": 0}, "data.images_per_patient"),
        ({"epsilon_for_histogram": 8.0}, "sample.histogram_epsilon"),
        ({"epsilon_for_histogram": -1.0}, "sample.histogram_epsilon"),
        ({"n": 0}, "privacy.n"),
        ({"mode": "off"}, "privacy.mode"),
        ({"unit": "study"}, "data.unit"),
        ({"ids": "study"}, "manifest, ids"),
        ({"engine": "fast"}, "privacy.engine"),
        ({"physical_batch": 0}, "privacy.physical_batch"),
        ({"fakes": "apart"}, "privacy.fakes"),
        ({"augmentation_multiplicity": 0}, "data.augmentation_multiplicity"),
        ({"clipping_quantile": 1.0}, "privacy.clipping_quantile"),
        ({"clipping_quantile": 0.5, "clipping_learning_rate": 0.0}, "privacy.clipping_learning_rate"),
        ({"clipping_quantile": 0.5, "count_noise_multiplier": 0.1}, "privacy.count_noise_multiplier"),
        ({"clipping_quantile": 0.5, "mode": "none", "epsilon": None}, "privacy.clipping_quantile"),
    ],
    ids=str,
)
def test_each_impossible_setting_is_refused_by_name(settings, where):
    with pytest.raises(InputError) as caught:
        plan_of(**settings)
    assert [fault.where for fault in caught.value.faults] == [where]


def test_all_faults_are_reported_at_once():
    with pytest.raises(InputError) as caught:
        plan_of(epsilon=-1.0, delta=1.0, clipping_norm=-1.0, batch_patients=500, steps=0)
    assert len(caught.value.faults) == 5


def test_mode_none_keeps_sampler_and_normaliser_and_promises_nothing():
    plan = plan_of(mode="none", epsilon=None)
    assert plan.event() == dp.NonPrivateDpEvent()
    assert (plan.epsilon, plan.releasable, plan.gradient_noise_multiplier) == (math.inf, False, 0.0)
    assert plan.normaliser == 64.0
    assert plan.statement().startswith("No privacy guarantee")


def test_a_run_without_noise_or_with_a_seed_is_not_releasable():
    assert plan_of(epsilon=None, noise_multiplier=0.0).epsilon == math.inf
    assert not plan_of(epsilon=None, noise_multiplier=0.0).releasable
    seeded = plan_of(seed=0, **GIVEN)
    assert not seeded.releasable
    assert seeded.statement().startswith("Not releasable, as its noise came from a seed")


def test_a_seeded_run_counts_as_infinite_in_the_ledger():
    seeded, plain = plan_of(seed=0, **GIVEN), plan_of(**GIVEN)
    assert (seeded.ledger_event(), seeded.ledger_epsilon) == (dp.NonPrivateDpEvent(), math.inf)
    assert seeded.epsilon == plain.epsilon < math.inf
    assert (plain.ledger_event(), plain.ledger_epsilon) == (plain.event(), plain.epsilon)


def test_case_ids_are_stated_as_what_they_are():
    plan = plan_of(ids="case", **GIVEN)
    assert "all data filed under any one case id (the source has case ids, not patient ids" in plan.statement()
    assert "any one patient" not in plan.statement()
    assert "case id" in plan_of(ids="case", mode="none").statement()
    assert "any one image" in plan_of(ids="case", unit="image", **GIVEN).statement()
    assert plan.unit == "patient"


def test_a_plan_file_that_does_not_say_whose_ids_is_about_patients():
    value = plan_of(**GIVEN).to_json()
    assert value.pop("ids") == "patient"
    for later in ("augmentation_multiplicity", "fakes", "count_noise_multiplier", "clipping_learning_rate"):
        del value[later]
    assert value.pop("clipping_quantile") is None
    assert PrivacyPlan.from_json(value) == dataclasses.replace(plan_of(**GIVEN), fakes="separate")


@pytest.mark.parametrize(
    ("noise", "unit", "words"),
    [(3.0, "patient", "all data of any one patient"), (0.9, "image", "any one image")],
)
def test_the_statement_never_states_less_than_is_proven(noise, unit, words):
    plan = plan_of(epsilon=None, noise_multiplier=noise, unit=unit)
    statement = plan.statement()
    stated = float(statement.split("ε = ")[1].split(" ")[0])
    assert plan.epsilon <= stated <= plan.epsilon * 1.01
    assert words in statement
    assert "1e-05" in statement


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mode": "none"},
        {"seed": 3},
        {"ids": "case"},
        {"epsilon_for_histogram": 0.5},
        {"clipping_quantile": 0.6},
        {"fakes": "plain", "augmentation_multiplicity": 3},
    ],
    ids=str,
)
def test_through_json_and_back_is_the_identity(settings):
    plan = plan_of(**GIVEN, **settings)
    value = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert PrivacyPlan.from_json(value) == plan
    assert value["releasable"] == plan.releasable


@pytest.mark.parametrize(
    "edit",
    [{"epsilon": 1.0}, {"noise_multiplier": 0.5}, {"steps": 1000}, {"sampling_rate": 0.5}, {"mode": "none"}],
    ids=str,
)
def test_an_edited_plan_is_refused(edit):
    with pytest.raises(InputError, match="a plan cannot be edited"):
        PrivacyPlan.from_json({**plan_of(**GIVEN).to_json(), **edit})


def test_a_plan_file_with_a_field_missing_is_refused():
    value = plan_of(**GIVEN).to_json()
    del value["steps"], value["unit"]
    with pytest.raises(InputError, match="no unit, steps"):
        PrivacyPlan.from_json(value)


@pytest.mark.parametrize(
    "settings",
    [{"noise_multiplier": 1.2}, {"noise_multiplier": 7.0, "steps": 1000}, {"noise_multiplier": 0.7, "n": 5000}],
    ids=str,
)
def test_four_accountants_agree(settings):
    plan = plan_of(epsilon=None, **settings)
    found = cross_check(plan)
    assert set(found) == {"pld", "rdp", "opacus_rdp", "opacus_prv"}
    assert found["pld"] * (1 - 1e-9) <= plan.epsilon <= min(found["pld"] * 1.01, found["rdp"])
    assert found["opacus_prv"] == pytest.approx(found["pld"], abs=0.015)
    assert found["opacus_rdp"] == pytest.approx(found["rdp"], rel=0.02)
    assert found["pld"] < found["rdp"] < 1.3 * found["pld"]


def test_cross_check_without_noise_is_infinite():
    assert set(cross_check(plan_of(mode="none")).values()) == {None}
