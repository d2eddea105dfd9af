"""A checkpoint folder: one safetensors file, or several with an index."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sagellm_common.errors import InvalidArgument, NotFound

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class Checkpoint:
    """Tensors by name. Files are mapped, so that a tensor is read from the disk only when it is copied."""

    def __init__(self, folder: Path) -> None:
        """Open every file of a checkpoint.

        Raises NotFound when there is none, InvalidArgument when a file is damaged or missing.
        """
        self.folder = folder
        self._files: dict[str, Any] = {}
        for path in checkpoint_files(folder):
            file = _open(path)
            self._files.update(dict.fromkeys(file.keys(), file))

    def dtype(self, name: str) -> torch.dtype | None:
        """Return the type of a tensor, None if there is no such tensor."""
        if name not in self._files:
            return None
        kind = self._files[name].get_slice(name).get_dtype()
        return {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}.get(kind)

    def copy_into(self, target: Tensor, name: str) -> None:
        """Copy a tensor, converting its type; raises InvalidArgument if it is missing or has another shape."""
        if name not in self._files:
            raise InvalidArgument(f"the checkpoint in {self.folder} lacks the tensor {name!r}; download it again")
        try:
            tensor = self._files[name].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InvalidArgument(f"tensor {name!r} in {self.folder} cannot be read: {error}") from error
        if tensor.shape != target.shape:
            raise InvalidArgument(
                f"tensor {name!r} in {self.folder} has shape {tuple(tensor.shape)}, but config.json asks for "
                f"{tuple(target.shape)}"
            )
        if not tensor.is_floating_point() or tensor.dtype.itemsize < torch.float16.itemsize:
            raise InvalidArgument(f"tensor {name!r} has type {tensor.dtype}, which needs a quantized layout")
        target.copy_(tensor)


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder; raises NotFound when there are none, InvalidArgument for a broken index."""
    if (folder / INDEX_FILE).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InvalidArgument(f"{folder / INDEX_FILE} is damaged: {error!r}; download the model again") from error
        return [folder / Path(name).name for name in names]
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    hint = "; pickled weights are refused" if any(folder.glob("*.bin")) else ""
    raise NotFound(f"there are no safetensors weights in {folder}{hint}", param="model_path")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise InvalidArgument(f"{path} is missing or damaged ({error}); download the model again") from error
