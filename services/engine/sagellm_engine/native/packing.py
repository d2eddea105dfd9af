"""Packs a checkpoint's weights once and keeps them on the disk, under the checkpoint's hash and the instruction set."""

import ctypes
import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from sagellm_engine.models.config import ModelConfig
from sagellm_engine.native.abi import Linear, Screen, WeightKind
from sagellm_engine.native.build import source_hash
from sagellm_engine.native.key_scaling import even_keys
from sagellm_engine.native.layout import LayerParts, LinearPart, VectorPart, model_parts
from sagellm_engine.native.library import library
from sagellm_engine.native.packed_file import PackedFile, in_memory, open_packed, write_packed
from sagellm_engine.native.paths import cache_folder
from sagellm_engine.native.smoothing import LayerTensors, smooth
from sagellm_engine.weights.checkpoint import Checkpoint
from sagellm_engine.weights.fingerprint import checkpoint_fingerprint

KINDS = {torch.float32: WeightKind.F32, torch.bfloat16: WeightKind.BF16, torch.float16: WeightKind.F16}
QUANTIZED = (WeightKind.INT8, WeightKind.INT4)
BF12 = ".bf12"
"""Ends the names of bfloat16 weights that are kept in 12 bits each (csrc/bf12.h)."""

SCREEN_VECTORS = (".scale", ".sums", ".misses", ".lengths")
VECTOR_ROOM = 64
"""Vectors end with zeros up to a multiple of so many elements, so that kernels may read whole registers."""


def packed_model(folder: Path, config: ModelConfig, kind: WeightKind) -> PackedFile:
    """Return the packed weights of a model folder, made now if they are not on the disk yet.

    Raises what `Checkpoint` raises. Where nothing can be written, they are made in this process's own memory.
    """
    try:
        path = _cache_file(folder, config, kind)
        return _open_cached(path) or _pack_once(path, folder, config, kind)
    except OSError:  # no cache, no right to write there, or a full disk
        return in_memory(*_recipe(folder, config, kind))


def stored_kind(folder: Path, config: ModelConfig) -> WeightKind:
    """Return how to keep a checkpoint's weights as they are: by the tensors, whatever config.json says of them.

    Where they differ in type, fp32 holds them all. Raises what `Checkpoint` raises.
    """
    checkpoint, parts = Checkpoint(folder), model_parts(config, WeightKind.F32)
    found = {checkpoint.dtype(name + ".weight") for part in parts.linears() for name, _ in part.tensors}
    dtype = found.pop()
    return KINDS[dtype] if not found and dtype in KINDS else WeightKind.F32


def _pack_once(path: Path, folder: Path, config: ModelConfig, kind: WeightKind) -> PackedFile:
    with _locked(path):
        if _open_cached(path) is None:  # nobody else has made it meanwhile
            write_packed(path, *_recipe(folder, config, kind))
            _remove_older(path)
        return open_packed(path)


def _cache_file(folder: Path, config: ModelConfig, kind: WeightKind) -> Path:
    cache = cache_folder("packed")
    model = hashlib.sha256((checkpoint_fingerprint(folder, cache) + repr(config)).encode()).hexdigest()[:20]
    return cache / f"{model}-{kind.name.lower()}-{library().sage_panel_width()}-{_code_hash()}.pack"


def _code_hash() -> str:
    """Return what identifies the code that decides on the bytes of a packed model."""
    here = Path(__file__).parent
    code = b"".join(
        (here / name).read_bytes() for name in ("packing.py", "layout.py", "smoothing.py", "key_scaling.py")
    )
    return hashlib.sha256(source_hash().encode() + code).hexdigest()[:16]


def _remove_older(path: Path) -> None:
    """Remove what earlier versions of the kernels packed of the same weights."""
    stem = path.name.rsplit("-", 1)[0]
    for other in path.parent.glob(f"{stem}-*.pack*"):
        if not other.name.startswith(path.stem):
            other.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes of this host from packing the same weights at the same time."""
    with path.with_suffix(".pack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _open_cached(path: Path) -> PackedFile | None:
    try:
        return open_packed(path) if path.is_file() else None
    except (ValueError, OSError):
        return None


class _Recipe:
    """Fills the parts of one model from its checkpoint."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, kind: WeightKind) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._parts = model_parts(config, kind)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every part."""
        sizes: dict[str, int] = {}
        short = {part.name for part, weight in self._weights() if fits_bf12(weight, interleaved=part.interleaved)}
        for part in self._parts.linears():
            outputs, is_short = padded_outputs(part.num_out), part.name in short
            kind = WeightKind.BF12 if is_short else part.kind
            shape = Linear(kind=kind, num_in=part.num_in, num_out=part.num_out)
            sizes[part.name + BF12 * is_short] = library().sage_packed_bytes(ctypes.byref(shape))
            if part.kind is WeightKind.INT8:
                sizes[part.name + ".scale"] = sizes[part.name + ".sums"] = outputs * 4
            if part.bias:
                sizes[part.name + ".bias"] = outputs * 4
        if (screen := self._parts.screen) is not None:
            shape = Linear(kind=screen.kind, num_in=screen.num_in, num_out=screen.num_out)
            sizes[screen.name] = library().sage_packed_bytes(ctypes.byref(shape))
            sizes |= {screen.name + suffix: padded_outputs(screen.num_out) * 4 for suffix in SCREEN_VECTORS}
        for vector in self._parts.vectors():
            sizes[vector.name] = -(-vector.size // VECTOR_ROOM) * VECTOR_ROOM * 4
        return sizes

    def fill(self, packed: PackedFile) -> None:
        """Write every part."""
        parts = self._parts
        self._fill_linear(parts.embedding, packed)
        if parts.lm_head is not parts.embedding:
            self._fill_linear(parts.lm_head, packed)
        if parts.screen is not None:
            weight = self._weight(parts.screen, self._dtype(parts.screen))
            target = screen_struct(parts.screen, packed)
            library().sage_pack_screen(ctypes.byref(target), weight.data_ptr(), KINDS[weight.dtype])
        _write(packed, parts.norm.name, self._vector(parts.norm))
        for layer in parts.layers:
            self._fill_layer(layer, packed)

    def _weights(self) -> Iterator[tuple[LinearPart, Tensor]]:
        """Give the weights that may be kept in 12 bits, as they are packed."""
        parts = self._parts
        if parts.embedding.kind is not WeightKind.BF16:
            return
        outer = (parts.embedding,) if parts.lm_head is parts.embedding else (parts.embedding, parts.lm_head)
        yield from ((part, self._weight(part, self._dtype(part))) for part in outer)
        for layer in parts.layers:
            yield from zip(layer.linears(), self._layer(layer)[0], strict=True)

    def _fill_layer(self, layer: LayerParts, packed: PackedFile) -> None:
        weights, biases, vectors = self._layer(layer)
        for part, weight, bias in zip(layer.linears(), weights, biases, strict=True):
            _pack(part, weight, bias, packed)
        for name, values in vectors.items():
            _write(packed, name, values)

    def _layer(self, layer: LayerParts) -> tuple[list[Tensor], list[Tensor | None], dict[str, Tensor]]:
        """Return a layer's tensors, changed for the better where that leaves what the layer computes the same."""
        parts = layer.linears()
        vectors = {vector.name: self._vector(vector) for vector in layer.vectors}
        quantized = layer.qkv.kind in QUANTIZED
        weights = [self._weight(part, torch.float32 if quantized else self._dtype(part)) for part in parts]
        biases = [self._bias(part) for part in parts]
        input_gain, post_gain, *qk_gains = vectors.values()
        even_keys(weights[0], biases[0], input_gain, qk_gains, self._config)
        if quantized:
            qkv, o, gate_up, down = weights
            tensors = LayerTensors(qkv, o, gate_up, down, qkv_bias=biases[0], gate_up_bias=biases[2])
            smooth(tensors, input_gain, post_gain, self._config)
        return weights, biases, vectors

    def _fill_linear(self, part: LinearPart, packed: PackedFile) -> None:
        _pack(part, self._weight(part, self._dtype(part)), self._bias(part), packed)

    def _dtype(self, part: LinearPart) -> torch.dtype:
        dtype = self._checkpoint.dtype(part.tensors[0][0] + ".weight")
        return dtype if dtype in KINDS else torch.float32

    def _vector(self, part: VectorPart) -> Tensor:
        target = torch.empty(part.size)
        self._checkpoint.copy_into(target, part.tensor)
        return target

    def _weight(self, part: LinearPart, dtype: torch.dtype) -> Tensor:
        return self._gather(torch.empty(part.num_out, part.num_in, dtype=dtype), part, ".weight")

    def _bias(self, part: LinearPart) -> Tensor | None:
        return self._gather(torch.empty(part.num_out), part, ".bias") if part.bias else None

    def _gather(self, target: Tensor, part: LinearPart, suffix: str) -> Tensor:
        start = 0
        for name, rows in part.tensors:
            self._checkpoint.copy_into(target[start : start + rows], name + suffix)
            start += rows
        return target


def fits_bf12(weight: Tensor, *, interleaved: bool = False) -> bool:
    """Return whether a weight [out, in] can be kept in 12 bits: it is bfloat16, of few exponents, and the instruction
    set in use can unpack it."""
    shape = Linear(num_in=weight.shape[1], num_out=weight.shape[0])
    is_bfloat16 = weight.dtype is torch.bfloat16
    return is_bfloat16 and bool(library().sage_fits_bf12(ctypes.byref(shape), weight.data_ptr(), interleaved))


def _pack(part: LinearPart, weight: Tensor, bias: Tensor | None, packed: PackedFile) -> None:
    target = linear_struct(part, packed)
    library().sage_pack(ctypes.byref(target), weight.data_ptr(), KINDS[weight.dtype], part.interleaved)
    if bias is not None:
        _write(packed, part.name + ".bias", interleave(bias) if part.interleaved else bias)


def _recipe(
    folder: Path, config: ModelConfig, kind: WeightKind
) -> tuple[Mapping[str, int], Callable[[PackedFile], None]]:
    recipe = _Recipe(Checkpoint(folder), config, kind)
    return recipe.sizes(), recipe.fill


def padded_outputs(num_out: int) -> int:
    """Return the outputs of a packed weight, padding included."""
    width: int = library().sage_panel_width()
    return -(-num_out // width) * width


def interleave(bias: Tensor) -> Tensor:
    """Order the bias [2 · n] of gate and up as their packed outputs are: a register of each in turn, zeros behind."""
    lanes = library().sage_panel_width() // 2
    half = len(bias) // 2
    padded = torch.zeros(2, -(-half // lanes) * lanes)
    padded[:, :half] = bias.view(2, half)
    return padded.view(2, -1, lanes).transpose(0, 1).reshape(-1)


def linear_struct(part: LinearPart, packed: PackedFile) -> Linear:
    """Describe a packed weight to the library."""

    def optional(suffix: str) -> int | None:
        name = part.name + suffix
        return packed.address(name) if name in packed else None

    name = stored_name(part, packed)
    return Linear(
        kind=part.kind if name == part.name else WeightKind.BF12,
        num_in=part.num_in,
        num_out=part.num_out,
        weight=packed.address(name),
        scale=optional(".scale"),
        sums=optional(".sums"),
        bias=optional(".bias"),
    )


def stored_name(part: LinearPart, packed: PackedFile) -> str:
    """Return under which name a weight lies in the file."""
    return part.name + BF12 * (part.name + BF12 in packed)


def screen_struct(part: LinearPart | None, packed: PackedFile) -> Screen:
    """Describe the copy of the output layer, if there is one, to the library."""
    if part is None:
        return Screen()
    misses, lengths = (packed.address(part.name + suffix) for suffix in (".misses", ".lengths"))
    return Screen(weight=linear_struct(part, packed), misses=misses, lengths=lengths)


def _write(packed: PackedFile, name: str, values: Tensor) -> None:
    ctypes.memmove(packed.address(name), values.contiguous().data_ptr(), values.numel() * values.itemsize)
