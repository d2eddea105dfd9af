"""Products with packed weights, on every instruction set: right, and the same for a row whatever comes beside it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sagellm_engine.native.abi import Compute, WeightKind
from sagellm_engine.native.library import library
from sagellm_engine.native.packing import fits_bf12
from sagellm_engine.native.product import PackedWeight
from support.native import ISAS, instruction_set

SHAPES = [(100, 64), (576, 576), (70, 200), (33, 96)]
ROWS = 37


@pytest.fixture(params=ISAS, autouse=True)
def use_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give each instruction set in turn; visibly skip those that this processor lacks."""
    with instruction_set(request.param) as supported:
        if not supported:
            pytest.skip(f"this processor lacks {request.param}")
        yield request.param


def weight_and_rows(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Make a random weight and rows for it."""
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator) * 0.05
    return weight, torch.randn(ROWS, shape[1], generator=generator)


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """Return the size of the difference relative to what is expected."""
    return float((ours.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_floating_weights_are_exact(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Weights are used as they are stored, and sums are those of fp32."""
    weight, rows = weight_and_rows(shape)
    stored = weight.to(dtype)
    kind = {torch.float32: WeightKind.F32, torch.bfloat16: WeightKind.BF16, torch.float16: WeightKind.F16}[dtype]
    assert relative_error(PackedWeight(stored, kind)(rows), rows.double() @ stored.double().T) < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_activations(shape: tuple[int, int], use_isa: str) -> None:
    """Rounded activations give the product of the rounded values; without units for it nothing is rounded."""
    weight, rows = weight_and_rows(shape)
    stored = weight.bfloat16()
    taken = rows.bfloat16() if library().sage_has_bf16() else rows
    expected = taken.double() @ stored.double().T
    assert relative_error(PackedWeight(stored, WeightKind.BF16)(rows, Compute.BF16), expected) < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_is_the_product_of_the_quantized(shape: tuple[int, int]) -> None:
    """One scale per output and per row, whole numbers up to 127: nothing else is lost."""
    weight, rows = weight_and_rows(shape)
    weight_scale = weight.abs().amax(1, keepdim=True) / 127
    row_scale = rows.abs().amax(1, keepdim=True) / 127
    quantized = (weight / weight_scale).round().double(), (rows / row_scale).round().double()
    expected = (quantized[1] @ quantized[0].T) * row_scale.double() * weight_scale.T.double()
    assert relative_error(PackedWeight(weight, WeightKind.INT8)(rows, Compute.INT8), expected) < 1e-3


@pytest.mark.parametrize(("kind", "most"), [(WeightKind.INT8, 0.012), (WeightKind.INT4, 0.09)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_quantization_error(shape: tuple[int, int], kind: WeightKind, most: float) -> None:
    """For normally distributed values the error is that of 8 and of 4 bits."""
    weight, rows = weight_and_rows(shape)
    assert relative_error(PackedWeight(weight, kind)(rows, Compute.INT8), rows.double() @ weight.double().T) < most


def test_twelve_bits_hold_all_of_a_bfloat16(use_isa: str) -> None:
    """Weights of every size come back bit by bit: frequent exponents, rare ones, zeros and denormal numbers."""
    if use_isa == "avx2":
        pytest.skip("AVX2 keeps 16 bits")
    weight = weight_and_rows((70, 576))[0].bfloat16()
    weight[5, 7], weight[40, 300], weight[41, 301], weight[69, 575] = 3e38, -1e-30, 0.0, 2e-40
    assert fits_bf12(weight)
    found = PackedWeight(weight, WeightKind.BF12)(torch.eye(576))
    assert torch.equal(found, weight.float().T)


@pytest.mark.parametrize("rows", [1, 2, 8, 12, 13, 30])
@pytest.mark.parametrize("compute", [Compute.F32, Compute.BF16])
def test_twelve_bits_give_the_product_of_sixteen(rows: int, compute: Compute, use_isa: str) -> None:
    """Those with rare exponents are added last: nothing but the last bit of a sum may differ, and without them none."""
    if use_isa == "avx2":
        pytest.skip("AVX2 keeps 16 bits")
    weight, x = weight_and_rows((200, 1152))
    exact, scattered = weight.bfloat16().clamp(2e-3, 1.0), weight.bfloat16()
    scattered[torch.arange(200), torch.arange(200)] *= 1e-8
    for stored, most in ((exact, 0.0), (scattered, 1e-6)):
        short, long = (PackedWeight(stored, kind)(x[:rows], compute) for kind in (WeightKind.BF12, WeightKind.BF16))
        assert relative_error(short, long.double()) <= most


def test_exponents_that_are_too_many_stay_in_sixteen_bits(use_isa: str) -> None:
    """A weight with numbers of all sizes does not fit, nor does any on an instruction set that cannot unpack it."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(-60, 60, (64, 64), generator=generator)
    spread = torch.randn(64, 64, generator=generator) * torch.exp2(sizes.float())
    assert not fits_bf12(spread.bfloat16())
    assert fits_bf12(torch.randn(64, 64, generator=generator).bfloat16()) == (use_isa != "avx2")


@pytest.mark.parametrize("kind", list(WeightKind))
@pytest.mark.parametrize("compute", list(Compute))
def test_a_row_is_the_same_in_any_company(kind: WeightKind, compute: Compute, use_isa: str) -> None:
    """The bits of a row's result do not depend on how many rows there are, nor on its place among them."""
    if kind is WeightKind.BF12 and use_isa == "avx2":
        pytest.skip("AVX2 keeps 16 bits")
    weight, rows = weight_and_rows((200, 160))
    bfloat16 = (WeightKind.BF16, WeightKind.BF12)
    dtype = torch.bfloat16 if kind in bfloat16 else torch.float16 if kind is WeightKind.F16 else torch.float32
    packed = PackedWeight(weight.to(dtype), kind)
    together = packed(rows, compute)
    for number in (*range(1, 14), 16, 23, 24, 36):
        assert torch.equal(packed(rows[:number], compute), together[:number])
        assert torch.equal(packed(rows[ROWS - number :].contiguous(), compute), together[ROWS - number :])


def test_bias_is_added() -> None:
    """A bias is added to every row."""
    weight, rows = weight_and_rows((70, 64))
    bias = torch.arange(70.0)
    assert torch.allclose(PackedWeight(weight, WeightKind.F32, bias)(rows), rows @ weight.T + bias, atol=1e-4)


@pytest.mark.parametrize("kind", [WeightKind.INT8, WeightKind.INT4])
def test_zero_rows_and_columns(kind: WeightKind) -> None:
    """Where everything is zero the result is zero, not a division by it."""
    weight, rows = weight_and_rows((40, 64))
    weight[3] = 0
    rows[2] = 0
    result = PackedWeight(weight, kind)(rows, Compute.INT8)
    assert torch.isfinite(result).all()
    assert not result[2].any()
    assert not result[:, 3].any()
