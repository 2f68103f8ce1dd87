#!/usr/bin/env python3
"""Prefill speed of PyTorch in bfloat16, for a model of the same shape as a GGUF file.

bench/rivals/pytorch_prefill.py MODEL.gguf [--tokens 4096] [--threads N] [--rounds 3]

The sizes are read from the file; the weights are random bfloat16. Speed of dense matrix products
and attention does not depend on the values, and bfloat16 is the form PyTorch is fastest with here
(it has no kernels for the quantised types of the file). Attention is torch's fused one (sdpa);
logits are computed for the last row only, as leank does. Prints one JSON line. Needs torch,
transformers and gguf; they are no part of this project's build or tests.
"""
import argparse
import json
import os
import statistics
import time

import gguf
import torch
import transformers


def read_config(path):
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()

    def field(name):
        return reader.fields[f"{architecture}.{name}"].contents()

    kinds = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].contents())
    tensors = {tensor.name for tensor in reader.tensors}
    return kinds[architecture](
        vocab_size=n_vocab,
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_theta=field("rope.freq_base"),
        max_position_embeddings=field("context_length"),
        tie_word_embeddings="output.weight" not in tensors,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    config = read_config(options.model)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa").to(torch.bfloat16).eval()
    tokens = torch.randint(0, config.vocab_size, (1, options.tokens))

    seconds = []
    with torch.inference_mode():
        model(tokens[:, :256], use_cache=True, logits_to_keep=1)  # warm-up
        for _ in range(options.rounds):
            start = time.perf_counter()
            model(tokens, use_cache=True, logits_to_keep=1)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({
        "rival": "pytorch", "version": torch.__version__, "what": "prefill",
        "weights": "random bf16 in the model's shape", "model": os.path.basename(options.model),
        "tokens": options.tokens, "threads": options.threads, "rounds": options.rounds,
        "seconds": round(median, 4), "tokens_per_second": round(options.tokens / median, 2),
    }))


if __name__ == "__main__":
    main()
