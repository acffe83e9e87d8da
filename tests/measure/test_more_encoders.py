"""Encoders from files, packages and the cohort: right features, wrong files told, kept on disk by content."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks import nets
from sklearn.datasets import load_digits
from torch import Tensor, nn

from imgsynth.measure import encoder_inception
from imgsynth.measure.encoders import get_encoder
from imgsynth.types import InputError


def images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 1, *shape)).astype(np.float32)


@pytest.mark.parametrize(("dims", "shape"), [(2, (20, 16)), (3, (10, 12, 8))])
def test_radiomics_are_those_of_the_standard(dims: int, shape: tuple[int, ...]) -> None:
    """Intensity statistics by their definitions (IBSI 3.3), texture by order: noise is rougher than a ramp."""
    pytest.importorskip("mirp", reason="pip install imgsynth[radiomics]")
    noise = images(2, *shape)
    ramp = np.broadcast_to(np.linspace(-1, 1, shape[-1], dtype=np.float32), noise.shape).copy()
    encoder = get_encoder("radiomics", dims, 0)
    assert encoder.has_units and "ibsi" in encoder.name
    found = encoder.encode(np.concatenate([noise, ramp]))
    assert found.shape[0] == 4 and found.shape[1] > 70 and np.isfinite(found).all()
    back = np.sign(found) * np.expm1(np.abs(found))
    expected = [noise[0].mean(), noise[0].var(), noise[0].max(), np.median(noise[0]), (noise[0] ** 2).sum()]
    for value in expected:
        assert np.isclose(back[0], value, rtol=1e-4, atol=1e-6).any(), value
    assert np.isfinite(encoder.encode(np.zeros((1, 1, *shape), np.float32))).all()  # a constant image
    np.testing.assert_array_equal(found[2], found[3])


class Planes(nn.Module):
    """Mean of each channel of one convolution: enough to tell what it was shown."""

    def __init__(self, dims: int = 2, channels: int = 3):
        super().__init__()
        self.conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, 4, 3)

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.conv(x_BC).relu()


def exported(network: nn.Module, path: Path, *shape: int, fixed: bool = False) -> Path:
    pytest.importorskip("onnx", reason="pip install onnx")
    axes = {0: "b"} if fixed else {0: "b", **{2 + i: f"n{i}" for i in range(len(shape) - 2)}}
    torch.onnx.export(
        network, (torch.zeros(shape),), str(path), input_names=["x"], dynamic_axes={"x": axes}, dynamo=False
    )
    return path


def test_a_graph_is_run_as_it_stands(tmp_path: Path) -> None:
    network = Planes()
    path = exported(network, tmp_path / "mine.onnx", 1, 3, 9, 9)
    x = images(3, 12, 10)
    encoder = get_encoder("file", 2, 0, str(path))
    expected = network(torch.from_numpy(x).expand(-1, 3, -1, -1)).flatten(2).mean(2).detach().numpy()
    np.testing.assert_allclose(encoder.encode(x), expected, atol=1e-5)
    assert encoder.name.startswith("file-mine.onnx-") and encoder.planes == 1
    # of a volume, its three middle planes
    volume = images(2, 12, 10, 9)
    by_planes = get_encoder("file", 3, 0, str(path))
    assert by_planes.planes == 3
    middle = network(torch.from_numpy(volume[:, :, 6]).expand(-1, 3, -1, -1)).flatten(2).mean(2).detach().numpy()
    np.testing.assert_allclose(by_planes.encode(volume)[:, :4], middle, atol=1e-5)


def test_a_graph_of_one_size_is_shown_that_size(tmp_path: Path) -> None:
    path = exported(Planes(3, 1), tmp_path / "sized.onnx", 1, 1, 8, 8, 8, fixed=True)
    assert get_encoder("file", 3, 0, str(path)).encode(images(2, 12, 10, 9)).shape == (2, 4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_a_residual_network(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    network = nets.resnet10(pretrained=False, spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B",
                            bias_downsample=False).eval()  # fmt: skip
    path = tmp_path / "medical.pth"
    torch.save({"state_dict": {prefix + key: value for key, value in network.state_dict().items()}}, path)
    x = images(2, 16, 16, 16)
    encoder = get_encoder("file", 3, 0, str(path), "resnet10")
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(encoder.encode(x), expected, atol=1e-5)
    with pytest.raises(InputError, match="missing"):
        get_encoder("file", 3, 0, str(path), "resnet50")
    with pytest.raises(InputError, match="one of resnet10"):
        get_encoder("file", 3, 0, str(path))


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("run by a file of weights",)


def test_files_that_are_no_encoders_are_told_and_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    evil, text, graph = tmp_path / "evil.pt", tmp_path / "notes.txt", tmp_path / "broken.onnx"
    evil.write_bytes(pickle.dumps({"conv1.weight": Evil()}))
    text.write_text("weights")
    graph.write_bytes(b"no graph")
    for path, match in (
        (evil, "nothing else"),
        (text, "a file:"),
        (graph, "ONNX graph"),
        (tmp_path / "no.pt", "a file:"),
    ):
        with pytest.raises(InputError, match=match):
            get_encoder("file", 2, 0, str(path), "resnet10")
    assert "run by" not in capsys.readouterr().out


def test_the_cohort_s_classifier_tells_its_classes_apart_and_says_what_it_is() -> None:
    x, y = load_digits(n_class=2, return_X_y=True)
    x_NC = (x.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    encoder = get_encoder("classifier", 2, 0, train=lambda: (x_NC[:200], y[:200], 2))
    features = encoder.encode(x_NC[200:])
    assert "private" in encoder.name and "private" in encoder.about
    means = np.stack([features[y[200:] == k].mean(0) for k in (0, 1)])
    nearer = np.linalg.norm(features[:, None] - means[None], axis=2).argmin(1)
    assert (nearer == y[200:]).mean() > 0.9
    with pytest.raises(InputError, match="members"):
        get_encoder("classifier", 2, 0)
    with pytest.raises(InputError, match="one class"):
        get_encoder("classifier", 2, 0, train=lambda: (x_NC, np.zeros(len(x_NC), int), 2))


def test_inception_sees_bytes_of_three_channels_and_alone_is_called_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Extractor(nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str | None):
            super().__init__()
            if feature_extractor_weights_path == "absent":
                raise OSError("no route to host")
            assert (name, features) == ("inception-v3-compat", ["2048"])

        def forward(self, x_BC: Tensor) -> tuple[Tensor]:
            seen.append(x_BC)
            return (x_BC.float().mean((2, 3)),)

    fake = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    fake.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", fake)
    monkeypatch.setattr(encoder_inception, "find_spec", lambda name: object())
    encoder = get_encoder("inception", 2, 0)
    x = np.array([-1.0, 0.0, 1.0, 1.5], np.float32).reshape(1, 1, 2, 2)
    encoder.encode(x)
    assert seen[0].dtype == torch.uint8 and seen[0].shape == (1, 3, 2, 2)
    assert seen[0][0, 0].flatten().tolist() == [0, 128, 255, 255]
    assert encoder.standard_fid and not get_encoder("inception", 3, 0).standard_fid
    assert not get_encoder("random_conv", 2, 0).standard_fid
    with pytest.raises(InputError, match="cannot be had: no route"):
        get_encoder("inception", 2, 0, "absent")


def test_features_are_kept_by_content_encoder_and_nothing_else(tmp_path: Path) -> None:
    x = images(3, 12, 12)
    first = get_encoder("random_conv", 2, 0)
    first.folder = tmp_path
    expected = first.encode(x)
    (path,) = tmp_path.iterdir()
    again = get_encoder("random_conv", 2, 0)
    again.folder = tmp_path
    again._features = None  # type: ignore[assignment,method-assign]
    np.testing.assert_array_equal(again.encode(x), expected)
    other = get_encoder("random_conv", 2, 1)  # other weights
    other.folder = tmp_path
    assert not np.array_equal(other.encode(x), expected)
    first.encode(x[:2])
    assert len(list(tmp_path.iterdir())) == 3 and path.is_file()
