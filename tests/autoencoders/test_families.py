"""Every family with tiny random weights: images -> shards -> latents -> images, all by the config's numbers."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from PIL import Image

from latentdebias.autoencoders import AutoencoderIdentity, load_autoencoder, load_this_autoencoder, to_uint8
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.errors import UserError
from latentdebias.images.find import find_images
from latentdebias.images.preprocess import centre_crop, decode_image
from latentdebias.shards.jobs.encode import EncodeJob, encode_images
from latentdebias.shards.jobs.verify import verify
from latentdebias.shards.posterior import draw_latents, latent_means
from latentdebias.shards.reader import LatentShards


def kl_of_16_channels():
    """As in SD3 and Flux: 16 channels, a shift, no quantising convolutions; here with 4 pixels per latent."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=16,
        norm_num_groups=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def deep_compression():
    """DC-AE: 8 channels, 8 pixels per latent."""
    return AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8, 16, 16),
        decoder_block_out_channels=(8, 8, 16, 16),
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
        scaling_factor=0.41407,
    )


def tiny():
    """TAESD: 4 channels, 4 pixels per latent."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )


@pytest.fixture
def saved(tmp_path):
    """A function that saves a freshly initialised autoencoder and names its folder."""

    def save(make):
        torch.manual_seed(0)
        make().save_pretrained(tmp_path / "vae")
        return str(tmp_path / "vae")

    return save


@pytest.fixture
def encode(tmp_path):
    """Encode five random images with an autoencoder; the pixels `(5, 3, 32, 32)` in [-1, 1], and the shards."""

    def run(autoencoder):
        images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
        (tmp_path / "images").mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        found = find_images(str(tmp_path / "images"))
        encode_images(
            found, autoencoder, tmp_path / "out", EncodeJob(resolution=32, flips=True, samples_per_shard=3, workers=0)
        )
        verify(tmp_path / "out")
        crops = np.stack([centre_crop(decode_image(source.read()), 32) for source in found.images])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1, LatentShards(tmp_path / "out")

    return run


def stored(shards, flipped=False):
    return torch.from_numpy(shards.read(np.arange(5), np.full(5, flipped))[0])


@pytest.mark.parametrize(
    ("make", "channels", "factor", "scaling", "shift", "posterior"),
    [
        (kl_of_16_channels, 16, 4, 1.5305, 0.0609, "gaussian"),
        (deep_compression, 8, 8, 0.41407, 0.0, "deterministic"),
        (tiny, 4, 4, 1.0, 0.0, "deterministic"),
    ],
)
def test_numbers_come_from_the_config(saved, encode, make, channels, factor, scaling, shift, posterior):
    autoencoder = load_autoencoder(saved(make))
    identity = autoencoder.identity
    assert (identity.channels, identity.factor) == (channels, factor)
    assert (identity.scaling_factor, identity.shift_factor) == (scaling, shift)
    _, shards = encode(autoencoder)
    assert shards.latent_shape == (channels, 32 // factor, 32 // factor)
    assert (shards.manifest.posterior, shards.manifest.dtype) == (posterior, "float16")


def test_gaussian_latents_of_16_channels_are_drawn_shifted_and_decoded(saved, encode):
    autoencoder = load_autoencoder(saved(kl_of_16_channels))
    pixels, shards = encode(autoencoder)
    with torch.no_grad():
        posterior = autoencoder.vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
        expected = posterior.mean + posterior.std * noise
        expected_images = autoencoder.vae.decode(expected).sample.clamp(-1, 1)
    latents = draw_latents(stored(shards), noise, shards.manifest)
    torch.testing.assert_close(latents, expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(latent_means(stored(shards), shards.manifest), posterior.mean, atol=2e-3, rtol=2e-3)
    normalization = LatentNormalization.of_manifest(shards.manifest, "scaling")
    z = normalization.normalize(latents)
    torch.testing.assert_close(z, (latents - 0.0609) * 1.5305)
    images = autoencoder.decode(normalization.denormalize(z))
    torch.testing.assert_close(images, expected_images, atol=2e-2, rtol=0)


@pytest.mark.parametrize(("make", "output"), [(deep_compression, "latent"), (tiny, "latents")])
def test_deterministic_latents_are_those_of_diffusers_whatever_the_noise(saved, encode, make, output):
    autoencoder = load_autoencoder(saved(make))
    pixels, shards = encode(autoencoder)
    with torch.no_grad():
        expected = getattr(autoencoder.vae.encode(pixels), output)
        mirrored = getattr(autoencoder.vae.encode(pixels.flip(3)), output)
        expected_images = autoencoder.vae.decode(expected).sample.clamp(-1, 1)
    for noise in (torch.zeros_like(expected), torch.full_like(expected, 1e6)):
        latents = draw_latents(stored(shards), noise, shards.manifest)
        torch.testing.assert_close(latents, expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(latent_means(stored(shards, True), shards.manifest), mirrored, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(autoencoder.decode(latents), expected_images, atol=2e-2, rtol=0)
    views = torch.cat([expected, mirrored]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(shards.manifest.latent_std), views.std(1, correction=0), atol=2e-3, rtol=0)


def test_identity_stores_the_pixels_exactly_and_diffusion_sees_them_from_minus_one_to_one(encode):
    autoencoder = load_autoencoder("identity", dtype=torch.bfloat16)
    pixels, shards = encode(autoencoder)
    manifest = shards.manifest
    assert (manifest.latent_shape, manifest.stored_shape, manifest.dtype) == ((3, 32, 32), (3, 32, 32), "uint8")
    assert manifest.autoencoder["factor"] == 1
    assert stored(shards).dtype == torch.uint8
    assert torch.equal(stored(shards), to_uint8(pixels))
    assert torch.equal(stored(shards, True), to_uint8(pixels).flip(3))
    latents = draw_latents(stored(shards), torch.randn(5, 3, 32, 32), manifest)
    z = LatentNormalization.of_manifest(manifest, "scaling").normalize(latents)
    assert torch.equal(z, pixels)
    assert (z.min(), z.max()) == (-1, 1)
    assert torch.equal(to_uint8(autoencoder.decode(latents)), to_uint8(pixels))
    both = torch.cat([pixels, pixels.flip(3)]).transpose(0, 1).flatten(1)
    np.testing.assert_allclose(manifest.latent_mean, both.mean(1), atol=1e-5)
    np.testing.assert_allclose(manifest.latent_std, both.std(1, correction=0), atol=1e-5)


@pytest.mark.parametrize("make", [kl_of_16_channels, deep_compression, tiny])
def test_the_autoencoder_of_a_set_is_told_from_another(saved, encode, make, tiny_vae_dir):
    folder = saved(make)
    _, shards = encode(load_autoencoder(folder))
    made_with = AutoencoderIdentity(**shards.manifest.autoencoder)
    assert load_this_autoencoder(made_with, folder, "cpu").identity == made_with
    for other in ("identity", str(tiny_vae_dir)):
        with pytest.raises(UserError, match="is not the one these latents were made with"):
            load_this_autoencoder(made_with, other, "cpu")


def test_the_autoencoder_of_pixels_is_identity(encode):
    _, shards = encode(load_autoencoder("identity"))
    made_with = AutoencoderIdentity(**shards.manifest.autoencoder)
    assert load_this_autoencoder(made_with, made_with.id, "cpu").identity == made_with


def test_identity_decodes_into_the_range_of_pixels():
    latents = torch.tensor([-3.0, -1.0, 0.25, 1.0, 7.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert load_autoencoder("identity").decode(latents)[0, 0, 0].tolist() == [-1.0, -1.0, 0.25, 1.0, 1.0]
