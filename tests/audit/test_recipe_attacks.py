"""LiRA, RMIA and set classifiers: formulas against naive loops and closed forms, then through reference models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hybrid import Hybrid
from scipy.stats import norm

from imgsynth.audit.attacks import lira as lira_module
from imgsynth.audit.attacks import shadows
from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools
from imgsynth.audit.attacks.groundhog import QUANTILES, held_out, outlying, set_features
from imgsynth.audit.attacks.lira import log_likelihood_ratio
from imgsynth.audit.attacks.rmia import A, mean_out, offline, pairwise_share
from imgsynth.audit.attacks.shadows import samples_of
from imgsynth.audit.references import Reference, complementary_halves
from imgsynth.audit.registry import build
from imgsynth.audit.roc import auc
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig

NAMES = [f"p{i:02d}" for i in range(12)]


@pytest.fixture
def tools() -> Tools:
    return Tools(get_encoder("random_conv", 2, 0), AuditConfig())


# LiRA


@pytest.mark.parametrize("enough", [2, 99])
def test_log_likelihood_ratio_is_that_of_two_fitted_gaussians(enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each patient's own variances where there are enough references, else one for all on either side."""
    monkeypatch.setattr(lira_module, "ENOUGH_FOR_VARIANCES", enough)
    random = np.random.default_rng(0)
    score_RP, in_RP = random.standard_normal((9, 5)), np.zeros((9, 5), bool)
    for p in range(5):
        in_RP[random.permutation(9)[: 3 + p % 3], p] = True
    target_P = random.standard_normal(5)
    found = log_likelihood_ratio(target_P, score_RP, in_RP)
    squares, free = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for p in range(5):
        for side in (True, False):
            scores = score_RP[in_RP[:, p] == side, p]
            squares[side] += sum((s - scores.mean()) ** 2 for s in scores)
            free[side] += len(scores) - 1
    for p in range(5):
        density = {}
        for side in (True, False):
            scores = score_RP[in_RP[:, p] == side, p]
            sd = scores.std(ddof=1) if enough == 2 else np.sqrt(squares[side] / free[side])
            density[side] = norm.logpdf(target_P[p], scores.mean(), sd)
        assert found[p] == pytest.approx(density[True] - density[False])


def gaussian_world(references: int, patients: int, gap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Base scores N(m_p, 1) where the patient is out and N(m_p + gap, 1) where he is in, the m_p far apart.

    The best test of one patient is the likelihood ratio, whose AUC is Φ(gap / √2); a threshold for all is hopeless.
    """
    random = np.random.default_rng(1)
    hardness_P = 20 * random.standard_normal(patients)
    in_RP = np.repeat(random.random((references // 2, patients)) < 0.5, 2, axis=0)
    in_RP[1::2] = ~in_RP[1::2]
    score_RP = hardness_P + gap * in_RP + random.standard_normal(in_RP.shape)
    member_P = random.random(patients) < 0.5
    return hardness_P + gap * member_P + random.standard_normal(patients), score_RP, in_RP, member_P


@pytest.mark.parametrize(("references", "tolerance"), [(200, 0.015), (16, 0.04)])
def test_lira_reaches_the_auc_of_the_true_likelihood_ratio(references: int, tolerance: float) -> None:
    """With few references the pooled variance loses little: near misses are the raw score (½) and no use of "in"."""
    target_P, score_RP, in_RP, member_P = gaussian_world(references, 4000, 1.5)
    best = norm.cdf(1.5 / np.sqrt(2))
    found = log_likelihood_ratio(target_P, score_RP, in_RP)
    assert auc(found[member_P], found[~member_P]) == pytest.approx(best, abs=tolerance)
    assert auc(target_P[member_P], target_P[~member_P]) < 0.55


def test_lira_needs_a_reference_on_either_side() -> None:
    with pytest.raises(AssertionError, match="every reference"):
        log_likelihood_ratio(np.zeros(1), np.zeros((2, 1)), np.ones((2, 1), bool))


# RMIA


def test_pairwise_share_is_the_papers_double_loop() -> None:
    random = np.random.default_rng(2)
    p_P, out_P, p_Z, out_Z = (random.uniform(0.01, 1, n) for n in (6, 6, 9, 9))
    for gamma, a in ((1.0, 0.3), (1.5, 1.0), (0.8, 0.0)):
        found = pairwise_share(p_P, out_P, p_Z, out_Z, gamma, a)
        for x in range(6):
            won = 0
            for z in range(9):
                prior_x, prior_z = ((1 + a) * out_P[x] + 1 - a) / 2, ((1 + a) * out_Z[z] + 1 - a) / 2
                won += (p_P[x] / prior_x) / (p_Z[z] / prior_z) > gamma
            assert found[x] == won / 9


def test_offline_prior_lies_between_p_out_and_the_half_that_an_absent_model_would_take() -> None:
    """The paper's ends: a = 1 believes p_out; a = 0 takes p_in = 1 and averages. And p_in = a p_out + 1 − a."""
    p_out = np.array([0.0, 0.2, 1.0])
    np.testing.assert_allclose(offline(p_out, 1.0), p_out)
    np.testing.assert_allclose(offline(p_out, 0.0), (p_out + 1) / 2)
    np.testing.assert_allclose(offline(p_out, A), (p_out + (A * p_out + 1 - A)) / 2)


def test_mean_out_leaves_out_the_references_that_knew_the_patient() -> None:
    p_RP, in_RP = np.array([[0.1, 0.2], [0.3, 0.9], [0.5, 0.4]]), np.array([[1, 0], [0, 1], [0, 0]], dtype=bool)
    np.testing.assert_allclose(mean_out(p_RP, in_RP), [0.4, 0.3])


def test_rmia_orders_patients_by_their_likelihood_ratio_where_a_threshold_on_p_cannot() -> None:
    """Images that are likely for every model are not thereby members: what counts is p(x | θ) against p(x)."""
    random = np.random.default_rng(3)
    usual_P = random.uniform(0.05, 0.8, 2000)
    member_P = random.random(2000) < 0.5
    p_P = usual_P * np.exp(0.3 * member_P + 0.05 * random.standard_normal(2000))
    usual_Z = random.uniform(0.05, 0.8, 300)
    found = pairwise_share(p_P, usual_P, usual_Z * np.exp(0.05 * random.standard_normal(300)), usual_Z, a=1.0)
    assert auc(found[member_P], found[~member_P]) > 0.99
    assert auc(p_P[member_P], p_P[~member_P]) < 0.7
    assert (found[~member_P].mean()) == pytest.approx(0.5, abs=0.05)  # a non-member is like one of the population


# Through reference models: generators whose brightness says who trained them.


def generator(brightness: float) -> Hybrid:
    torch.manual_seed(0)
    model = Hybrid((8, 8), 2)
    with torch.no_grad():
        model.networks.decoder.bias.add_(brightness)
        model.networks.judge.bias.add_(brightness)
    return model.eval().requires_grad_(False)


def people(names: list[str], images: int = 1) -> Images:
    owner = np.repeat(names, images)
    x_NC = np.random.default_rng(0).uniform(-1, 1, (len(owner), 1, 8, 8)).astype(np.float32)
    return Images(x_NC, np.arange(len(owner)) % 2, owner)


def world(count: int, brightness: Callable[[list[str]], float], target: list[str]) -> Released:
    """The release of a model trained on ``target``, with ``count`` references."""
    references = tuple(
        Reference(generator(brightness(half)), frozenset(half)) for half in complementary_halves(NAMES, count, 0)
    )
    model = generator(brightness(target))
    y_N = np.arange(20) % 2
    x_BC = model.sample(torch.from_numpy(y_N), torch.Generator().manual_seed(9))
    z = people([f"z{i}" for i in range(8)])
    return Released(synthetic_images(x_BC.numpy(), y_N), reference=z, model=model, references=references)


def test_shadows_score_the_release_and_every_reference_by_the_base_attack(tools: Tools) -> None:
    released = world(4, lambda half: len(set(half) & set(NAMES[:3])) / 5, NAMES[:3])
    patients = people(NAMES)
    attack = shadows.Shadows("nearest_neighbour/raw", tools)
    attack.prepare(released)
    found = attack.scores(patients)
    base = build("nearest_neighbour/raw", tools)
    base.prepare(released)
    np.testing.assert_array_equal(found.target_P, base.scores(patients))
    for index, reference in enumerate(released.references):
        base.prepare(Released(samples_of(reference, released.samples.y_N, index)))
        np.testing.assert_array_equal(found.reference_RP[index], base.scores(patients))
        assert found.in_RP[index].tolist() == [name in reference.members for name in NAMES]
    assert not np.allclose(found.reference_RP[0], found.reference_RP[1])


@pytest.mark.parametrize("base", ["nearest_neighbour/raw", "logan", "posterior/elbo"])
def test_lira_and_rmia_join_the_parts_as_their_formulas_say(base: str, tools: Tools) -> None:
    released, patients = (
        world(6, lambda half: len(half[0]) + 0.1 * len(set(half) & set(NAMES[:4])), NAMES[:5]),
        people(NAMES),
    )
    parts = shadows.Shadows(base, tools)
    parts.prepare(released)
    x, z = parts.scores(patients), parts.scores(released.reference)
    attack = build(f"lira/{base}", tools)
    attack.prepare(released)
    np.testing.assert_array_equal(attack.scores(patients), log_likelihood_ratio(x.target_P, x.reference_RP, x.in_RP))
    attack = build(f"rmia/{base}", tools)
    attack.prepare(released)
    assert not z.in_RP.any()
    centre = np.median(z.reference_RP)
    scale = 1.4826 * np.median(np.abs(z.reference_RP - centre))

    def p(score: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(score - centre) / scale))

    expected = pairwise_share(
        p(x.target_P), mean_out(p(x.reference_RP), x.in_RP), p(z.target_P), p(z.reference_RP).mean(0)
    )
    np.testing.assert_allclose(attack.scores(patients), expected)


def test_recipe_attacks_say_what_they_lack(tools: Tools) -> None:
    released = world(4, len, NAMES[:3])
    for name in ("lira/nearest_neighbour/raw", "rmia/logan", "groundhog/pca"):
        with pytest.raises(NotApplicable, match="reference models"):
            build(name, tools).prepare(Released(released.samples, reference=released.reference))
    with pytest.raises(NotApplicable, match="population"):
        build("rmia/logan", tools).prepare(Released(released.samples, references=released.references))


# Set classifiers


def test_set_features_are_moments_and_quantiles_of_each_coordinate() -> None:
    x_ND = np.random.default_rng(4).standard_normal((7, 3))
    found = set_features(lambda x: x, x_ND)
    columns = [[np.mean(c), np.mean((c - np.mean(c)) ** 2), *(np.quantile(c, q) for q in QUANTILES)] for c in x_ND.T]
    np.testing.assert_allclose(found.reshape(-1, 3).T, columns)


def features(count: int, dose: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sets of noise, the first coordinate of which is moved by ``dose`` where patient 0 was trained on."""
    random = np.random.default_rng(seed)
    halves = complementary_halves(NAMES, count, seed)
    in_RP = np.array([[name in half for name in NAMES] for half in halves])
    x_RF = random.standard_normal((count, 10))
    x_RF[:, 0] += dose * in_RP[:, 0]
    return x_RF, in_RP


def test_held_out_auc_finds_the_patient_whom_sets_tell_of_and_no_other() -> None:
    x_RF, in_RP = features(24, 6.0, 0)
    found = held_out(x_RF, in_RP[:, :1])
    assert found.auc > 0.9
    assert found.low > 0.5
    assert (found.pairs, found.patients) == (12, 1)
    others = np.mean([held_out(x, known[:, :3]).auc for x, known in (features(16, 0.0, seed) for seed in range(6))])
    assert others == pytest.approx(0.5, abs=0.15)  # learnt and judged on the same sets it would be near 1


def test_held_out_interval_counts_pairs_of_references_not_patients() -> None:
    x_RF, in_RP = features(12, 1.0, 2)
    once, often = held_out(x_RF, in_RP[:, :1]), held_out(x_RF, np.repeat(in_RP[:, :1], 20, axis=1))
    assert (once.low, once.high) == (often.low, often.high)
    with pytest.raises(AssertionError, match="complementary"):
        held_out(x_RF, np.ones((12, 1), bool))


def test_groundhog_scores_members_of_the_release_higher(tools: Tools) -> None:
    """Brightness tells of p00: for him alone the release of a model that had him looks like one that had him."""
    dose = {True: 0.5, False: 0.0}
    attack = build("groundhog/pca", tools)
    score = {}
    for known in (True, False):
        attack.prepare(world(8, lambda half: dose["p00" in half], NAMES[:6] if known else NAMES[1:7]))
        score[known] = attack.scores(people(NAMES))
    assert score[True][0] > 0 > score[False][0]
    assert attack.held_out(people(["p00"])).auc == 1.0


def test_outlying_patients_are_the_farthest_from_the_mean() -> None:
    x_PD = np.random.default_rng(5).standard_normal((30, 4))
    x_PD[[7, 21]] += 50
    assert set(outlying(x_PD, 2)) == {7, 21}
    x_PD[3] += 200  # a coordinate's unit must not matter
    assert set(outlying(x_PD * np.array([1, 1e3, 1, 1]), 1)) == {3}
