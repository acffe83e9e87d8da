import pytest
import torch
from torch import nn

from imgsynth.privacy.refuse import check_private_network
from imgsynth.types import InputError

ROTTEN = [
    (nn.BatchNorm1d(4), "GroupNorm"),
    (nn.BatchNorm2d(4), "GroupNorm"),
    (nn.BatchNorm3d(4), "GroupNorm"),
    (nn.SyncBatchNorm(4), "GroupNorm"),
    (nn.LazyBatchNorm2d(), "GroupNorm"),
    (nn.BatchNorm2d(4, track_running_stats=False), "GroupNorm"),
    (nn.InstanceNorm2d(4, track_running_stats=True), "track_running_stats=False"),
    (nn.Embedding(3, 4, max_norm=1.0), "plain Embedding"),
    (nn.Embedding(3, 4, scale_grad_by_freq=True), "plain Embedding"),
    (nn.Embedding(3, 4, sparse=True), "plain Embedding"),
    (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "weight_norm"),
    (nn.utils.spectral_norm(nn.Linear(4, 4)), "weight_norm"),
]
SOUND = [
    nn.GroupNorm(2, 4),
    nn.InstanceNorm3d(4, affine=True),
    nn.LayerNorm(4),
    nn.Embedding(3, 4),
    nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    nn.ConvTranspose3d(4, 4, 3),
    nn.Dropout(0.5),
    nn.ReLU(inplace=True),
]


@pytest.mark.parametrize(("layer", "fix"), ROTTEN, ids=lambda v: str(v)[:40])
def test_layers_that_break_the_proof_are_refused_with_reason_and_fix(layer, fix):
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer))
    with pytest.raises(InputError) as caught:
        check_private_network(network)
    (fault,) = caught.value.faults
    assert fault.where.startswith("private network, layer 1.0")
    assert ", which " in fault.got
    assert fix in fault.remedy


@pytest.mark.parametrize("layer", SOUND, ids=str)
def test_sound_layers_pass(layer):
    check_private_network(nn.Sequential(layer))


def test_all_are_named_at_once():
    with pytest.raises(InputError) as caught:
        check_private_network(nn.Sequential(*(layer for layer, _ in ROTTEN)))
    assert len(caught.value.faults) == len(ROTTEN)


def test_the_reason_is_true_one_record_moves_anothers_gradient_through_batch_norm():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def gradient_of_first(x):
        return torch.autograd.grad(network(x)[0].square().sum(), network[0].weight)[0]

    x = torch.randn(5, 3)
    other = x.clone()
    other[1] += 10
    assert (gradient_of_first(x) - gradient_of_first(other)).norm() > 0.1 * gradient_of_first(x).norm()
