#!/usr/bin/env python3
"""Decode attention of PyTorch on a GPU: cuDNN's fused kernel and PyTorch's flash attention, dense.

bench/rivals/cuda_attention.py [--heads 32,8,128] [--shapes 64x32768,8x32768,...] [--json FILE]

One query token a sequence, bfloat16, keys and values [B][Hk][T][D] contiguous. Launches are
captured in a CUDA graph that goes round several caches (more than the second-level cache holds);
the median over replays is divided by the launches. The same shapes as `test_cuda_decode --bench`,
to be run on the same machine right after it.
"""
import argparse
import json
import os
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def measure(backend, n_sequences, n_tokens, heads):
    n_heads, n_kv_heads, head_dim = heads
    n_bytes = n_sequences * n_tokens * n_kv_heads * head_dim * 4
    n_caches = max(1, min(8, int(4e8 // n_bytes) + 1))
    n_launches = max(2, min(24, int(6e9 // n_bytes)))
    q = torch.randn(n_sequences, n_heads, 1, head_dim, device="cuda", dtype=torch.bfloat16)
    caches = [tuple(torch.randn(n_sequences, n_kv_heads, n_tokens, head_dim, device="cuda",
                                dtype=torch.bfloat16) for _ in range(2)) for _ in range(n_caches)]

    def launch(i):
        k, v = caches[i % n_caches]
        with sdpa_kernel(BACKENDS[backend]):
            return scaled_dot_product_attention(q, k, v, enable_gqa=n_heads != n_kv_heads)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(3):
            launch(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(n_launches):
            launch(i)
    times = []
    for i in range(8):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i:
            times.append(begin.elapsed_time(end) / n_launches)
    ms = statistics.median(times)
    return {"rival": backend, "version": torch.__version__, "sequences": n_sequences,
            "tokens": n_tokens, "heads": heads, "ms": ms, "gbs": n_bytes / ms / 1e6}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--heads", default="32,8,128")
    parser.add_argument("--shapes", default="64x32768,8x32768,1x131072,1x32768,64x8192,64x4096")
    parser.add_argument("--json", default=os.devnull, help="one line per measurement goes here")
    options = parser.parse_args()
    heads = [int(n) for n in options.heads.split(",")]
    print(torch.cuda.get_device_name(), "cuDNN", torch.backends.cudnn.version())
    with open(options.json, "w", encoding="utf-8") as sink:
        for shape in options.shapes.split(","):
            n_sequences, n_tokens = (int(n) for n in shape.split("x"))
            for backend in BACKENDS:
                try:
                    row = measure(backend, n_sequences, n_tokens, heads)
                except RuntimeError as error:
                    print(f"{shape:>12} {backend:6} {str(error).splitlines()[0]}", flush=True)
                    continue
                print(f"{shape:>12} {backend:6} {row['ms']:9.4f} ms {row['gbs']:7.0f} GB/s",
                      flush=True)
                print(json.dumps(row), file=sink, flush=True)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
