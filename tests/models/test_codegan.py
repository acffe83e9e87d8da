"""DPGAN-MI: the critic sees codes, the unit is an image with its counterpart, and codes come to look like patients'."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from imgsynth.models import VAE, CodeGAN, PostProcessing, Private
from imgsynth.models.adversarial import discriminator_loss
from imgsynth.models.white_box import LatentMap, Posterior, WhiteBox
from imgsynth.types import InputError
from tests.models.test_evolution import Bright, seeded

SOURCE = {"_target_": "imgsynth.models.VAE", "latent": 3, "channels": 2, "widest": 4}


class Halves(Bright):
    """A public generator that is known, with its inverse."""

    def code(self, x_BC: Tensor, y_B: Tensor) -> Tensor:
        half = self.shape[1] // 2
        return 2 * torch.atanh(torch.stack([x_BC[..., :half].mean((1, 2, 3)), x_BC[..., half:].mean((1, 2, 3))], 1))

    def white_box(self):
        nothing = Posterior(lambda n, random: (), lambda x_BC, y_B: (x_BC[:, 0, 0, 0], y_B), self.code)
        return WhiteBox(posterior=nothing, latent=LatentMap(2, self.image))


def codegan(target: str = "Halves", **settings) -> CodeGAN:
    torch.manual_seed(0)
    return CodeGAN((8, 8), 2, **{"source": {"_target_": f"{__name__}.{target}"}, "hidden": 32, **settings})


def objectives(model: CodeGAN) -> tuple[Private, PostProcessing]:
    critic, post = model.objectives()
    assert isinstance(critic, Private) and isinstance(post, PostProcessing)
    return critic, post


def test_the_critic_judges_codes_of_the_public_encoder_beside_one_generated_code_each():
    model = codegan(source=SOURCE)
    critic, _ = objectives(model)
    x_BC, y_B = torch.rand(5, 1, 8, 8, generator=seeded()) * 2 - 1, torch.arange(5) % 2
    blur_BL, made_BL, made_y_B = critic.aux(5, seeded(1))
    mu_BL, _ = model.source.encoder(x_BC, y_B)
    real_B, fake_B = model.critic.of_codes(mu_BL + blur_BL, y_B), model.critic.of_codes(made_BL, made_y_B)
    expected_B = discriminator_loss(real_B, torch.ones(5)) + discriminator_loss(fake_B, torch.zeros(5))
    torch.testing.assert_close(critic.module(x_BC, y_B, blur_BL, made_BL, made_y_B), expected_B)
    torch.testing.assert_close(model.white_box().discriminator(x_BC, y_B), model.critic.of_codes(mu_BL, y_B))


def test_real_and_generated_codes_are_blurred_alike():
    critic, _ = objectives(codegan())
    blur_BL, made_BL, _ = critic.aux(20_000, seeded(1))
    assert abs(blur_BL.std() - 0.3) < 0.01
    assert abs(made_BL.std() - (1 + 0.3**2) ** 0.5) < 0.02
    assert abs(float((blur_BL * made_BL).mean())) < 0.01


def test_nothing_of_the_public_generator_learns_and_it_begins_with_its_weights():
    torch.manual_seed(3)
    public, model = VAE((8, 8), 2, latent=3, channels=2, widest=4), codegan(source=SOURCE)
    model.begin_with(public.state_dict())
    assert not any(p.requires_grad for p in model.source.parameters())
    y_B = torch.arange(4) % 2
    torch.testing.assert_close(model.sample(y_B, seeded(1)), public.sample(y_B, seeded(1)))
    assert model.public_part is model.source


def test_before_it_learns_it_is_the_public_generator():
    model, y_B = codegan(), torch.zeros(6, dtype=torch.long)
    assert torch.equal(model.sample(y_B, seeded(4)), model.source.sample(y_B, seeded(4)))


def test_codes_come_to_look_like_those_of_the_patients():
    """Class 0 around (1, -1), class 1 around (-1, 1), each with a spread of 0.4, which N(0, 1) is not."""
    model = codegan(every=1)
    critic, post = objectives(model)
    random = seeded(5)
    step_d = torch.optim.Adam([p for p in critic.module.parameters() if p.requires_grad], 2e-3, betas=(0.5, 0.999))
    step_g = torch.optim.Adam([p for p in model.G.parameters() if p.requires_grad], 2e-3, betas=(0.5, 0.999))
    average = copy.deepcopy(model.G)
    for step in range(800):
        y_B = torch.randint(2, (128,), generator=random)
        c_BL = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[y_B] + 0.4 * torch.randn(128, 2, generator=random)
        step_d.zero_grad()
        critic.module(model.source.image(c_BL, y_B), y_B, *critic.aux(128, random)).mean().backward()
        step_d.step()
        step_g.zero_grad()
        post.loss(128, random).backward()
        step_g.step()
        for slow, fast in zip(average.parameters(), model.G.parameters(), strict=True):
            slow.data.lerp_(fast.data, max(0.01, 1 / (step + 1)))
    model.G.load_state_dict(average.state_dict())
    for y, centre in ((0, (1.0, -1.0)), (1, (-1.0, 1.0))):
        y_B = torch.full((500,), y)
        c_BL = model.source.code(model.sample(y_B, seeded(6)), y_B)
        assert (c_BL.mean(0) - torch.tensor(centre)).abs().max() < 0.3
        assert c_BL.std(0).min() > 0.12 and c_BL.std(0).max() < 0.7


def test_a_source_without_an_encoder_is_refused():
    with pytest.raises(InputError, match="encoder"):
        codegan("Bright")
