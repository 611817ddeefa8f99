"""The pointwise maths of the cells in Triton: what lstm.h, gru.h and rnn.h are for the C++ kernels.

Everything is float32. `lstm`, `gru` and `rnn` take pre-activations and return what a step makes of
them; their counterparts take activated gates and the gradients of the step's results and return
the gradients of the pre-activations. Equations: `seqkern.recurrent.reference`.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The kernels' `CELL`.
LSTM = tl.constexpr(0)
GRU = tl.constexpr(1)
RNN_TANH = tl.constexpr(2)
RNN_RELU = tl.constexpr(3)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Within 4 units in the last place; near zero, where 1 - 2 / (e^2x + 1) would cancel, by a
    polynomial in x^2 fitted for the least relative error. (libdevice has a tanh, which Triton's
    interpreter cannot run.)"""
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    z = x * x
    p = -0.006282463204115629 * z + 0.021077750250697136
    p = p * z - 0.05385385453701019
    p = p * z + 0.13332602381706238
    p = p * z - 0.33333319425582886
    return tl.where(size < 0.55, x + x * z * p, tl.where(x < 0, -far, far))


@triton.jit
def lstm(i, f, g, o, c):
    """Returns the activated i, f, g, o, then c_t and o * tanh(c_t)."""
    i = sigmoid(i)
    f = sigmoid(f)
    g = tanh(g)
    o = sigmoid(o)
    c = f * c + i * g
    return i, f, g, o, c, o * tanh(c)


@triton.jit
def lstm_backward(i, f, g, o, c, c_prev, dh, dc):
    """Returns the gradients of i, f, g, o before their activation, then that of c_{t-1}."""
    tanh_c = tanh(c)
    dc += dh * o * (1.0 - tanh_c * tanh_c)
    di = dc * g * i * (1.0 - i)
    df = dc * c_prev * f * (1.0 - f)
    dg = dc * i * (1.0 - g * g)
    do = dh * tanh_c * o * (1.0 - o)
    return di, df, dg, do, dc * f


@triton.jit
def gru(r, z, n, q, h):
    """q = R_n h + b_hn. Returns the activated r, z, n, then h_t."""
    r = sigmoid(r)
    z = sigmoid(z)
    n = tanh(n + r * q)
    return r, z, n, n + z * (h - n)


@triton.jit
def gru_backward(r, z, n, q, h, dh):
    """Returns the gradients of n (the input's part), r, z and q, then the part of h_{t-1}'s that
    bypasses the recurrent product."""
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dz = dh * (h - n) * z * (1.0 - z)
    dr = dn * q * r * (1.0 - r)
    return dn, dr, dz, dn * r, dh * z


@triton.jit
def rnn(a, CELL: tl.constexpr):
    # Written so that NaN stays NaN.
    return tanh(a) if CELL == RNN_TANH else tl.where(a < 0.0, 0.0, a)


@triton.jit
def rnn_backward(h, dh, CELL: tl.constexpr):
    return dh * (1.0 - h * h) if CELL == RNN_TANH else tl.where(h <= 0.0, 0.0, dh)
