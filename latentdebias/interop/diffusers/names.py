"""Renaming of parameters between our DiT and `diffusers.DiTTransformer2DModel`, in both directions.

In diffusers every block has time and class embeddings of its own, all with the same weights, and attention has three
projections (q, k, v) where DiT has one. diffusers computes the position embedding, and does not store it.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from latentdebias.errors import UserError

# Ours -> theirs; "*" stands for the number of a block.
NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "blocks.*.attn.proj": "transformer_blocks.*.attn1.to_out.0",
    "blocks.*.mlp.fc1": "transformer_blocks.*.ff.net.0.proj",
    "blocks.*.mlp.fc2": "transformer_blocks.*.ff.net.2",
    "blocks.*.adaLN_modulation.1": "transformer_blocks.*.norm1.linear",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
QKV = "blocks.*.attn.qkv", [f"transformer_blocks.*.attn1.to_{part}" for part in "qkv"]
# Ours -> theirs below `transformer_blocks.*.norm1.emb`, once a block.
EMBEDDINGS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
EMBEDDER = "transformer_blocks.*.norm1.emb"
POSITIONS = "pos_embed"
# A buffer that older versions of diffusers stored.
THEIR_POSITIONS = "pos_embed.pos_embed"


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of our DiT under diffusers' names, without `pos_embed`, which diffusers computes."""
    depth = _depth(weights, "blocks")
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name == POSITIONS:
            continue
        (layer, kind), block = name.rsplit(".", 1), _block(name)
        starred = _starred(layer)
        if starred == QKV[0]:
            for theirs, part in zip(QKV[1], weight.chunk(3), strict=True):
                found[f"{_numbered(theirs, block)}.{kind}"] = part.contiguous()
        elif starred in EMBEDDINGS:
            for n in range(depth):
                found[f"{_numbered(EMBEDDER, n)}.{EMBEDDINGS[starred]}.{kind}"] = weight.clone()
        else:
            found[f"{_numbered(NAMES[starred], block)}.{kind}"] = weight
    return found


def from_diffusers(weights: Mapping[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
    """The weights of diffusers' DiT under our names, with `positions` (1, N, D) as the position embedding.

    A name without a counterpart is kept as it is. Raises `UserError` where the embeddings of two blocks differ.
    """
    ours_of = {theirs: ours for ours, theirs in NAMES.items()}
    embedding_of = {theirs: ours for ours, theirs in EMBEDDINGS.items()}
    found, parts = {POSITIONS: positions}, {}
    for name, weight in weights.items():
        if name == THEIR_POSITIONS:
            continue
        (layer, kind), block = name.rsplit(".", 1), _block(name)
        starred = _starred(layer)
        inner = starred.removeprefix(f"{EMBEDDER}.")
        if starred in QKV[1]:
            parts[f"{_numbered(QKV[0], block)}.{kind}", QKV[1].index(starred)] = weight
        elif inner in embedding_of:
            ours = f"{embedding_of[inner]}.{kind}"
            _check_same(found.setdefault(ours, weight), weight, name)
        else:
            found[f"{_numbered(ours_of.get(starred, layer), block)}.{kind}"] = weight
    for key in {key for key, _ in parts}:
        found[key] = torch.cat([parts[key, index] for index in range(3) if (key, index) in parts])
    return found


def _check_same(first: Tensor, weight: Tensor, name: str) -> None:
    if not torch.equal(first, weight):
        raise UserError(
            f"{name} differs from that of another block; DiT has one embedding for all blocks. Copies of it that were "
            f"trained apart in diffusers make another network, which cannot be imported."
        )


def _depth(weights: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max(_block(name) for name in weights if name.startswith(f"{blocks}."))


def _block(name: str) -> int:
    """The number of the block that the parameter `name` belongs to; -1 for a parameter outside the blocks."""
    match = re.match(r"(?:transformer_)?blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _starred(layer: str) -> str:
    return re.sub(r"^((?:transformer_)?blocks)\.\d+\.", r"\1.*.", layer)


def _numbered(layer: str, block: int) -> str:
    return layer.replace("*", str(block), 1)
