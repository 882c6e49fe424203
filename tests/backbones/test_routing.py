"""Token routing: the skipped tokens wait, the others run as if alone, and nothing changes in evaluation."""

import pytest
import torch

from latentdebias.backbones import BACKBONES
from latentdebias.backbones.activations import activation_bytes
from latentdebias.backbones.flops import forward_flops
from latentdebias.backbones.routing import routers
from latentdebias.errors import UserError

DIT = {"name": "dit", "width": 32, "depth": 4, "heads": 2, "patch_size": 1}
ROUTING = {"share": 0.5, "start": 1, "end": -1}
SPECS = [
    DIT,
    {**DIT, "registers": 3, "positions": "sincos_rope"},
    {**DIT, "name": "min_snr_vit"},
    {"name": "vit", "timm_name": "vit_tiny_patch16_224", "patch_size": 1},
    {"name": "vit", "timm_name": "eva02_tiny_patch14_224", "patch_size": 1},
    {"name": "vit", "timm_name": "vit_small_patch16_rope_mixed_224", "patch_size": 1},
]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=["dit", "dit rope", "min_snr", "vit", "eva", "rope_mixed"])
BATCH = torch.randn(6, 4, 4, 4), torch.rand(6), torch.arange(6)


def network(spec, **routing):
    torch.manual_seed(0)
    backbone = BACKBONES.build({**spec, "routing": {**ROUTING, **routing}}).build(4, 4, 10)
    for parameter in backbone.parameters():
        # Away from an initialisation at zero, where blocks pass their inputs on.
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def keyed(backbone, positions, seed=0):
    for router in routers(backbone):
        router.keys = (seed, torch.as_tensor(positions))
    return backbone


@each_spec
def test_evaluation_and_share_0_run_every_token_through_every_block(spec):
    routed, plain = network(spec).eval(), network(spec, share=0)
    plain_in_training = plain(*BATCH)
    assert torch.equal(routed(*BATCH), plain.eval()(*BATCH))
    assert routed.state_dict().keys() == plain.state_dict().keys()
    assert not routers(plain)
    assert not torch.allclose(routed.train()(*BATCH), plain_in_training, atol=1e-4)


@each_spec
def test_the_routed_blocks_see_half_of_the_patches_and_all_other_tokens(spec):
    backbone = network(spec)
    lengths = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda block, inputs, output: lengths.append(output.shape[1]))
    backbone(*BATCH)
    others = lengths[0] - 16
    assert lengths == [16 + others, *[8 + others] * (len(lengths) - 2), 16 + others]


def block_calls(backbone):
    """For each block of one forward of the first sample: its input and output tokens `(N, D)`, and its rope."""
    calls = []

    def note(block, args, kwargs, output):
        calls.append((args[0][0], output[0], kwargs.get("rope", args[-1])))

    for block in backbone.blocks:
        block.register_forward_hook(note, with_kwargs=True)
    backbone(*(part[:1] for part in BATCH))
    return calls


@each_spec
def test_the_kept_tokens_run_by_themselves_and_the_others_wait(spec):
    calls = block_calls(keyed(network(spec), [9]))
    before, after = calls[0][1], calls[-1][0]
    kept, prefix = (before != after).any(dim=1), len(before) - 16
    assert kept[:prefix].all()
    assert int(kept.sum()) == prefix + 8
    assert torch.equal(calls[1][0], before[kept])
    assert torch.equal(calls[-2][1], after[kept])


@pytest.mark.parametrize("spec", [SPECS[1], *SPECS[4:]], ids=["dit rope", "eva", "rope_mixed"])
def test_the_kept_patches_keep_their_rotary_positions(spec):
    routed, plain = block_calls(keyed(network(spec), [9])), block_calls(network(spec, share=0))
    kept = (routed[0][1] != routed[-1][0]).any(dim=1)[-16:]
    assert torch.equal(routed[1][2][0].squeeze(0), plain[1][2][..., kept, :].squeeze(0))
    assert torch.equal(routed[-1][2], plain[-1][2])


@each_spec
def test_the_choice_depends_on_seed_and_position_alone(spec):
    backbone, positions = network(spec), torch.arange(100, 106)
    whole = keyed(backbone, positions)(*BATCH)
    parts = [keyed(backbone, positions[rows])(*(part[rows] for part in BATCH)) for rows in (slice(2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(keyed(backbone, positions + 1)(*BATCH), whole, atol=1e-4)
    assert not torch.allclose(keyed(backbone, positions, seed=1)(*BATCH), whole, atol=1e-4)


def test_every_patch_is_kept_about_equally_often():
    (router,) = routers(keyed(network(DIT), range(4000)))
    kept = router._kept_patches(torch.empty(4000, 16, 1), 16)
    shares = torch.bincount(kept.flatten(), minlength=16) / 4000
    assert ((shares - 0.5).abs() < 5 * 0.5 / 4000**0.5).all()


def test_flops_are_those_of_the_tokens_that_run():
    depth, width, tokens = 12, 384, 256
    count = {0.0: depth, 0.5: 5}

    def block(tokens):
        return 2 * tokens * 12 * width**2 + 4 * tokens**2 * width + 2 * 6 * width**2

    for share, whole in count.items():
        flops = forward_flops(BACKBONES.build({"name": "dit_s_patch2", "routing": share}), (4, 32, 32), 1000)
        assert flops.blocks == whole * block(tokens) + (depth - whole) * block(tokens // 2)


def test_tokens_that_skip_blocks_leave_fewer_activations():
    plain, routed = (
        activation_bytes(BACKBONES.build({**DIT, "routing": {**ROUTING, "share": share}}), (4, 8, 8), 10, 4, "fp32")
        for share in (0, 0.5)
    )
    # Two of the four blocks keep half as much, and the ends of the network and some indices remain.
    assert 0.7 * plain.kept < routed.kept < 0.85 * plain.kept


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ({"share": 1.0}, "less than 1"),
        ({"share": 0.5, "start": 3, "end": 3}, "skips none of the 4 blocks"),
        ({"share": 0.5}, "skips none of the 4 blocks"),
        ({"shar": 0.5}, "share"),
    ],
)
def test_bad_fields_are_refused(routing, message):
    with pytest.raises(UserError, match=message):
        BACKBONES.build({**DIT, "routing": routing}).build(4, 4, 10)
