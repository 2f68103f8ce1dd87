#!/usr/bin/env python3
"""Golden file of the dequant test: random blocks of every GGUF weight type and their fp32 values as
the gguf package (PyPI, the ggml project's own) computes them.

    dequant.py OUT.bin

Layout, little-endian: per type u32 type (order of lk_dtype in base/dtype.h), u32 elements, u32
bytes, the bytes, the fp32 values."""

import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES

TYPES = [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q4_K, Q.Q5_K, Q.Q6_K]
# Where blocks keep their binary16 numbers; the rest is random bytes.
HALVES = {Q.Q8_0: [0], Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2],
          Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}


def random_blocks(rng, qtype, n_blocks):
    elements, n_bytes = GGML_QUANT_SIZES[qtype]
    if qtype == Q.F32:
        return rng.standard_normal(n_blocks).astype(np.float32).view(np.uint8)
    blocks = rng.integers(0, 256, (n_blocks, n_bytes), dtype=np.uint8)
    if elements == 1:
        halves = blocks.view(np.uint16)
        exponent = 0x7C00 if qtype == Q.F16 else 0x7F80
        halves[(halves & exponent) == exponent] = 0x3C01  # finite
    for at in HALVES.get(qtype, []):
        halves = rng.integers(0, 1 << 16, n_blocks, dtype=np.uint16)
        halves[(halves & 0x7C00) == 0x7C00] &= 0x83FF  # infinities become subnormal
        blocks[:, at:at + 2] = halves.reshape(-1, 1).view(np.uint8)
    return blocks.reshape(-1)


def main():
    rng = np.random.default_rng(20251)
    with open(sys.argv[1], "wb") as out:
        for index, qtype in enumerate(TYPES):
            elements, _ = GGML_QUANT_SIZES[qtype]
            raw = random_blocks(rng, qtype, 1024 // elements)
            values = np.ascontiguousarray(quants.dequantize(raw, qtype), dtype=np.float32)
            assert values.size == 1024 and np.isfinite(values).all(), qtype
            out.write(struct.pack("<III", index, values.size, raw.size))
            out.write(raw.tobytes())
            out.write(values.reshape(-1).astype("<f4").tobytes())


if __name__ == "__main__":
    main()
