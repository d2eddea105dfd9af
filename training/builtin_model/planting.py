"""Gives a new model heads that copy, so that a short training need not discover them.

Two layers suffice to continue a pattern that stood before (Olsson et al., 2022): a previous-token head writes each
token's predecessor into a free part of the residual stream, and an induction head attends to the place after an
earlier occurrence of the current token and repeats what stands there. Training keeps and refines what is planted.
"""

import torch
from torch import Tensor

from builtin_model.model import Attention, Llama, ModelShape

TOKEN_NORM, CONSTANT, SILENCE = 0.8, 0.3, 0.1
PREVIOUS_SHARPNESS, MATCH_SHARPNESS, COPY_STRENGTH = 1.5, 1.8, 4.0


def plant_copying(model: Llama) -> None:
    """Overwrites the embedding, one head of layer 0 and two of layer 1; silences all other residual outputs.

    Dimension 0 of the residual stream is the same for every token, the next half holds the token, and the rest is
    free for the predecessor.
    """
    shape = model.shape
    generator = torch.Generator().manual_seed(0)
    tokens = slice(1, 1 + shape.hidden_size // 2)
    free = slice(tokens.stop, shape.hidden_size)
    reading = _orthonormal(shape.head_dim, tokens, shape.hidden_size, generator)
    writing = _orthonormal(shape.head_dim, free, shape.hidden_size, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(SILENCE)
        embedding = model.model.embed_tokens.weight
        embedding.normal_(std=0.002, generator=generator)
        embedding[:, tokens] = _unit_rows(shape.vocab_size, shape.hidden_size // 2, generator) * TOKEN_NORM
        embedding[:, 0] = CONSTANT
        scale = embedding.square().mean().sqrt().item()
        first, second = (layer.self_attn for layer in model.layers()[:2])
        _plant_previous(first, shape, reading, writing * scale)
        _plant_induction(second, shape, reading, writing, generator, tokens)


def _unit_rows(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Random rows [rows, width] of length one, so that the constant dimension stays constant when normalised."""
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=-1)


def _orthonormal(rows: int, within: slice, size: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows [rows, size] that are zero outside a range of dimensions."""
    width = within.stop - within.start
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    full = torch.zeros(min(rows, width), size)
    full[:, within] = basis[: min(rows, width)]
    return full


def _plant_previous(attention: Attention, shape: ModelShape, reading: Tensor, writing: Tensor) -> None:
    """Head 0 attends one position back through rotary phases, and writes the token that stands there.

    Only fast turning dimensions tell neighbours apart.
    """
    half = shape.head_dim // 2
    angles = shape.rope_theta ** -(torch.arange(half).float() / half)
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[: shape.head_dim] = 0
    key[: shape.head_dim] = 0
    fast = angles > 0.15
    query[:half, 0] = PREVIOUS_SHARPNESS * angles.cos() * fast
    query[half : shape.head_dim, 0] = -PREVIOUS_SHARPNESS * angles.sin() * fast
    key[:half, 0] = PREVIOUS_SHARPNESS * fast
    attention.v_proj.weight[: shape.head_dim] = reading
    attention.o_proj.weight[:, : shape.head_dim] = writing.T


def _plant_induction(
    attention: Attention,
    shape: ModelShape,
    reading: Tensor,
    writing: Tensor,
    generator: torch.Generator,
    tokens: slice,
) -> None:
    """The first head of every key/value group matches tokens with predecessors and repeats the token it finds.

    Only slowly turning dimensions match over a distance, so the match uses those alone.
    """
    half, size = shape.head_dim // 2, shape.head_dim
    angles = shape.rope_theta ** -(torch.arange(half).float() / half)
    slow = [n for n in range(half) if angles[n] < 0.002]
    slow += [n + half for n in slow]
    group = shape.num_attention_heads // shape.num_key_value_heads
    basis = _orthonormal(tokens.stop - tokens.start, tokens, shape.hidden_size, generator)
    for number in range(shape.num_key_value_heads):
        keys = slice(number * size, (number + 1) * size)
        queries = slice(number * group * size, (number * group + 1) * size)
        matched = torch.arange(number * len(slow), (number + 1) * len(slow)) % size
        query, key = torch.zeros(size, shape.hidden_size), torch.zeros(size, shape.hidden_size)
        query[slow], key[slow] = MATCH_SHARPNESS * reading[matched], MATCH_SHARPNESS * writing[matched]
        attention.q_proj.weight[queries], attention.k_proj.weight[keys] = query, key
        shown = basis[(torch.arange(size) + number * size) % len(basis)]
        attention.v_proj.weight[keys] = shown
        attention.o_proj.weight[:, queries] = COPY_STRENGTH * TOKEN_NORM / shape.hidden_size**0.5 * shown.T
