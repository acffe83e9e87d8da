"""Generative models. They know no privacy: they say which objective sees real images, and training does the rest."""

from imgsynth.models.base import FakeSource, GenerativeModel, MaskToImage, PostProcessing, Private, Query, Update
from imgsynth.models.codegan import CodeGAN
from imgsynth.models.diffusion import Diffusion
from imgsynth.models.evolution import Evolution
from imgsynth.models.gan import GAN
from imgsynth.models.latent_diffusion import LatentDiffusion
from imgsynth.models.latent_noise import LatentNoise
from imgsynth.models.mepf import MEPF
from imgsynth.models.merf import MERF
from imgsynth.models.pategan import PATEGAN
from imgsynth.models.pix2pix import Pix2Pix
from imgsynth.models.vae import VAE
from imgsynth.models.vaegan import VAEGAN

__all__ = [
    "GAN",
    "MEPF",
    "MERF",
    "PATEGAN",
    "VAE",
    "VAEGAN",
    "CodeGAN",
    "Diffusion",
    "Evolution",
    "FakeSource",
    "GenerativeModel",
    "LatentDiffusion",
    "LatentNoise",
    "MaskToImage",
    "Pix2Pix",
    "PostProcessing",
    "Private",
    "Query",
    "Update",
]
