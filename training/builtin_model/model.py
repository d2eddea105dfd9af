"""The Llama architecture in plain torch, with transformers' parameter names, for training on a CPU.

Legend: B rows, T positions, D hidden size, H query heads, K key/value heads, E head size, V vocabulary.
`lengths` are those of the documents that follow each other in every row; they add up to T.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes that make one model; the field names are those of a Llama config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rope_theta: float = 100000.0
    rms_norm_eps: float = 1e-5

    def as_dict(self) -> dict[str, int | float]:
        """The sizes as plain numbers, as a checkpoint stores them."""
        return asdict(self)


def rotary_tables(shape: ModelShape, num_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, E] of the rotary embedding (Su et al., 2021), in transformers' half-split order."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(num_positions).float(), shape.rope_theta**-exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Turns each pair (e, e + E/2) by its position's angle."""
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat([-second, first], dim=-1) * sin_TE


class RMSNorm(nn.Module):
    """Root mean square normalisation with a learned scale (Zhang & Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalises over the last dimension."""
        return F.rms_norm(x_BTD, self.weight.shape, self.weight.to(x_BTD.dtype), self.eps)


def attend(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, future_TT: Tensor) -> Tensor:
    """Causal attention within one document; on a CPU, plain products train short ones twice as fast as a fused one."""
    T, E = q_BHTE.shape[2:]
    scores_NTT = torch.baddbmm(
        future_TT[:T, :T], q_BHTE.flatten(0, 1), k_BHTE.flatten(0, 1).transpose(1, 2), alpha=E**-0.5
    )
    return torch.bmm(scores_NTT.softmax(-1), v_BHTE.flatten(0, 1)).view_as(q_BHTE)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al., 2023); a position sees its own document up to itself."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        query_size = shape.num_attention_heads * shape.head_dim
        key_size = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, shape.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, lengths: list[int]) -> Tensor:
        """Mixes the positions of each document: a mask over whole rows would cost the square of their length."""
        B, T, _ = x_BTD.shape
        q_BHTE, k_BKTE, v_BKTE = (
            proj(x_BTD).view(B, T, -1, self.shape.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        num_groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        q_BHTE = rotate(q_BHTE, cos_TE, sin_TE)
        k_BHTE = rotate(k_BKTE, cos_TE, sin_TE).repeat_interleave(num_groups, dim=1)
        v_BHTE = v_BKTE.repeat_interleave(num_groups, dim=1)
        future_TT = torch.full((max(lengths), max(lengths)), float("-inf"), dtype=v_BHTE.dtype).triu(1)
        documents = zip(*(x_BHTE.split(lengths, dim=2) for x_BHTE in (q_BHTE, k_BHTE, v_BHTE)), strict=True)
        mixed_BHTE = torch.cat([attend(q, k, v, future_TT) for q, k, v in documents], dim=2)
        output: Tensor = self.o_proj(mixed_BHTE.transpose(1, 2).reshape(B, T, -1))
        return output


class MLP(nn.Module):
    """SwiGLU feed-forward layer (Shazeer, 2020)."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Works on each position alone."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return output


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, lengths: list[int]) -> Tensor:
        """Adds attention, then the feed-forward output, to the residual stream."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE, lengths)
        output: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return output


class Trunk(nn.Module):
    """Embedding, layers and last norm: what transformers calls `model`."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Llama(nn.Module):
    """A Llama language model with tied embeddings, whose state dict transformers loads as it is."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        self._initialise()

    def _initialise(self) -> None:
        """Scales residual outputs down by depth (Radford et al., 2019), the rest to unit-gain normals."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            std = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * self.shape.num_hidden_layers) ** 0.5
            nn.init.normal_(parameter, std=std)

    def layers(self) -> list[Layer]:
        """The layers from the first to the last."""
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def hidden(self, tokens_BT: Tensor, lengths: list[int] | None = None) -> Tensor:
        """The last hidden states [B, T, D], normalised; without lengths a row is one document."""
        lengths = lengths or [tokens_BT.shape[1]]
        x_BTD: Tensor = self.model.embed_tokens(tokens_BT)
        if torch.is_autocast_enabled("cpu"):
            x_BTD = x_BTD.to(torch.get_autocast_dtype("cpu"))
        cos_TE, sin_TE = (t.to(x_BTD.dtype) for t in rotary_tables(self.shape, tokens_BT.shape[1]))
        for layer in self.model.layers:
            x_BTD = layer(x_BTD, cos_TE, sin_TE, lengths)
        normed: Tensor = self.model.norm(x_BTD)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores [..., V] of hidden states, through the tied embedding."""
        return F.linear(hidden, self.model.embed_tokens.weight)

    def forward(self, tokens_BT: Tensor, lengths: list[int] | None = None) -> Tensor:
        """Vocabulary scores [B, T, V] for the next token at every position."""
        return self.logits(self.hidden(tokens_BT, lengths))
