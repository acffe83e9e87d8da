"""Images painted onto masks: which term trains which network, what the image follows, and masks of whole volumes."""

import pytest
import torch
import torch.nn.functional as F

from imgsynth.models import Pix2Pix
from imgsynth.models.hard_masks import hard_mask, mask_probabilities
from imgsynth.models.pix2pix import opposed
from imgsynth.models.vae import kl_to_prior
from imgsynth.privacy.engines import get_engine
from imgsynth.privacy.engines.ghost import GhostEngine
from imgsynth.types import InputError, PatientBatch

SHAPES = [(16, 24), (8, 8, 16)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(shape=(16, 24), **arguments):
    torch.manual_seed(0)
    model = Pix2Pix(shape, 3, 2, latent=4, mask_latent=3, channels=4, widest=8, encoder_channels=4, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    private, post = model.objectives()
    return model, private, post


def batch(private, shape=(16, 24), n=4):
    label_B = torch.randint(3, (n, *shape), generator=seeded(1))
    x_BC = torch.cat([torch.rand(n, 1, *shape, generator=seeded(2)) * 2 - 1,
                      *((label_B == k)[:, None] * 2.0 - 1 for k in (1, 2))], dim=1)  # fmt: skip
    return x_BC, torch.arange(n) % 3, *private.aux(n, seeded(3))


def gradients(loss, model):
    names, parameters = zip(*model.networks.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def judged(model, image_B1, x_BC, y_B):
    return model.networks.critic(torch.cat([image_B1, x_BC[:, 1:]], dim=1), y_B)


def by_hand(model, x_BC, y_B, eps_BL, z_BL):
    """The errors with β KL, and the images painted with the pair's own code and with z."""
    mu_BL, logvar_BL = model.networks.encoder(x_BC, y_B)
    code_BL = mu_BL + (0.5 * logvar_BL).exp() * eps_BL
    own_B1, made_B1 = (model.pairs.painter(x_BC[:, 1:], z, y_B) for z in (code_BL[:, 3:], z_BL))
    p_BM = mask_probabilities(model.pairs.masks.logits(code_BL[:, :3], y_B))
    p_BC = torch.cat([1 - p_BM.sum(1, keepdim=True), p_BM], dim=1)
    label_B = ((x_BC[:, 1:] + 1) / 2 * torch.tensor([1, 2]).view(1, 2, *(1 for _ in model.shape))).sum(1).long()
    nats_B = -p_BC.gather(1, label_B[:, None]).log().flatten(1).mean(1)
    elbo_B = (x_BC[:, :1] - own_B1).abs().flatten(1).mean(1) + nats_B + 0.01 * kl_to_prior(mu_BL, logvar_BL)
    return elbo_B, own_B1, made_B1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loss_is_errors_kl_and_the_opinion_of_patches(shape):
    model, private, _ = made(shape, beta=0.01, gamma=0.4)
    x_BC, y_B, *_ = inputs = batch(private, shape)
    elbo_B, *fakes = by_hand(model, *inputs)
    real_B = -F.logsigmoid(model.networks.critic(x_BC, y_B)).mean(1)
    fake_B = sum(-F.logsigmoid(-judged(model, one, x_BC, y_B)).mean(1) for one in fakes)
    torch.testing.assert_close(private.module(*inputs), elbo_B + 0.4 * (real_B + 0.5 * fake_B))


def test_one_term_trains_the_critic_to_tell_and_the_painter_to_be_taken_for_real():
    model, private, _ = made(beta=0.01, gamma=0.4, fool=0.07)
    x_BC, y_B, *_ = inputs = batch(private)
    whole = gradients(private.module(*inputs).sum(), model)
    elbo_B, *fakes = by_hand(model, *inputs)
    fake_B = sum(-F.logsigmoid(-judged(model, one, x_BC, y_B)).mean(1) for one in fakes) / 2
    real_B = -F.logsigmoid(model.networks.critic(x_BC, y_B)).mean(1)
    told = gradients((0.4 * (fake_B + real_B)).sum(), model)
    elbo_B, *fakes = by_hand(model, *inputs)
    caught_B = sum(-F.logsigmoid(-judged(model, one, x_BC, y_B)).mean(1) for one in fakes) / 2
    others = gradients((elbo_B - 0.07 * caught_B).sum(), model)
    for name, gradient in whole.items():
        expected = told[name] if name.startswith("critic.") else others[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6, msg=name)
    assert all(gradient.abs().max() > 0 for gradient in whole.values())


def test_opposed_is_the_same_number_with_the_opposite_gradient():
    x = torch.tensor([2.0, -3.0], requires_grad=True)
    y = opposed(x, 0.25)
    assert torch.equal(y.detach(), x.detach())
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2,), -0.25))


def test_the_critic_judges_patches_by_what_is_in_them():
    model, *_ = made()
    x_BC = torch.rand(1, 3, 16, 24, generator=seeded(4))
    before, changed = model.networks.critic(x_BC, torch.zeros(1).long()), x_BC.clone()
    changed[:, :, :2, :2] += 1
    moved = (model.networks.critic(changed, torch.zeros(1).long()) - before).abs()[0] > 0
    assert before.shape == (1, 4 * 6) and moved[0] and not moved[2:].view(-1)[:4].any() and moved.sum() <= 4


def test_what_sees_no_data_moves_the_painter_on_generated_masks():
    model, _, post = made()
    assert post.module is model.pairs.painter
    random = seeded(5)
    y_B = torch.randint(3, (6,), generator=random)
    pairs_BC = model.sample(y_B, random)
    assert set(pairs_BC[:, 1:].unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(post.loss(6, seeded(5)), -F.logsigmoid(model.networks.critic(pairs_BC, y_B)).mean())


def test_a_sample_is_a_mask_and_what_is_painted_onto_it():
    model, *_ = made()
    y_B, random = torch.arange(3), seeded(6)
    mask_BM = model.masks(y_B, random)
    state = random.get_state()
    whole = torch.cat([model.paint(mask_BM, y_B, random), mask_BM], dim=1)
    assert torch.equal(whole, model.sample(y_B, seeded(6)))
    random.set_state(state)
    other = model.paint(mask_BM.flip(2), y_B, random)
    assert not torch.allclose(other, whole[:, :1], atol=1e-3)  # the image follows the mask


def test_the_latent_map_is_the_samplers_and_reaches_every_code():
    model, *_ = made()
    parts, y_B, random = model.white_box(), torch.arange(3), seeded(7)
    code_BL = torch.cat([torch.randn(3, n, generator=random) for n in (3, 4)], dim=1).requires_grad_()
    image_BC = parts.latent.image(code_BL, y_B)
    assert parts.latent.size == 7
    assert torch.equal(image_BC.detach(), model.sample(y_B, seeded(7)))
    (gradient,) = torch.autograd.grad(image_BC.square().sum(), code_BL)
    assert (gradient.abs().sum(0) > 0).all()
    x_BC, y_B, eps_BL, _ = batch(made()[1])
    error_B, elbo_B = parts.posterior.errors(x_BC, y_B, eps_BL)
    assert (error_B < elbo_B).all()
    torch.testing.assert_close(parts.discriminator(x_BC, y_B), model.networks.critic(x_BC, y_B).mean(1))


def test_the_ghost_engine_takes_it_as_it_is():
    model, private, _ = made((8, 8))
    x_BC, y_B, *aux = batch(private, (8, 8), 6)
    unit = PatientBatch(x_BC.unflatten(0, (3, 2)), y_B.unflatten(0, (3, 2)), torch.full((3, 2), 0.5))
    get_engine("ghost").clipped_sum(model.networks, unit, tuple(aux), 1.0, physical_batch=3)
    assert GhostEngine.obstacle(model.networks) is None


def test_without_structures_or_with_a_critic_that_never_learns_it_is_refused():
    with pytest.raises(InputError, match=r"data\.masks.*\n.*model\.gamma"):
        Pix2Pix((16, 16), 1, 0, gamma=0.0)


# ---------------------------------------------------------------------------------------------------------------------


def test_where_a_network_is_sure_the_mask_is_the_most_probable_one():
    label = torch.randint(3, (2, 9, 7), generator=seeded(8))
    p_BM = torch.stack([(label == k) * 0.998 + 0.001 for k in (1, 2)], dim=1)
    expected = torch.stack([(label == k) * 2.0 - 1 for k in (1, 2)], dim=1)
    torch.testing.assert_close(hard_mask(p_BM), expected)


def test_uncertain_structures_keep_their_volumes_where_they_are_most_probable():
    """Nowhere is either more probable than the background: the most probable label would lose both."""
    x = torch.linspace(-1, 1, 41)
    blob = torch.exp(-(x[:, None] ** 2 + x[None, :] ** 2) * 8)
    left, right = 0.3 * blob * (x < 0)[:, None], 0.2 * blob * (x >= 0)[:, None]
    (mask_M,) = hard_mask(torch.stack([left, right])[None])
    inside_M = mask_M > 0
    assert [int(inside.sum()) for inside in inside_M] == [round(left.sum().item()), round(right.sum().item())]
    assert not inside_M[0, 21:].any() and not inside_M[1, :20].any() and mask_M.abs().eq(1).all()
    for inside, p in zip(inside_M, (left, right), strict=True):
        assert p[inside].min() >= p[~inside].max()


def test_a_structure_that_is_hardly_anywhere_is_nowhere():
    p_BM = torch.full((1, 2, 20, 20), 0.01)
    p_BM[:, 1, 3:7, 3:7] = 0.9
    inside = hard_mask(p_BM) > 0
    assert not inside[:, 0].any() and inside[0, 1].sum() == round(16 * 0.9 + 384 * 0.01)


def test_a_mask_follows_its_own_image_alone():
    p_BM = torch.softmax(torch.randn(5, 4, 6, 6, 6, generator=seeded(9)), dim=1)[:, 1:]
    together = hard_mask(p_BM)
    assert all(torch.equal(hard_mask(p_BM[i : i + 1]), together[i : i + 1]) for i in range(5))
    volumes, expected = (together > 0).flatten(2).sum(2), p_BM.flatten(2).sum(2).round()
    assert torch.equal(volumes.float(), expected)
    assert ((together > 0).sum(1) <= 1).all()
