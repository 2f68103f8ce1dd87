#!/usr/bin/env python3
"""Writes tests/data/golden: what transformers in float32 computes, for tests/test_golden.c.

  rope.safetensors        <config>.inv_freq, .mscale for tests/data/configs
  tiny-<model>.safetensors  logits of tests/data/tiny over N_TINY random tokens
  smollm2.safetensors     logits of SmolLM2-135M-Instruct (GGUF) over 512 tokens of text.txt

A logits file holds, for every position p:
  tokens      I32 [n]         input
  top_id      I32 [n][K]      the K largest logits, descending
  top         F32 [n][K]
  sampled     F32 [n][S]      columns (j * (V // S) + p * 31) mod V, j < S: over all positions they
                              visit the whole vocabulary
  log_sum_exp F64 [n]         over the whole vocabulary
With --full FILE the whole of SmolLM2's logits (F32 [n][V], about 100 MB) goes to FILE, which
LEANK_TEST_GOLDEN_FULL names to the test.

Needs torch, transformers, accelerate, gguf, safetensors.

usage: logits.py [--tiny] [--rope] [--smollm2 FILE.gguf [--full FILE]]   (in the repository)
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

DATA = Path(__file__).resolve().parents[2] / "tests/data"
GOLDEN = DATA / "golden"
N_TINY, K_TINY, S_TINY = 96, 16, 48
N_SMOLLM2, K_SMOLLM2, S_SMOLLM2 = 512, 48, 96


def summary(tokens, logits, k, n_samples):
    n, vocab = logits.shape
    exact = logits.astype(np.float64)
    top_id = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    step = vocab // n_samples
    columns = (np.arange(n_samples)[None, :] * step + np.arange(n)[:, None] * 31) % vocab
    peak = exact.max(axis=1)
    return {
        "tokens": np.asarray(tokens, np.int32),
        "top_id": np.ascontiguousarray(top_id, np.int32),
        "top": np.take_along_axis(logits, top_id, axis=1),
        "sampled": np.take_along_axis(logits, columns, axis=1),
        "log_sum_exp": peak + np.log(np.exp(exact - peak[:, None]).sum(axis=1)),
    }


def run(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def load_gguf(path, rope=None):
    """transformers decodes the weights and undoes llama's row order; it ignores rope_freqs."""
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    if rope:
        config.rope_scaling = rope
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=config, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def load_folder(path):
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def tiny():
    from tiny_models import LLAMA3, MODELS

    for i, name in enumerate(MODELS):
        path = DATA / "tiny" / name
        if name == "llama-f16":  # shards without an index: transformers needs one
            model = load_without_index(path)
        elif path.suffix == ".gguf":
            model = load_gguf(path, LLAMA3 if name == "llama-plain.gguf" else None)
        else:
            model = load_folder(path)
        rng = np.random.default_rng(100 + i)
        tokens = rng.integers(0, MODELS[name]["vocab"], N_TINY).tolist()
        logits = run(model, tokens)
        spread = np.abs(attention_peaks(model, tokens))
        print(f"{name}: logits std {logits.std():.2f}, mean largest attention weight {spread:.2f}")
        save_file(summary(tokens, logits, K_TINY, S_TINY), GOLDEN / f"tiny-{path.stem}.safetensors")


def attention_peaks(model, tokens):
    """Mean over layers, heads and late rows of the largest weight; 1/n would be uniform."""
    with torch.no_grad():
        out = model(torch.tensor([tokens]), output_attentions=True)
    return float(torch.stack(out.attentions)[..., 48:, :].amax(-1).mean())


def load_without_index(path):
    import tempfile
    from safetensors import safe_open
    import shutil

    with tempfile.TemporaryDirectory() as tmp:
        weight_map = {}
        for file in sorted(path.glob("*.safetensors")):
            with safe_open(file, "np") as f:
                weight_map.update({key: file.name for key in f.keys()})
            shutil.copy(file, tmp)
        shutil.copy(path / "config.json", tmp)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (Path(tmp) / "model.safetensors.index.json").write_text(json.dumps(index))
        return load_folder(tmp)


def rope():
    out = {}
    for path in sorted((DATA / "configs").glob("*.json")):
        raw = json.loads(path.read_text())
        newer = raw.pop("rope_parameters", None)
        if newer:  # this transformers reads the older keys
            raw["rope_theta"] = newer.pop("rope_theta")
            raw["rope_scaling"] = newer
        config = AutoConfig.for_model(**raw)
        kind = (config.rope_scaling or {}).get("rope_type", "default")
        inv_freq, mscale = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        out[f"{path.stem}.inv_freq"] = inv_freq.numpy()
        out[f"{path.stem}.mscale"] = np.array([mscale], np.float64)
    save_file(out, GOLDEN / "rope.safetensors")


def smollm2(path, full):
    model = load_gguf(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = (GOLDEN / "text.txt").read_text()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) >= N_SMOLLM2, len(tokens)
    tokens = tokens[:N_SMOLLM2]
    logits = run(model, tokens)
    print(f"smollm2: logits {logits.min():.1f} .. {logits.max():.1f}")
    save_file(summary(tokens, logits, K_SMOLLM2, S_SMOLLM2), GOLDEN / "smollm2.safetensors")
    if full:
        save_file({"logits": logits}, full)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tiny", action="store_true")
    p.add_argument("--rope", action="store_true")
    p.add_argument("--smollm2", type=Path)
    p.add_argument("--full", type=Path)
    a = p.parse_args()
    torch.manual_seed(0)
    if a.tiny:
        tiny()
    if a.rope:
        rope()
    if a.smollm2:
        smollm2(a.smollm2, a.full)


if __name__ == "__main__":
    main()
