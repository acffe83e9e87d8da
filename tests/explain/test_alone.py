"""Contrasts, paths, repeats and failures of generators whose faults are planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import t, ttest_1samp
from test_directions import maker_of
from test_models import MODELS, awake, seeded
from torch import Tensor

from imgsynth.evaluate.metric import NotDone
from imgsynth.explain import pictures
from imgsynth.explain.alone import explained
from imgsynth.explain.contrasts import contrasts, critical, difference
from imgsynth.explain.failures import SHOWN, failures, fragments, smallest
from imgsynth.explain.maker import Drawn, Maker
from imgsynth.explain.neighbours import apart, neighbours, repeats
from imgsynth.explain.paths import EPSILON, interpolation, path_lengths, slerp
from imgsynth.measure.encoders import Encoder
from imgsynth.models import VAE
from imgsynth.models.white_box import LatentMap, WhiteBox

SHAPE = (16, 16)


class Planted(VAE):
    """A generator that is a plain function of code and class."""

    def __init__(self, image, classes: int = 2, latent: int = 3):
        super().__init__(SHAPE, classes, latent=latent, channels=2, widest=4)
        self.planted, self.size = image, latent

    def white_box(self) -> WhiteBox:
        return WhiteBox(latent=LatentMap(self.size, self.planted))

    def sample(self, y_B: Tensor, random: torch.Generator) -> Tensor:
        return self.planted(torch.randn(len(y_B), self.size, generator=random), y_B)


class Flat(Encoder):
    """The voxels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.name = 2, "voxels"

    def _features(self, x_BC: Tensor) -> Tensor:
        return x_BC.flatten(1)


def noisy(z_BL: Tensor, y_B: Tensor) -> Tensor:
    """A square that is brighter in class 1, and elsewhere what the code says, in class 1 with the other sign."""
    pattern_LS = torch.randn(3, *SHAPE, generator=seeded(9))
    x_BS = 0.1 * torch.einsum("bl,lij->bij", z_BL, pattern_LS) * (1 - 2 * y_B)[:, None, None]
    x_BS[:, 4:8, 4:8] = 0.02 * x_BS[:, 4:8, 4:8] + 0.2 * y_B[:, None, None]
    return x_BS[:, None]


def test_a_contrast_is_sure_where_classes_differ_and_not_where_codes_do() -> None:
    maker = maker_of(Planted(noisy), codes=40)
    (found,) = contrasts(maker).numbers["contrasts"]
    assert found["class"] == "class 1" and found["against"] == "class 0"
    assert found["share_above_error"] == 16 / 256
    assert found["largest"] == pytest.approx(0.2, abs=0.1)


def test_voxels_of_equal_means_exceed_their_error_as_often_as_said() -> None:
    random = np.random.default_rng(0)
    hits, tries = 0, 400
    for _ in range(tries):
        mean_S, error_S = difference(random.normal(size=(10, 50)))
        hits += bool((np.abs(mean_S) > critical(10, 50) * error_S).any())
    assert 0.02 < hits / tries < 0.08
    mean_S, error_S = difference(random.normal(size=(10, 50)))
    assert (np.abs(mean_S) > critical(10, 1) / 4 * error_S).any()  # a bound that takes no account of many looks


def test_a_contrast_shows_darker_too_and_only_the_sure_half_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    def image(z_BL: Tensor, y_B: Tensor) -> Tensor:
        x_BS = 0.05 * z_BL[:, :1, None].expand(-1, *SHAPE) * (1 - 2 * y_B)[:, None, None]
        x_BS = torch.cat([x_BS[:, :8], -0.3 * y_B[:, None, None] + 0 * x_BS[:, 8:]], dim=1)
        return x_BS[:, None]

    drawn: list[np.ndarray] = []
    real = pictures.signed
    monkeypatch.setattr(pictures, "signed", lambda m, *rest: drawn.append(m) or real(m, *rest))
    part = contrasts(maker_of(Planted(image), codes=9))
    mean_S, sure_S = drawn
    assert mean_S[8:] == pytest.approx(-0.3, abs=1e-6) and sure_S[8:] == pytest.approx(-0.3, abs=1e-6)
    assert np.abs(mean_S[:8]).min() > 0 and not sure_S[:8].any()
    assert part.numbers["contrasts"][0]["share_above_error"] == 0.5


def test_an_error_of_a_mean_is_the_textbooks() -> None:
    x_NS = np.random.default_rng(0).normal(1, 2, (5, 3))
    found = ttest_1samp(x_NS, 0)
    mean_S, error_S = difference(x_NS)
    assert mean_S / error_S == pytest.approx(found.statistic)
    assert critical(5, 3) == pytest.approx(t.ppf(1 - 0.05 / 3 / 2, 4))


def test_each_of_three_classes_is_held_against_the_others() -> None:
    def image(z_BL: Tensor, y_B: Tensor) -> Tensor:
        return (0.3 * (y_B == 2))[:, None, None, None] * torch.ones(1, 1, *SHAPE) + 0.01 * z_BL[:, :1, None, None]

    maker = maker_of(Planted(image, classes=3), codes=8)
    rms = [entry["rms"] for entry in contrasts(maker).numbers["contrasts"]]
    assert rms == pytest.approx([0.15, 0.15, 0.3], rel=1e-4)


def test_one_class_has_no_contrast() -> None:
    with pytest.raises(NotDone, match="one class"):
        contrasts(maker_of(Planted(noisy, classes=1)))


def with_encoder(maker: Maker) -> Maker:
    return Maker(maker.model, maker.grid, maker.classes, Flat(), maker.settings)


def test_path_length_of_a_linear_generator_is_the_closed_form() -> None:
    slope = 0.05

    def image(z_BL: Tensor, y_B: Tensor) -> Tensor:
        x_BX = torch.cat([slope * z_BL, torch.zeros(len(z_BL), 253)], dim=1)
        return x_BX.view(-1, 1, *SHAPE)

    maker = with_encoder(maker_of(Planted(image), samples=30))
    random, again = maker.random(), maker.random()
    length_N = path_lengths(maker, np.zeros((1, 256)), random)
    z_NL, y_N = maker.codes(30, again)
    other_NL = maker.latent.codes(y_N, again)
    t_N = (torch.rand(30, generator=again) * (1 - EPSILON)).double() + EPSILON / 2
    a, b = z_NL.double(), other_NL.double()
    angle = torch.nn.functional.cosine_similarity(a, b, dim=1).acos()
    slope_NL = (angle / angle.sin())[:, None] * (
        (t_N * angle).cos()[:, None] * b - ((1 - t_N) * angle).cos()[:, None] * a
    )
    expected_N = slope**2 * slope_NL.square().sum(1)  # the derivative along the arc: the limit of small ε
    assert np.allclose(length_N, expected_N.numpy(), rtol=2e-3)


def test_slerp_keeps_the_length_of_codes_and_ends_where_it_should() -> None:
    a, b = (torch.nn.functional.normalize(torch.randn(6, 8, generator=seeded(k)), dim=1) for k in (0, 1))
    assert torch.allclose(slerp(a, b, torch.full((6,), 0.3)).norm(dim=1), torch.ones(6), atol=1e-6)
    assert torch.allclose(slerp(a, b, torch.zeros(6)), a, atol=1e-6)
    assert torch.allclose(slerp(a, b, torch.ones(6)), b, atol=1e-6)
    assert torch.allclose(slerp(a, a, torch.full((6,), 0.5)), a, atol=1e-6)


def test_a_jump_on_the_way_is_seen_and_a_smooth_way_has_none() -> None:
    def smooth(z_BL: Tensor, y_B: Tensor) -> Tensor:
        return 0.1 * z_BL[:, :1, None, None] * torch.ones(1, 1, *SHAPE) + 0.1 * z_BL[:, 1, None, None, None]

    def jumps(z_BL: Tensor, y_B: Tensor) -> Tensor:
        return smooth(z_BL, y_B) / 10 + 0.3 * (z_BL[:, :1, None, None] > 0) * torch.ones(1, 1, *SHAPE)

    uneven = [
        max(interpolation(with_encoder(maker_of(Planted(image))), np.zeros((1, 256))).numbers["largest_step_over_mean"])
        for image in (smooth, jumps)
    ]
    assert uneven[0] < 4 and uneven[1] > 8


def test_repeats_count_planted_copies_and_no_others() -> None:
    random = np.random.default_rng(0)
    x_NC = random.uniform(-1, 1, (40, 1, *SHAPE)).astype(np.float32)
    x_NC[1], x_NC[5] = x_NC[0], x_NC[4] + np.float32(0.012)  # a copy, and one that is 0.6 % of the window away
    maker = maker_of(Planted(noisy))
    numbers = repeats(maker, Drawn(x_NC, np.arange(40) % 2, None)).numbers
    assert numbers["nearer_than"] == {
        "0.001": 0.05,
        "0.0025": 0.05,
        "0.005": 0.05,
        "0.01": 0.1,
        "0.02": 0.1,
        "0.05": 0.1,
    }
    assert [pair["samples"] for pair in numbers["pairs"][:2]] == [[0, 1], [4, 5]]
    assert numbers["pairs"][1]["rms"] == pytest.approx(0.006, rel=1e-3)


def test_near_images_from_far_codes_are_found_and_near_codes_do_not_count() -> None:
    random = np.random.default_rng(0)
    z_NL = torch.from_numpy(random.normal(size=(20, 4)).astype(np.float32))
    features_ND = random.normal(size=(20, 6))
    z_NL[1] = z_NL[0] + 0.01
    features_ND[1] = features_ND[0] + 0.001  # near codes, near images: as it should be
    z_NL[3] = -z_NL[2] * 3 / z_NL[2].norm()
    features_ND[3] = features_ND[2] + 0.002  # far codes, near images
    drawn = Drawn(random.uniform(-1, 1, (20, 1, *SHAPE)).astype(np.float32), np.arange(20) % 2, z_NL)
    part = neighbours(maker_of(Planted(noisy)), drawn, features_ND)
    assert part.numbers["pairs"][0]["samples"] == [2, 3] and part.numbers["pairs"][0]["codes"] >= 1
    assert [0, 1] not in [pair["samples"] for pair in part.numbers["pairs"]]


def test_pairs_do_not_share_an_image() -> None:
    first, second = np.array([0, 0, 1, 2]), np.array([1, 2, 2, 3])
    assert apart(first, second, np.array([1.0, 2.0, 3.0, 4.0]), 3) == [0, 3]
    assert apart(first, second, np.full(4, np.inf), 3) == []


def test_planted_failures_lead_their_rows() -> None:
    random = np.random.default_rng(0)
    x_NC = random.uniform(-0.9, 0.9, (30, 3, *SHAPE)).astype(np.float32)
    x_NC[:, 1:] = -1.0
    x_NC[:, 1, 2:6, 2:6] = x_NC[:, 2, 8:12, 8:12] = 1.0  # two whole structures
    x_NC[3, 0] = 0.2  # one grey
    x_NC[7, 0, :8] = 1.0  # half of it saturated
    x_NC[11, 1, 2:6, 4] = -1.0  # the first structure in two pieces, of 8 and 4 voxels
    x_NC[13, 2] = -1.0  # the second structure is not there
    x_NC[17, 0] += 3  # far from all others
    maker = maker_of(Planted(noisy), structures=2)
    parts = {
        part.name: part for part in failures(maker, Drawn(x_NC, np.arange(30) % 2, None), x_NC[:, 0].reshape(30, -1))
    }
    first = {name: part.numbers["shown"][0] for name, part in parts.items()}
    assert {name: entry["sample"] for name, entry in first.items()} == {
        "outliers": 17, "blank": 3, "saturated": 17, "fragments": 11, "missing": 13,
    }  # fmt: skip
    assert parts["saturated"].numbers["shown"][1] == {"sample": 7, "value": pytest.approx(0.5, abs=0.02)}
    assert first["fragments"]["value"] == pytest.approx(4 / 28) and first["missing"]["value"] == 0
    assert first["blank"]["value"] == pytest.approx(0, abs=1e-6)
    assert all(len(part.numbers["shown"]) == SHOWN for part in parts.values())


def test_where_no_sample_stands_out_it_is_said_so() -> None:
    x_NC = np.random.default_rng(0).uniform(-0.9, 0.9, (9, 1, *SHAPE)).astype(np.float32)
    drawn = Drawn(x_NC, np.arange(9) % 2, None)
    captions = {part.name: part.caption for part in failures(maker_of(Planted(noisy)), drawn, x_NC.reshape(9, -1))}
    assert "None stands out" in captions["saturated"] and "None stands out" not in captions["blank"]


def test_pieces_are_joined_by_faces() -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[0:2, 0:2] = 1
    mask[2, 2] = 1  # touches at a corner
    mask[5, 0:5] = 2
    assert fragments(mask) == pytest.approx(1 / 10) and smallest(mask, 2) == 5 and smallest(mask, 3) == 0
    assert fragments(np.zeros((4, 4), np.uint8)) == 0


class NoCodes(VAE):
    def white_box(self) -> WhiteBox:
        return WhiteBox()


def test_a_model_without_codes_is_explained_by_its_samples() -> None:
    parts, not_done = explained(maker_of(NoCodes(SHAPE, 2, channels=2, widest=4, latent=2)))
    assert {part.name for part in parts} == {"repeats", "outliers", "blank", "saturated"}
    assert {entry["what"] for entry in not_done} == {
        "latent traversals", "class contrasts", "ways through the latent space", "near images from codes far apart",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_and_another_one_other_pictures() -> None:
    torch.manual_seed(0)
    model = awake(MODELS["vae"](SHAPE, 2)).eval()
    same = [explained(maker_of(model, seed=seed))[0] for seed in (0, 0, 1)]
    for a, b, c in zip(*same, strict=True):
        assert a.picture.tobytes() == b.picture.tobytes() and a.numbers == b.numbers
        assert a.picture.tobytes() != c.picture.tobytes()
