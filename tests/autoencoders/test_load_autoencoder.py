import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from diffusers import AutoencoderKL

from latentdebias import digits
from latentdebias.autoencoders import AUTOENCODERS, load_autoencoder, stored_form, to_uint8
from latentdebias.errors import UserError


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))


@pytest.fixture
def vae_copy(tiny_vae_dir, tmp_path):
    return shutil.copytree(tiny_vae_dir, tmp_path / "vae_copy")


def test_moments_and_images_equal_those_of_diffusers(tiny_vae_dir, images):
    autoencoder = load_autoencoder(str(tiny_vae_dir))
    vae = AutoencoderKL.from_pretrained(tiny_vae_dir).eval().requires_grad_(False)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(3 * posterior.mean).sample
    mean, logvar = autoencoder.encode(images).chunk(2, dim=1)
    assert torch.equal(mean, posterior.mean)
    assert torch.equal(logvar, posterior.logvar)
    assert mean.shape == (2, 4, 4, 4)
    assert torch.equal(autoencoder.decode(3 * mean), decoded.clamp(-1, 1))


def test_one_call_of_the_decoder_takes_so_many_pixels(tiny_vae_dir):
    autoencoder, calls = load_autoencoder(str(tiny_vae_dir)), []
    latents, decode = torch.randn(7, 4, 4, 4), autoencoder.vae.decode
    autoencoder.vae.decode = lambda z: calls.append(len(z)) or decode(z)
    whole = autoencoder.decode(latents)
    for pixels, images in ((None, [7]), (3 * 32 * 32, [3, 3, 1]), (3 * 32 * 32 - 1, [2, 2, 2, 1]), (1, [1] * 7)):
        calls.clear()
        autoencoder.decoded_at_once = pixels
        torch.testing.assert_close(autoencoder.decode(latents), whole, rtol=1e-4, atol=1e-4)
        assert calls == images


def test_log_variance_is_clamped(tiny_vae_dir, images):
    autoencoder = load_autoencoder(str(tiny_vae_dir))
    autoencoder.vae.quant_conv.bias.data[4:] = 1000
    _, logvar = autoencoder.encode(images).chunk(2, dim=1)
    assert logvar.unique().tolist() == [20.0]


def test_decoded_images_are_clamped(tiny_vae_dir):
    autoencoder = load_autoencoder(str(tiny_vae_dir))
    autoencoder.vae.decoder.conv_out.bias.data[:] = torch.tensor([50.0, -50.0, 0.0])
    images = autoencoder.decode(torch.zeros(1, 4, 4, 4))
    assert images[:, 0].unique().tolist() == [1.0]
    assert images[:, 1].unique().tolist() == [-1.0]


def test_bf16_forward_gives_float32_moments_near_the_exact_ones(tiny_vae_dir, images):
    exact = load_autoencoder(str(tiny_vae_dir)).encode(images)
    rounded = load_autoencoder(str(tiny_vae_dir), dtype=torch.bfloat16).encode(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)


def test_uint8_rounds_to_the_nearest_level():
    levels = torch.arange(256).float()
    assert torch.equal(to_uint8((levels + 0.4) / 127.5 - 1), levels.to(torch.uint8))
    assert torch.equal(to_uint8((levels - 0.4) / 127.5 - 1), levels.to(torch.uint8))


def test_identity_comes_from_the_files(tiny_vae_dir):
    identity = load_autoencoder(str(tiny_vae_dir)).identity
    weights = (tiny_vae_dir / "diffusion_pytorch_model.safetensors").read_bytes()
    assert identity.id == str(tiny_vae_dir)
    assert identity.config_sha256 == hashlib.sha256((tiny_vae_dir / "config.json").read_bytes()).hexdigest()
    assert identity.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert (identity.scaling_factor, identity.shift_factor) == (0.5, 0.0)
    assert (identity.channels, identity.factor) == (4, 8)


def test_shift_factor_is_read(vae_copy):
    edit_config(vae_copy, shift_factor=0.0609)
    assert load_autoencoder(str(vae_copy)).identity.shift_factor == 0.0609


def test_a_config_without_scaling_factor_takes_that_of_the_diffusers_class(vae_copy):
    edit_config(vae_copy, scaling_factor="absent")
    assert load_autoencoder(str(vae_copy)).identity.scaling_factor == AutoencoderKL().config.scaling_factor


def test_vae_subfolder_is_found(tiny_vae_dir, tmp_path):
    shutil.copytree(tiny_vae_dir, tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    identity = load_autoencoder(str(tmp_path / "pipeline")).identity
    assert identity.weights_sha256 == load_autoencoder(str(tiny_vae_dir)).identity.weights_sha256


def test_digits_is_the_packaged_folder(tiny_vae_dir, monkeypatch):
    monkeypatch.setattr(digits, "AUTOENCODER_DIR", tiny_vae_dir)
    assert load_autoencoder("digits").identity.id == "digits"


@pytest.mark.parametrize("name", ["nobody/no-such-autoencoder", "./no such folder", "a/b/c"])
def test_what_cannot_be_had_is_named_with_the_mend(name):
    with pytest.raises(UserError, match=r"hf download") as caught:
        load_autoencoder(name)
    assert repr(name) in str(caught.value)


def test_pickled_weights_are_not_read(vae_copy):
    (vae_copy / "diffusion_pytorch_model.safetensors").rename(vae_copy / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_autoencoder(str(vae_copy))


def test_another_class_is_refused_by_name_with_the_legal_ones(vae_copy):
    edit_config(vae_copy, _class_name="AutoencoderKLWan")
    with pytest.raises(UserError, match=r"'AutoencoderKLWan'.*AutoencoderDC, AutoencoderKL, AutoencoderTiny"):
        load_autoencoder(str(vae_copy))


@pytest.mark.parametrize("name", ["identity", "digits"])
def test_the_config_tells_what_is_stored(name):
    autoencoder = load_autoencoder(name)
    assert stored_form(name) == (autoencoder.posterior, autoencoder.stored_dtype)


def test_the_config_of_a_folder_tells_what_is_stored(vae_copy):
    (vae_copy / "diffusion_pytorch_model.safetensors").unlink()
    assert stored_form(str(vae_copy)) == ("gaussian", "float16")
    edit_config(vae_copy, _class_name="AutoencoderTiny")
    assert stored_form(str(vae_copy)) == ("deterministic", "float16")


@pytest.mark.parametrize("name", ["someone/on-the-hub", "no such: name/at/all", ""])
def test_what_is_not_on_this_machine_tells_nothing(name):
    assert stored_form(name) is None


def test_the_registered_names_load_as_they_are():
    assert AUTOENCODERS.names() == ["digits", "identity"]
    for name in AUTOENCODERS.names():
        assert load_autoencoder(name).identity.id == name


def test_a_users_own_autoencoder_is_found_by_its_name_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halved").mkdir()
    monkeypatch.setattr(AUTOENCODERS, "_entries", dict(AUTOENCODERS._entries))

    @AUTOENCODERS.register("halved")
    @dataclass(frozen=True)
    class Halved:
        def load(self, device, dtype):
            return (device, dtype)

    assert load_autoencoder("halved", "meta", torch.bfloat16) == ("meta", torch.bfloat16)


def test_pixels_need_no_diffusers():
    code = (
        "import sys; from latentdebias.shards.jobs import encode; "
        "from latentdebias.autoencoders import load_autoencoder; load_autoencoder('identity'); "
        "assert 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
