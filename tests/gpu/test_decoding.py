"""Images decoded beside the next batch's drawing are those decoded one after the other."""

import torch
from draw_options import draw_options
from torch import nn

from latentdebias import Diffusion
from latentdebias.autoencoders import load_autoencoder
from latentdebias.backbones import BACKBONES
from latentdebias.batches.normalization import LatentNormalization
from latentdebias.devices import open_device
from latentdebias.drawing.decoding import decoded, side_stream
from latentdebias.drawing.image_sampler import ImageSampler
from latentdebias.sampling import LatentModel, Network

OPTIONS = draw_options(steps=3, guidance=1.5, batch_size=4)
LABELS = torch.arange(11) % 10


def image_sampler(device, vae):
    torch.manual_seed(0)
    backbone = BACKBONES.build({"name": "dit", "width": 32, "depth": 1, "heads": 2, "patch_size": 1}).build(4, 4, 10)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.05)
    model = LatentModel(Network(backbone.to(device).eval(), Diffusion("linear", "v")), (4, 4, 4), 10)
    normalization = LatentNormalization((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0))
    return ImageSampler(model, normalization, load_autoencoder(str(vae), device))


def test_images_are_those_decoded_one_after_the_other(device, tiny_vae_dir):
    sampler = image_sampler(open_device(str(device)), tiny_vae_dir)
    latents = list(sampler.model.sampler(OPTIONS).draw(LABELS.to(device), OPTIONS))
    expected = torch.cat([sampler.pixels(z).cpu() for z in latents])
    # Several times, since a race need not show at once.
    for _ in range(5):
        images = torch.cat(list(sampler.draw(LABELS, OPTIONS)))
        assert images.device == torch.device("cpu")
        assert torch.equal(images, expected)


def test_decoding_does_not_wait(device, no_waiting, tiny_vae_dir):
    sampler, z = image_sampler(device, tiny_vae_dir), torch.randn(4, 4, 4, 4, device=device)
    expected = sampler.pixels(z)
    with no_waiting():
        images = sampler.pixels(z)
    assert torch.equal(images, expected)


def test_a_slow_decoder_does_not_mix_batches(device):
    """Each batch is overwritten by the next as soon as the allocator may, while the decoder still works on it."""

    def latents():
        for number in range(8):
            yield torch.full((1024, 1024), float(number), device=device)

    def slow(z):
        if z.is_cuda:
            torch.cuda._sleep(20_000_000)
        return z + 1

    for number, images in enumerate(decoded(latents(), slow, device)):
        assert images.unique().tolist() == [number + 1]


def test_the_draws_of_a_process_share_a_stream(tiny_vae_dir):
    device = torch.device("cuda", torch.cuda.current_device())
    sampler = image_sampler(device, tiny_vae_dir)
    side_stream.cache_clear()
    for _ in range(5):
        list(sampler.draw(LABELS, OPTIONS))
    assert side_stream.cache_info().misses == 1


def test_a_call_of_the_decoder_is_bounded(device, tiny_vae_dir):
    autoencoder = load_autoencoder(str(tiny_vae_dir), device)
    latents, whole = torch.randn(7, 4, 4, 4, device=device), load_autoencoder(str(tiny_vae_dir), device)
    whole.decoded_at_once, autoencoder.decoded_at_once = None, 2 * 32 * 32
    torch.testing.assert_close(autoencoder.decode(latents), whole.decode(latents), rtol=1e-3, atol=1e-3)
