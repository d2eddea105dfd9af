"""A decoder that the library runs: the structs it is described by, and the memory that they point into."""

import ctypes
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.models.config import ModelConfig
from sagellm_engine.models.rope import inverse_frequencies
from sagellm_engine.native.abi import Compute, Layer, Model, Step, WeightKind
from sagellm_engine.native.kv import NativeKv
from sagellm_engine.native.layout import model_parts
from sagellm_engine.native.library import isa, library, num_threads
from sagellm_engine.native.packed_file import PackedFile
from sagellm_engine.native.packing import linear_struct, screen_struct, stored_name

LANES, MAX_GROUP, MAX_HEAD_DIM, MAX_HIDDEN, MAX_INPUTS = 16, 48, 256, 16384, 32768
CACHE_LINE = 64
FAST_INT8 = ("avx512_vnni", "avx512_bf16")
"""Instruction sets with products of bytes."""


def why_unsupported(config: ModelConfig) -> str | None:
    """Return what of a model's shape the kernels cannot do, or None."""
    if config.intermediate_size > MAX_INPUTS:
        return f"feed-forward size {config.intermediate_size} is over {MAX_INPUTS}"
    if config.hidden_size % LANES or config.hidden_size > MAX_HIDDEN:
        return f"hidden size {config.hidden_size} is no multiple of {LANES} up to {MAX_HIDDEN}"
    if config.head_dim % LANES or config.head_dim > MAX_HEAD_DIM:
        return f"head size {config.head_dim} is no multiple of {LANES} up to {MAX_HEAD_DIM}"
    if config.num_heads // config.num_kv_heads > MAX_GROUP:
        return f"more than {MAX_GROUP} query heads share a key head"
    return None


class NativeModel:
    """Runs steps. Owns the packed weights, the KV memory and the scratch memory; one call at a time."""

    def __init__(
        self, config: ModelConfig, kind: WeightKind, compute: Compute, packed: PackedFile, kv: NativeKv
    ) -> None:
        self.kv = kv
        self.weight_kind = kind
        self.seconds: NDArray[np.float64] | None = None
        """By phase, what all steps took; counted while it is there, [len(Phase)]."""
        self._library = library()
        self._config = config
        self._packed = packed
        self._inv_freq = torch.tensor(inverse_frequencies(config.rope, config.head_dim), dtype=torch.float32)
        parts = model_parts(config, kind)
        self._layers = (Layer * config.num_layers)(
            *(
                Layer(
                    **{vector.name.rsplit(".", 1)[1]: packed.address(vector.name) for vector in layer.vectors},
                    qkv=linear_struct(layer.qkv, packed),
                    o=linear_struct(layer.o, packed),
                    gate_up=linear_struct(layer.gate_up, packed),
                    down=linear_struct(layer.down, packed),
                )
                for layer in parts.layers
            )
        )
        self._model = Model(
            hidden=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            compute=compute,
            kv_kind=kv.kind,
            eps=config.rms_norm_eps,
            score_scale=config.head_dim**-0.5,
            num_pages=kv.num_pages,
            inv_freq=self._inv_freq.data_ptr(),
            final_norm=packed.address(parts.norm.name),
            layers=self._layers,
            embedding=linear_struct(parts.embedding, packed),
            lm_head=linear_struct(parts.lm_head, packed),
            screen=screen_struct(parts.screen, packed),
            kv=kv.address,
        )
        self._head_name = stored_name(parts.lm_head, packed)
        self._max_rows = self._max_out = self._threads = 0
        self._scratch: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._scratch_address = self._logits_address = 0
        self._logits_buffer = self._logits = torch.empty(0, config.vocab_size)

    @property
    def screens(self) -> bool:
        """Whether the likeliest token is found sooner than all logits."""
        return self._model.screen.weight.weight is not None and isa() in FAST_INT8

    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights."""
        return self._packed.num_bytes

    @property
    def greedy_bytes(self) -> int:
        """Size of what a step reads of them whose rows want but their likeliest token."""
        return self._packed.num_bytes - self._packed.size(self._head_name) * self.screens

    def forward(self, rows: Sequence[SequenceState], out_rows: Sequence[int]) -> Tensor:
        """Compute the rows, writing their keys and values; return the logits [len(out_rows), vocabulary] of some.

        The next step writes over them. Between two steps all caches are cold, so that little is touched here.
        """
        return self.step(rows, out_rows)[0]

    def step(
        self, rows: Sequence[SequenceState], out_rows: Sequence[int], chosen_rows: Sequence[int] = ()
    ) -> "tuple[Tensor, array[int]]":
        """The same; beside the logits of some rows, the tokens of others, with the largest logit, of which there must
        be a screen: -1 where a logit is not a number or none is finite."""
        step, numbers = _describe(rows, [*out_rows, *chosen_rows], len(chosen_rows))
        if step.num_rows > self._max_rows or step.num_out > self._max_out or num_threads() != self._threads:
            self.reserve(max(step.num_rows, self._max_rows), max(step.num_out, self._max_out))
        if len(self._logits) != len(out_rows):
            self._logits = self._logits_buffer[: len(out_rows)]
        chosen = array("i", bytes(numbers.itemsize * len(chosen_rows)))
        step.logits, (step.chosen, _) = self._logits_address, chosen.buffer_info()
        if self.seconds is not None:
            step.seconds = self.seconds.ctypes.data
        self._library.sage_forward(ctypes.byref(self._model), ctypes.byref(step), self._scratch_address)
        del numbers  # alive until here, for the step points into it
        return self._logits, chosen

    def reserve(self, num_rows: int, num_out: int) -> int:
        """Make room for steps up to a size; return the bytes it takes."""
        needed = self._library.sage_scratch_bytes(ctypes.byref(self._model), num_rows, num_out) + CACHE_LINE
        self._scratch = np.empty(needed, np.uint8)
        address = int(self._scratch.ctypes.data)
        self._scratch_address = address + -address % CACHE_LINE
        self._logits_buffer = self._logits = torch.empty(num_out, self._config.vocab_size)
        self._logits_address = self._logits.data_ptr()
        self._max_rows, self._max_out, self._threads = num_rows, num_out, num_threads()
        return int(needed) + self._logits.nbytes


def _describe(rows: Sequence[SequenceState], out_rows: Sequence[int], num_chosen: int) -> "tuple[Step, array[int]]":
    """Describe a step; the array holds what it points into."""
    numbers = array("i")  # the tokens, then the other parts
    pages: list[int] = []
    first_row, first_page, context = [0], [0], []
    for seq in rows:
        start, stop = seq.num_computed, seq.num_computed + seq.num_scheduled
        numbers.extend(seq.tokens[start:stop])
        pages.extend(seq.pages)
        context.append(start)
        first_row.append(len(numbers))
        first_page.append(len(pages))
    num_tokens, places = len(numbers), [0]
    for part in (first_row, context, first_page, pages, out_rows):
        places.append(numbers.itemsize * len(numbers))
        numbers.extend(part)
    address, _ = numbers.buffer_info()
    return Step(num_tokens, len(rows), len(out_rows), num_chosen, *(address + place for place in places)), numbers
