"""Names of dtypes for messages, and the dtype that the kernels compute a dtype in."""

from __future__ import annotations

import torch

# The scalar types of C++, by which PyTorch's messages about attention call dtypes.
_CPP_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "c10::Half",
    torch.bfloat16: "c10::BFloat16",
    torch.bool: "bool",
    torch.uint8: "unsigned char",
    torch.int8: "signed char",
    torch.int16: "short int",
    torch.int32: "int",
    torch.int64: "long int",
    torch.complex64: "c10::complex<float>",
    torch.complex128: "c10::complex<double>",
}
_SCALAR_TYPES = {torch.float32: "Float", torch.float64: "Double", torch.float16: "Half"}


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def cpp_type_name(dtype: torch.dtype) -> str:
    """The C++ type of a dtype: `float` for `torch.float32`, `c10::Half` for `torch.float16`."""
    return _CPP_TYPES.get(dtype, str(dtype))


def scalar_type_name(dtype: torch.dtype) -> str:
    """The c10::ScalarType of a dtype: `Float`, `BFloat16`, `Long`; PyTorch's messages about matrix
    products use it."""
    return _SCALAR_TYPES.get(dtype) or torch.empty(0, dtype=dtype).type().rpartition(".")[2][:-6]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the kernels compute what comes in a floating dtype: float32, but float64
    for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
