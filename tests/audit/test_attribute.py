"""Attribute inference and inversion: what is told about members *more* than about others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hybrid import Hybrid
from scipy.stats import binomtest

from imgsynth.audit.attacks.attack import NotApplicable, Released, Tools
from imgsynth.audit.attribute import (
    NearestOfClass,
    attribute_inference,
    class_mean_inversion,
    difference_interval,
    guessed_right,
    wilson,
)
from imgsynth.audit.beyond import beyond_membership
from imgsynth.audit.registry import build
from imgsynth.measure.encoders import get_encoder
from imgsynth.measure.images import Images, synthetic_images
from imgsynth.schema import AuditConfig

TOOLS = Tools(get_encoder("random_conv", 2, 0), AuditConfig(bootstrap=20))


class Oracle:
    """Knows ``known`` patients' classes, and guesses class 0 for all others."""

    name, space, access = "oracle", "", "samples"

    def __init__(self, known: dict[str, int]):
        self.known = known

    def prepare(self, released: Released) -> None: ...

    def scores(self, patients: Images) -> np.ndarray:
        (label,) = set(patients.y_N.tolist())
        return np.array([float(self.known.get(name, 0) == label) for name in patients.names_P])


def people(prefix: str, labels: list[int], images: int = 1) -> Images:
    y_N = np.repeat(labels, images)
    names = np.repeat([f"{prefix}{i:03d}" for i in range(len(labels))], images)
    x_NC = np.random.default_rng(len(labels)).uniform(-1, 1, (len(y_N), 1, 8, 8)).astype(np.float32)
    return Images(x_NC, y_N, names)


def test_advantage_is_the_difference_of_the_shares_of_right_guesses() -> None:
    labels = [0, 1, 2] * 10
    members, nonmembers = people("in", labels, 2), people("out", labels)
    attack = Oracle(dict(zip(members.names_P, labels, strict=True)))
    found = attribute_inference(attack, members, nonmembers, 3)
    assert (found.members, found.nonmembers) == (1.0, pytest.approx(1 / 3))
    assert found.value == pytest.approx(2 / 3)
    assert 0.4 < found.low < found.value < found.high <= 1
    assert found.baseline == pytest.approx(1 / 3)
    assert (found.n_members, found.n_nonmembers) == (30, 30)  # patients, not images
    nothing = attribute_inference(Oracle({}), members, nonmembers, 3)
    assert nothing.low < 0 == nothing.value < nothing.high


def test_patients_with_several_classes_are_left_out() -> None:
    patients = Images(np.zeros((5, 1, 8, 8), np.float32), np.array([0, 1, 1, 0, 2]), np.array(list("aabcc")))
    assert guessed_right(Oracle({"b": 1, "c": 0}), patients, 3).tolist() == [True]
    with pytest.raises(NotApplicable, match="several classes"):
        attribute_inference(Oracle({}), patients, patients.of_patients(np.array(["a"])), 3)


def test_guesses_by_samples_alone_are_the_class_of_the_nearest_sample() -> None:
    random = np.random.default_rng(0)
    released = Released(synthetic_images(random.uniform(-1, 1, (30, 1, 8, 8)).astype(np.float32), np.arange(30) % 3))
    patients = people("p", [0, 1, 2] * 5)
    tools = Tools(get_encoder("random_conv", 2, 0), AuditConfig())
    attack = NearestOfClass(lambda: build("nearest_neighbour/raw", tools))
    attack.prepare(released)
    expected = []
    for x_C, y in zip(patients.x_NC, patients.y_N, strict=True):
        nearest = ((released.samples.x_NC - x_C) ** 2).sum((1, 2, 3)).argmin()
        expected.append(released.samples.y_N[nearest] == y)
    assert guessed_right(attack, patients, 3).tolist() == expected


def test_a_discriminator_that_knows_labels_by_heart_gives_them_away() -> None:
    torch.manual_seed(0)
    members, nonmembers = people("in", [0, 1] * 20), people("out", [0, 1] * 25)
    model = Hybrid((8, 8), 2)
    sign = {True: 1.0, False: -1.0}
    span = members.x_NC.reshape(40, -1)
    wanted = np.array([sign[bool(y)] for y in members.y_N])
    weight = torch.from_numpy(np.linalg.lstsq(span, wanted, rcond=None)[0]).float()
    model.networks.logits = lambda x_BC, y_B: (2 * y_B - 1) * (x_BC.flatten(1) @ weight)  # type: ignore[method-assign]
    released = Released(synthetic_images(members.x_NC[:4], np.zeros(4, int)), model=model.eval())
    attack = build("logan", Tools(get_encoder("random_conv", 2, 0), AuditConfig()))
    attack.prepare(released)
    found = attribute_inference(attack, members, nonmembers, 2)
    assert found.members == 1.0
    assert found.low > 0.1


def test_class_means_nearer_to_members_are_found_and_those_of_strangers_are_not() -> None:
    random = np.random.default_rng(1)

    def crowd(n: int, prefix: str, centre_NC: np.ndarray) -> Images:
        y_N = np.arange(n) % 2
        x_NC = (centre_NC[y_N] + 0.3 * random.standard_normal((n, 1, 8, 8))).astype(np.float32)
        return Images(x_NC, y_N, np.array([f"{prefix}{i}" for i in range(n)]))

    truth = random.uniform(-1, 1, (2, 1, 8, 8))
    members, nonmembers = crowd(60, "in", truth), crowd(30, "out", truth)
    copied = Released(synthetic_images(members.x_NC, members.y_N))
    found = class_mean_inversion(copied, members, nonmembers, 200, random)
    assert found.low > 0
    assert (found.n_members, found.n_nonmembers) == (30, 30)
    strangers = Released(crowd(60, "syn", truth))
    same = class_mean_inversion(strangers, members, nonmembers, 200, random)
    assert same.low < 0 < same.high
    whole = class_mean_inversion(copied, members, members, 20, random)  # everybody is drawn: in closed form
    assert whole.value == whole.members == whole.nonmembers == 0
    shifted = Released(synthetic_images(members.x_NC + np.float32(0.25), members.y_N))
    assert class_mean_inversion(shifted, members, members, 20, random).members == pytest.approx(-0.25, rel=1e-4)
    with pytest.raises(NotApplicable, match="no class"):
        class_mean_inversion(Released(synthetic_images(members.x_NC, members.y_N + 7)), members, nonmembers, 2, random)


@pytest.mark.parametrize(
    ("counts", "published"),
    [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090)), ((5, 56, 0, 29), (-0.0381, 0.1926))],
)
def test_difference_interval_is_newcombes(counts: tuple[int, int, int, int], published: tuple[float, float]) -> None:
    """Stat. Med. 17:873 (1998), table II, method 10."""
    assert difference_interval(*counts) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize("successes", [0, 3, 10])
def test_wilson_is_scipys(successes: int) -> None:
    found = binomtest(successes, 10).proportion_ci(method="wilson")
    assert wilson(successes, 10) == pytest.approx((found.low, found.high), abs=1e-9)


def test_all_questions_beyond_membership_are_json_and_say_what_was_not_done() -> None:
    tools = Tools(get_encoder("random_conv", 2, 0), AuditConfig(bootstrap=20))
    members, nonmembers = people("in", [0, 1] * 6), people("out", [0, 1] * 5)
    torch.manual_seed(0)
    model = Hybrid((8, 8), 2).eval().requires_grad_(False)
    released = Released(synthetic_images(members.x_NC[:8], members.y_N[:8]), model=model)
    found = json.loads(json.dumps(beyond_membership(members, nonmembers, released, tools), allow_nan=False))
    assert [a["name"] for a in found["advantages"]] == ["attribute inference"] * 3 + ["class-mean inversion"]
    assert found["set_classifier"] is None
    one_class = members.select(np.flatnonzero(members.y_N == 0))
    found = beyond_membership(one_class, one_class, Released(synthetic_images(one_class.x_NC, one_class.y_N)), tools)
    assert [a["name"] for a in found["advantages"]] == ["class-mean inversion"]
    assert found["not_done"] == [{"what": "attribute inference", "why": "there is one class"}]
    few = beyond_membership(members, nonmembers.select(np.arange(2)), released, tools)
    assert few["advantages"] == []
    assert "2 patients" in few["not_done"][0]["why"]


def asked(members: Images, nonmembers: Images, samples: Images, model: Hybrid | None = None) -> dict[str, Any]:
    tools = Tools(get_encoder("random_conv", samples.x_NC.ndim - 2, 0), AuditConfig(bootstrap=20))
    found = beyond_membership(members, nonmembers, Released(samples, model=model), tools)
    return json.loads(json.dumps(found, allow_nan=False))


def hybrid(shape: tuple[int, ...], classes: int) -> Hybrid:
    torch.manual_seed(0)
    return Hybrid(shape, classes).eval().requires_grad_(False)


def test_a_class_that_is_rare_or_was_not_released_stops_nothing() -> None:
    members, nonmembers = people("in", [0, 1] * 6 + [2]), people("out", [0, 1] * 5)
    samples = synthetic_images(nonmembers.x_NC, np.array([0, 1] * 5))  # class 2 is among members alone
    found = asked(members, nonmembers, samples, hybrid((8, 8), 3))
    assert [a["name"] for a in found["advantages"]] == ["attribute inference"] * 3 + ["class-mean inversion"]
    assert found["not_done"] == []
    nearest = NearestOfClass(lambda: build("nearest_neighbour/raw", TOOLS))
    nearest.prepare(Released(samples))
    rare = members.select(members.y_N == 2)
    assert nearest.scores(rare).tolist() == [-np.inf]
    assert guessed_right(nearest, rare, 3).tolist() == [False]


def test_patients_with_mixed_labels_leave_the_guess_undone_and_say_why() -> None:
    members, nonmembers = (people(side, [0] * 8, 2) for side in ("in", "out"))
    mixed = [Images(p.x_NC, np.arange(16) % 2, p.patients_N) for p in (members, nonmembers)]
    found = asked(*mixed, synthetic_images(members.x_NC, np.arange(16) % 2), hybrid((8, 8), 2))
    assert [a["name"] for a in found["advantages"]] == ["class-mean inversion"]
    assert [entry["what"] for entry in found["not_done"]] == ["attribute inference"]
    assert "several classes" in found["not_done"][0]["why"]
    one_side = asked(mixed[0], nonmembers, synthetic_images(members.x_NC, np.arange(16) % 2))
    assert [entry["what"] for entry in one_side["not_done"]] == ["attribute inference"]


def test_sides_without_a_class_in_common_leave_the_picture_undone_and_say_why() -> None:
    members, nonmembers = people("in", [0] * 6), people("out", [1] * 6)
    found = asked(members, nonmembers, synthetic_images(members.x_NC, np.zeros(6, int)))
    assert [entry["what"] for entry in found["not_done"]] == ["class-mean inversion"]
    assert "no class" in found["not_done"][0]["why"]


def test_halves_without_a_class_in_common_are_left_out_of_the_interval() -> None:
    """Of each side's four patients only two have the released class."""
    members, nonmembers = people("in", [0, 0, 1, 1]), people("out", [0, 0, 2, 2])
    samples = synthetic_images(members.x_NC, np.zeros(4, int))
    found = class_mean_inversion(Released(samples), members, nonmembers, 60, np.random.default_rng(0))
    assert found.low < found.high and np.isfinite([found.low, found.high, found.value]).all()


def test_volumes_several_a_patient_and_the_fewest_patients() -> None:
    random = np.random.default_rng(3)

    def volumes(prefix: str, patients: int) -> Images:
        names = np.repeat([f"{prefix}{i}" for i in range(patients)], 3)
        x_NC = random.uniform(-1, 1, (len(names), 1, 8, 8, 8)).astype(np.float32)
        return Images(x_NC, np.repeat(np.arange(patients) % 2, 3), names)

    members, nonmembers = volumes("in", 4), volumes("out", 4)
    found = asked(members, nonmembers, synthetic_images(members.x_NC, members.y_N), hybrid((8, 8, 8), 2))
    assert [a["n_members"] for a in found["advantages"]] == [4, 4, 4, 4]
    assert found["not_done"] == []
