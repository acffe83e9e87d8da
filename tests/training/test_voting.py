"""Votes of patients: one each, for the nearest by a naive count of distances, whatever the images are."""

from __future__ import annotations

import pytest
import torch

from imgsynth.features.maps import feature_maps
from imgsynth.training.voting import Candidates

CLASSES, SAMPLES = 2, 6


def sampler(shift):
    """Images about ``shift`` for class 0 and its negative for class 1."""

    def sample(y_B, random):
        noise = 0.1 * torch.randn(len(y_B), 1, 8, 8, generator=random)
        return noise + shift * (1 - 2 * y_B.float())[:, None, None, None]

    return sample


def candidates(*shifts, seed=0):
    random = torch.Generator().manual_seed(seed)
    return Candidates([sampler(shift) for shift in shifts], CLASSES, SAMPLES, "random_conv", 2, random)


def patients(n, seed=1):
    random = torch.Generator().manual_seed(seed)
    for i in range(n):
        for _ in range(1 + i % 3):
            y = int(torch.randint(2, (), generator=random))
            yield f"p{i}", torch.randn(1, 8, 8, generator=random) * 0.5, y


def naive(shifts, images, seed=0):
    """The same by loops over single pairs of images."""
    random = torch.Generator().manual_seed(seed)
    y_S = [s % CLASSES for s in range(SAMPLES)]
    drawn = [sampler(shift)(torch.tensor(y_S), random) for shift in shifts]
    network = feature_maps("random_conv", 2, 0)

    def features(x_C):
        flat = [m[0].flatten(1) for m in network(x_C[None])]
        return torch.cat([part for m in flat for part in (m.mean(1), m.std(1, correction=0))]).double()

    phi = [[features(x_C) for x_C in x_SC] for x_SC in drawn]
    spread = torch.stack([f for of in phi for f in of]).std(0).clamp_min(1e-6)
    votes, of_patient = [0] * len(shifts), {}
    for patient, x_C, y in images:
        of_patient.setdefault(patient, []).append((features(x_C), y))
    for own in of_patient.values():
        mean = [
            sum(
                min(((f - g) / spread).norm().item() for g, label in zip(of, y_S, strict=True) if label == y)
                for f, y in own
            )
            / len(own)
            for of in phi
        ]
        votes[mean.index(min(mean))] += 1
    return votes


def test_votes_are_those_of_a_naive_count():
    shifts = (0.0, 0.4, -0.4)
    votes = candidates(*shifts).votes(patients(20))
    assert votes == naive(shifts, patients(20)) and sum(votes) == 20 and sorted(votes)[-2] > 0


def test_patients_vote_for_what_looks_like_them_and_as_their_class_does():
    """Class 0 is bright with the first candidate and dark with the second, class 1 the other way round."""
    who = candidates(0.8, -0.8)
    bright, dark = torch.full((1, 1, 8, 8), 0.8), torch.full((1, 1, 8, 8), -0.8)
    votes = [who.vote(x, torch.tensor([y])) for x in (bright, dark) for y in (0, 1)]
    assert votes == [0, 1, 1, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_everybody_has_exactly_one_vote_whatever_his_images_are(value):
    images = [("p0", torch.full((1, 8, 8), value), 0), *patients(5)]
    assert sum(candidates(0.0, 0.5).votes(images)) == 5 + (images[1][0] != "p0")


def test_a_candidate_that_came_to_nothing_gets_no_vote():
    assert candidates(float("nan"), 0.3, 0.1).votes(patients(9))[0] == 0


def test_a_patient_who_comes_adds_one_vote_and_moves_no_other():
    who, all_of_them = candidates(0.0, 0.4, -0.4), list(patients(12))
    before = who.votes(image for image in all_of_them if image[0] != "p7")
    after = who.votes(all_of_them)
    assert sorted(a - b for a, b in zip(after, before, strict=True)) == [0, 0, 1]


def test_of_candidates_that_are_as_near_the_last_has_the_vote():
    same = [lambda y_B, random: torch.zeros(len(y_B), 1, 8, 8)] * 3
    who = Candidates(same, CLASSES, SAMPLES, "random_conv", 2, torch.Generator())
    assert who.votes(patients(4)) == [0, 0, 4]


def test_masks_beside_an_image_are_not_looked_at():
    def with_mask(shift):
        return lambda y, random: torch.cat([sampler(shift)(y, random), torch.full((len(y), 1, 8, 8), shift)], dim=1)

    random = torch.Generator().manual_seed(0)
    who = Candidates([with_mask(s) for s in (0.0, 0.4)], CLASSES, SAMPLES, "random_conv", 2, random)
    masked = [(p, torch.cat([x, torch.ones(1, 8, 8)]), y) for p, x, y in patients(12)]
    assert who.votes(masked) == candidates(0.0, 0.4).votes(patients(12))


def test_every_class_has_a_sample_however_few_were_asked_for():
    who = Candidates([sampler(s) for s in (0.8, -0.8)], CLASSES, 1, "random_conv", 2, torch.Generator().manual_seed(0))
    dark_of_class_1 = torch.full((1, 1, 8, 8), -0.8), torch.tensor([1])
    assert who.vote(*dark_of_class_1) == 0
