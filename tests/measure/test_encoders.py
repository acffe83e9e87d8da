"""Encoders: fixed features, two and three dimensions, and what is said where a package is absent."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from imgsynth.features import networks
from imgsynth.measure.encoders import get_encoder
from imgsynth.types import InputError

SPECS = [("random_conv", 2, (20, 17), 480), ("random_conv", 3, (12, 9, 10), 480)]
LITE = [("efficientnet_lite", 2, (40, 30), 1280), ("efficientnet_lite", 3, (12, 16, 10), 3840)]


@pytest.mark.parametrize(("name", "dims", "shape", "features"), SPECS + LITE)
def test_features_do_not_depend_on_the_batch(name: str, dims: int, shape: tuple[int, ...], features: int) -> None:
    if name == "efficientnet_lite":
        pytest.importorskip("efficientnet_lite_pytorch", reason="pip install imgsynth[encoders]")
    x_NC = np.random.default_rng(0).uniform(-1, 1, (5, 1, *shape)).astype(np.float32)
    encoder = get_encoder(name, dims, 0)
    whole = encoder.encode(x_NC)
    assert whole.shape == (5, features)
    assert name in encoder.name
    np.testing.assert_allclose(get_encoder(name, dims, 0).encode(x_NC, batch=2), whole, atol=2e-4)
    np.testing.assert_allclose(get_encoder(name, dims, 0).encode(x_NC[::-1]), whole[::-1], atol=2e-4)
    assert np.linalg.norm(whole[0] - whole[1]) > 1e-3


def test_the_same_images_are_encoded_once_and_others_afresh() -> None:
    encoder = get_encoder("random_conv", 2, 0)
    calls = []
    features = encoder._features
    encoder._features = lambda x_BC: calls.append(len(x_BC)) or features(x_BC)  # type: ignore[method-assign]
    x_NC = np.random.default_rng(0).uniform(-1, 1, (4, 1, 12, 8)).astype(np.float32)
    first = encoder.encode(x_NC)
    first_copy = first.copy()
    first[:] = 0  # a caller that writes into its features spoils nobody else's
    np.testing.assert_array_equal(encoder.encode(x_NC.copy()), first_copy)
    assert calls == [4]
    turned = x_NC.reshape(4, 1, 8, 12)
    assert not np.allclose(encoder.encode(turned), first_copy)
    x_NC[0, 0, 0, 0] += 0.1
    assert not np.allclose(encoder.encode(x_NC), first_copy)
    assert calls == [4, 4, 4]


def test_the_seed_is_in_the_name_and_in_the_weights() -> None:
    x_NC = np.ones((1, 1, 8, 8), dtype=np.float32)
    zero, one = get_encoder("random_conv", 2, 0), get_encoder("random_conv", 2, 1)
    assert zero.name != one.name
    assert not np.allclose(zero.encode(x_NC), one.encode(x_NC))


def test_random_features_carry_the_image() -> None:
    x, y = load_digits(return_X_y=True)
    features = get_encoder("random_conv", 2, 0).encode(x[:600].reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    assert cross_val_score(LogisticRegression(C=0.1, max_iter=500), features, y[:600], cv=3).mean() > 0.85


def test_imagenet_weights_are_loaded() -> None:
    """The stock network calls a picture of its training set's kind by features that random weights would not give."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install imgsynth[encoders]")
    encoder = get_encoder("efficientnet_lite", 2, 0)
    norms = [float(p.detach().abs().mean()) for p in encoder.network.parameters()]  # type: ignore[attr-defined]
    assert not encoder.network.training  # type: ignore[attr-defined]
    running = encoder.network.get_buffer("_bn0.running_mean")  # type: ignore[attr-defined]
    assert float(running.abs().max()) > 0.1  # batch statistics of real images; 0 in a fresh network
    assert len(norms) > 100


def test_wrong_rank_unknown_name_and_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="3 spatial axes"):
        get_encoder("random_conv", 3, 0).encode(np.zeros((2, 1, 8, 8)))
    with pytest.raises(InputError, match="one of efficientnet_lite, radiomics, inception, random_conv"):
        get_encoder("imagenet", 2, 0)
    found = importlib.util.find_spec

    def absent(name: str) -> ModuleSpec | None:
        return None if name.startswith("efficientnet") else found(name)

    monkeypatch.setattr(networks, "find_spec", absent)
    with pytest.raises(InputError, match=r"pip install imgsynth\[encoders\]"):
        get_encoder("efficientnet_lite", 2, 0)
