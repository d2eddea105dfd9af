"""llama.cpp through its C functions: python llamacpp_peer.py FOLDER f32|q8_0|q4_0 THREADS.

pip install llama-cpp-python gguf   (compiles for ten minutes). A Llama folder is written once as GGUF beside FOLDER;
its heads keep the order of the folder, which changes what it says and nothing about its speed.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray
from session import serve

BATCH = 2048
NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
QUANTIZED = {"q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0}
WEIGHTS = {"f32": "float32", "q8_0": "int8 by 32", "q4_0": "int4 by 32"}


def tensors_of(file: Path) -> dict[str, NDArray[np.float32]]:
    """Read a safetensors file of bfloat16."""
    data = file.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:header_end]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", entry
            begin, end = (header_end + offset for offset in entry["data_offsets"])
            halves = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
            found[name] = halves.view(np.float32).reshape(entry["shape"])
    return found


def write_gguf(source: Path, target: Path) -> None:
    """Write a Llama folder as GGUF in fp32."""
    config = json.loads((source / "config.json").read_text())
    vocab = config["vocab_size"]
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<s>", b"<unk>", b"</s>"] + [f"<t{i}>".encode() for i in range(3, vocab)])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([3, 2, 3] + [1] * (vocab - 3))
    for name, tensor in tensors_of(source / "model.safetensors").items():
        if name not in NAMES:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight", tensor)
        else:
            writer.add_tensor(NAMES[name], tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_file(source: Path, kind: str) -> Path:
    """Convert and quantize once."""
    plain, target = (source.with_name(f"{source.name}-{name}.gguf") for name in ("f32", kind))
    if not plain.exists():
        write_gguf(source, plain)
    if not target.exists():
        params = llama.llama_model_quantize_default_params()
        params.ftype = QUANTIZED[kind]
        assert llama.llama_model_quantize(str(plain).encode(), str(target).encode(), params) == 0
    return target


class Batches:
    """A context for so many sequences, and what is decoded in it."""

    def __init__(self, model: Any, sequences: int, tokens: int, threads: int) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = tokens, BATCH, 512, sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self.context = llama.llama_init_from_model(model, params)
        self._batch = llama.llama_batch_init(BATCH, 0, sequences)

    def decode(self, items: list[tuple[int, int, int, bool]]) -> None:
        """Compute (token, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(items)
        for i, (token, position, sequence, wanted) in enumerate(items):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        assert llama.llama_decode(self.context, batch) == 0

    def likeliest(self, row: int) -> int:
        """Return the token with the largest logit."""
        logits = llama.llama_get_logits_ith(self.context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocab,))))


if __name__ == "__main__":
    folder, kind, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.environ.setdefault("GGML_NUMA", "0")
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    path = model_file(folder, kind)
    began = time.perf_counter()
    loaded = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())

    def generate(ids: list[list[int]], max_tokens: int) -> int:
        batches = Batches(loaded, len(ids), len(ids) * (len(ids[0]) + max_tokens + 8), threads)
        items = [(token, p, s, p == len(prompt) - 1) for s, prompt in enumerate(ids) for p, token in enumerate(prompt)]
        last = [0] * len(ids)
        for at in range(0, len(items), BATCH):
            chunk = items[at : at + BATCH]
            batches.decode(chunk)
            for row, (_, _, sequence, wanted) in enumerate(chunk):
                if wanted:
                    last[sequence] = batches.likeliest(row)
        for step in range(max_tokens - 1):
            batches.decode([(token, len(ids[0]) + step, s, True) for s, token in enumerate(last)])
            last = [batches.likeliest(s) for s in range(len(ids))]
        llama.llama_free(batches.context)
        return len(ids) * max_tokens

    activations = "float32" if kind == "f32" else "int8 by 32"
    facts = {"weights": WEIGHTS[kind], "activations": activations, "kv": "float16"}
    serve(generate, start_s=time.perf_counter() - began, facts=facts)
