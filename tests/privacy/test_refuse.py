import pytest
import torch
from torch import nn

from imgsynth.privacy.refuse import check_networks
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
        check_networks(network)
    (fault,) = caught.value.faults
    assert fault.where.startswith("private network, layer 1.0")
    assert ", which " in fault.got
    assert fix in fault.remedy


@pytest.mark.parametrize("layer", SOUND, ids=str)
def test_sound_layers_pass(layer):
    check_networks(nn.Sequential(layer))


def test_all_are_named_at_once():
    with pytest.raises(InputError) as caught:
        check_networks(nn.Sequential(*(layer for layer, _ in ROTTEN)))
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


BESIDE = [layer for layer, fix in ROTTEN if fix in ("GroupNorm", "track_running_stats=False")]


@pytest.mark.parametrize("layer", BESIDE, ids=lambda v: str(v)[:40])
def test_beside_joint_fakes_what_couples_images_is_refused_in_the_whole_model(layer):
    model = nn.ModuleDict({"G": nn.Sequential(nn.Linear(4, 4), layer), "D": nn.Linear(4, 1)})
    check_networks(model["D"])
    with pytest.raises(InputError) as caught:
        check_networks(model["D"], beside=model)
    (fault,) = caught.value.faults
    assert fault.where == "model, layer G.1"
    assert "privacy.fakes=plain" in fault.remedy


def test_a_layer_of_the_private_network_is_named_once_and_with_what_is_beside():
    model = nn.ModuleDict({"G": nn.BatchNorm1d(4), "D": nn.Sequential(nn.BatchNorm1d(4))})
    with pytest.raises(InputError) as caught:
        check_networks(model["D"], beside=model)
    assert [fault.where for fault in caught.value.faults] == ["private network, layer 0", "model, layer G"]


@pytest.mark.parametrize("layer", [*SOUND, nn.Embedding(3, 4, sparse=True)], ids=str)
def test_what_treats_each_image_by_itself_may_be_beside(layer):
    check_networks(nn.Linear(4, 1), beside=nn.Sequential(layer))
