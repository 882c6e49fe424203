"""Bytes kept for the backward: the fake count is the real one, and follows what it should."""

import pytest

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.activations import activation_bytes, saved_bytes

LATENT = (4, 8, 8)
TINY = BACKBONES.build({"name": "dit", "width": 64, "depth": 3, "heads": 2, "patch_size": 2})
VIT = BACKBONES.build({"name": "min_snr_vit", "width": 64, "depth": 3, "heads": 2, "patch_size": 2})


@pytest.mark.parametrize("spec", [TINY, VIT], ids=["dit", "vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_count_is_what_real_tensors_keep(spec, precision):
    real = saved_bytes(spec.build(8, 4, 10), LATENT, 4, precision)
    assert activation_bytes(spec, LATENT, 10, 4, precision).kept == real


def test_fp32_activations_grow_with_the_micro_batch():
    one, two, three = (activation_bytes(TINY, LATENT, 10, size, "fp32").kept for size in (1, 2, 3))
    assert two - one == three - two > 0


def test_checkpointed_blocks_keep_their_inputs_and_one_blocks_own():
    tokens, width, batch = 16, 64, 64
    bytes_of = [activation_bytes(spec, LATENT, 10, batch, "fp32") for spec in (TINY, _deeper(TINY))]
    more_kept, more_checkpointed = (
        getattr(bytes_of[1], name) - getattr(bytes_of[0], name) for name in ("kept", "kept_checkpointed")
    )
    assert bytes_of[0].kept_checkpointed < bytes_of[0].kept
    assert more_checkpointed == pytest.approx(3 * batch * tokens * width * 4, rel=0.02)
    assert more_kept > 5 * more_checkpointed


def _deeper(spec):
    return BACKBONES.build({**BACKBONES.spec_of(spec), "depth": 2 * spec.depth})
