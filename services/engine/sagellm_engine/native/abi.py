"""The structs of csrc/abi.h, field by field."""

import ctypes
from enum import IntEnum

POINTER = ctypes.c_void_p
INT32 = ctypes.c_int32


class WeightKind(IntEnum):
    """How a weight is stored."""

    F32 = 0
    BF16 = 1
    F16 = 2
    INT8 = 3
    INT4 = 4
    BF12 = 5


class Compute(IntEnum):
    """How activations enter a product."""

    F32 = 0
    BF16 = 1
    INT8 = 2


class KvKind(IntEnum):
    """How keys and values are stored."""

    F32 = 0
    BF16 = 1
    INT8 = 2


class Phase(IntEnum):
    """Parts of a step, as its time is told."""

    EMBED = 0
    NORM = 1
    QKV = 2
    ROTARY = 3
    ATTENTION = 4
    O = 5  # noqa: E741
    GATE_UP = 6
    FORM = 7
    DOWN = 8
    LM_HEAD = 9


class Linear(ctypes.Structure):
    """`SageLinear`: a packed weight."""

    _fields_ = [
        ("kind", INT32),
        ("num_in", INT32),
        ("num_out", INT32),
        ("reserved", INT32),
        ("weight", POINTER),
        ("scale", POINTER),
        ("sums", POINTER),
        ("bias", POINTER),
    ]


class Screen(ctypes.Structure):
    """`SageScreen`."""

    _fields_ = [
        ("weight", Linear),
        ("misses", POINTER),
        ("lengths", POINTER),
    ]


class Layer(ctypes.Structure):
    """`SageLayer`."""

    _fields_ = [
        ("input_norm", POINTER),
        ("post_norm", POINTER),
        ("q_norm", POINTER),
        ("k_norm", POINTER),
        ("sinks", POINTER),
        ("qkv", Linear),
        ("o", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("window", INT32),
        ("reserved", INT32),
    ]


class Model(ctypes.Structure):
    """`SageModel`."""

    _fields_ = [
        ("hidden", INT32),
        ("num_layers", INT32),
        ("num_heads", INT32),
        ("num_kv_heads", INT32),
        ("head_dim", INT32),
        ("vocab", INT32),
        ("compute", INT32),
        ("kv_kind", INT32),
        ("eps", ctypes.c_float),
        ("score_scale", ctypes.c_float),
        ("score_cap", ctypes.c_float),
        ("num_pages", ctypes.c_int64),
        ("inv_freq", POINTER),
        ("final_norm", POINTER),
        ("layers", ctypes.POINTER(Layer)),
        ("embedding", Linear),
        ("lm_head", Linear),
        ("screen", Screen),
        ("kv", POINTER),
    ]


class Step(ctypes.Structure):
    """`SageStep`."""

    _fields_ = [
        ("num_rows", INT32),
        ("num_seqs", INT32),
        ("num_out", INT32),
        ("num_chosen", INT32),
        ("tokens", POINTER),
        ("first_row", POINTER),
        ("context", POINTER),
        ("first_page", POINTER),
        ("pages", POINTER),
        ("out_rows", POINTER),
        ("logits", POINTER),
        ("chosen", POINTER),
        ("seconds", POINTER),
    ]


MAX_LOGPROBS = 20


class Sampling(ctypes.Structure):
    """`SageSampling`."""

    _fields_ = [
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("repetition", ctypes.c_float),
        ("presence", ctypes.c_float),
        ("frequency", ctypes.c_float),
        ("top_k", INT32),
        ("num_logprobs", INT32),
        ("seed", ctypes.c_uint64),
        ("position", ctypes.c_uint32),
        ("stream", ctypes.c_uint32),
        ("tokens", POINTER),
        ("num_tokens", INT32),
        ("num_prompt", INT32),
        ("bias_ids", POINTER),
        ("bias", POINTER),
        ("num_bias", INT32),
        ("reserved", INT32),
        ("allowed", POINTER),
    ]


class Sampled(ctypes.Structure):
    """`SageSampled`."""

    _fields_ = [
        ("token", INT32),
        ("num_top", INT32),
        ("logprob", ctypes.c_float),
        ("top_logprobs", ctypes.c_float * MAX_LOGPROBS),
        ("top", INT32 * MAX_LOGPROBS),
    ]


SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "sage_isa": (ctypes.c_char_p, []),
    "sage_set_isa": (INT32, [ctypes.c_char_p]),
    "sage_panel_width": (INT32, []),
    "sage_has_bf16": (INT32, []),
    "sage_set_threads": (INT32, [INT32, POINTER, INT32]),
    "sage_packed_bytes": (ctypes.c_int64, [ctypes.POINTER(Linear)]),
    "sage_fits_bf12": (INT32, [ctypes.POINTER(Linear), POINTER, INT32]),
    "sage_pack": (INT32, [ctypes.POINTER(Linear), POINTER, INT32, INT32]),
    "sage_pack_screen": (INT32, [ctypes.POINTER(Screen), POINTER, INT32]),
    "sage_linear": (INT32, [ctypes.POINTER(Linear), INT32, INT32, POINTER, POINTER, POINTER]),
    "sage_sample": (INT32, [ctypes.POINTER(Sampling), INT32, POINTER, INT32, ctypes.POINTER(Sampled)]),
    "sage_philox": (None, [POINTER, POINTER, POINTER]),
    "sage_scratch_bytes": (ctypes.c_int64, [ctypes.POINTER(Model), INT32, INT32]),
    "sage_forward": (INT32, [ctypes.POINTER(Model), ctypes.POINTER(Step), POINTER]),
}
"""Result and argument types of every function."""
