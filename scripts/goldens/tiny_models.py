#!/usr/bin/env python3
"""Writes tests/data/tiny: random models small enough to commit.

Together they cover every weight type, both channel orders, all RoPE scalings, tied and untied
outputs, one file and shards. Weights are scaled so that attention is far from uniform and logits
spread by 1 to 3. Needs numpy, gguf, safetensors, tokenizers. Same seed, same bytes.

usage: tiny_models.py OUTPUT_FOLDER
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog while the rain in Spain stays on the plain.",
    "int main(void) { for (int i = 0; i < 10; i++) printf(\"%d\\n\", i); return 0; }",
    "A key that is never read again costs memory and time; the channels that matter are few.",
    "def mean(values): return sum(values) / len(values)",
    "user assistant system answer question number one two three four five the and that with",
]


# ---- quantisation: own encoders for the K types, whose values gguf's decoder then defines ----


def half(x):
    return x.astype(np.float16)


def asymmetric(x, levels):
    """x [blocks, 8, 32] to d, dmin (f16), scales, mins (6 bit), codes with x ~ d*s*q - dmin*m."""
    low = np.minimum(x.min(-1), 0)
    step = (x.max(-1) - low) / levels
    d, dmin = half(step.max(-1) / 63), half((-low).max(-1) / 63)
    s = np.clip(np.round(step / d.astype(np.float32)[:, None]), 1, 63)
    m = np.clip(np.round(-low / dmin.astype(np.float32)[:, None]), 0, 63)
    scale = (d.astype(np.float32)[:, None] * s)[..., None]
    shift = (dmin.astype(np.float32)[:, None] * m)[..., None]
    codes = np.clip(np.round((x + shift) / scale), 0, levels).astype(np.uint8)
    return d, dmin, s.astype(np.uint8), m.astype(np.uint8), codes


def pack_scales(s, m):
    head = (s[:, :4] & 63) | (s[:, 4:] >> 4 << 6)
    body = (m[:, :4] & 63) | (m[:, 4:] >> 4 << 6)
    tail = (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return np.concatenate([head, body, tail], axis=1).astype(np.uint8)


def nibbles(codes):
    """codes [blocks, 8, 32] of 4 bits: even groups low, odd groups high."""
    return (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(len(codes), 128)


def as_bytes(x):
    return np.ascontiguousarray(x[:, None] if x.ndim == 1 else x).view(np.uint8)


def q4_k(x):
    d, dmin, s, m, codes = asymmetric(x.reshape(-1, 8, 32), 15)
    return np.concatenate([as_bytes(d), as_bytes(dmin), pack_scales(s, m), nibbles(codes)], axis=1)


def q5_k(x):
    d, dmin, s, m, codes = asymmetric(x.reshape(-1, 8, 32), 31)
    high = np.zeros((len(codes), 32), np.uint8)
    for j in range(8):
        high |= (codes[:, j] >> 4) << j
    return np.concatenate(
        [as_bytes(d), as_bytes(dmin), pack_scales(s, m), high, nibbles(codes & 15)], axis=1
    )


def q6_k(x):
    x = x.reshape(-1, 16, 16)
    step = np.abs(x).max(-1) / 31
    d = half(step.max(-1) / 127)
    s = np.clip(np.round(step / d.astype(np.float32)[:, None]), 1, 127)
    scale = (d.astype(np.float32)[:, None] * s)[..., None]
    codes = (np.clip(np.round(x / scale), -32, 31) + 32).astype(np.uint8)
    c = codes.reshape(-1, 2, 4, 32)  # halves of 128, quarters of 32
    low = np.stack([c[:, :, 0] & 15 | (c[:, :, 2] & 15) << 4, c[:, :, 1] & 15 | (c[:, :, 3] & 15) << 4], axis=2)
    high = c[:, :, 0] >> 4 | c[:, :, 1] >> 4 << 2 | c[:, :, 2] >> 4 << 4 | c[:, :, 3] >> 4 << 6
    n = len(c)
    return np.concatenate(
        [low.reshape(n, 128), high.reshape(n, 64), s.astype(np.int8).view(np.uint8), as_bytes(d)], axis=1
    )


K_TYPES = {Q.Q4_K: q4_k, Q.Q5_K: q5_k, Q.Q6_K: q6_k}


def encode(x, qtype):
    x = np.ascontiguousarray(x, dtype=np.float32)
    if qtype not in K_TYPES:
        return gguf.quants.quantize(x, qtype)
    data = K_TYPES[qtype](x).reshape(x.shape[0], -1)
    back = gguf.quants.dequantize(data, qtype)
    assert np.abs(back - x).max() < 0.12 * np.abs(x).max(), qtype
    return data


# ---- weights ----


def random_weights(c, seed):
    """Names and shapes of transformers' llama and qwen2; float32."""
    rng = np.random.default_rng(seed)

    def matrix(rows, cols, gain):
        return (rng.standard_normal((rows, cols)) * gain / np.sqrt(cols)).astype(np.float32)

    def norm():
        return (1 + 0.2 * rng.standard_normal(c["hidden"])).astype(np.float32)

    h, q, kv = c["hidden"], c["heads"] * c["dim"], c["kv_heads"] * c["dim"]
    w = {"model.embed_tokens.weight": matrix(c["vocab"], h, 2), "model.norm.weight": norm()}
    if not c["tied"]:
        w["lm_head.weight"] = matrix(c["vocab"], h, 2)
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"] = norm()
        w[p + "self_attn.q_proj.weight"] = matrix(q, h, 1.4)
        w[p + "self_attn.k_proj.weight"] = matrix(kv, h, 1.4)
        w[p + "self_attn.v_proj.weight"] = matrix(kv, h, 1)
        if c["arch"] == "qwen2":
            for name, n in (("q", q), ("k", kv), ("v", kv)):
                w[p + f"self_attn.{name}_proj.bias"] = (0.5 * rng.standard_normal(n)).astype(np.float32)
        w[p + "self_attn.o_proj.weight"] = matrix(h, q, 1)
        w[p + "post_attention_layernorm.weight"] = norm()
        w[p + "mlp.gate_proj.weight"] = matrix(c["ffn"], h, 1)
        w[p + "mlp.up_proj.weight"] = matrix(c["ffn"], h, 1)
        w[p + "mlp.down_proj.weight"] = matrix(h, c["ffn"], 1)
    return w


GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, rest = name.split(".", 3)
    role, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[role]}.{kind}"


def half_to_pairs(x, n_heads):
    """Rows of a head from (i, i + D/2) rotating together to (2i, 2i + 1)."""
    d = x.shape[0] // n_heads
    return x.reshape(n_heads, 2, d // 2, -1).swapaxes(1, 2).reshape(x.shape)


# ---- tokenizer: byte-level BPE ----


def make_tokenizer(vocab):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(CORPUS, trainer)
    assert tok.get_vocab_size() == vocab, tok.get_vocab_size()
    return tok


def llama3_factors(c):
    s = c["rope"]
    freq = c["theta"] ** (-np.arange(0, c["dim"], 2, dtype=np.float64) / c["dim"])
    turns = s["original_max_position_embeddings"] * freq / (2 * np.pi)
    keep = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
    return (1 / ((1 - keep) / s["factor"] + keep)).astype(np.float32)


# ---- files ----


def write_gguf(path, c, types, seed):
    w = gguf.GGUFWriter(path, c["arch"])
    w.add_name(path.stem)
    w.add_block_count(c["layers"])
    w.add_context_length(c["context"])
    w.add_embedding_length(c["hidden"])
    w.add_feed_forward_length(c["ffn"])
    w.add_head_count(c["heads"])
    w.add_head_count_kv(c["kv_heads"])
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(c["theta"])
    if c["arch"] == "llama":
        w.add_vocab_size(c["vocab"])
        w.add_rope_dimension_count(c["dim"])
        w.add_key_length(c["dim"])
        w.add_value_length(c["dim"])
    rope = c.get("rope") or {}
    if rope.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(c))
    tok = json.loads(make_tokenizer(c["vocab"]).to_str())
    by_id = sorted(tok["model"]["vocab"], key=tok["model"]["vocab"].get)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2" if c["arch"] == "qwen2" else "smollm")
    w.add_token_list(by_id)
    w.add_token_types([3 if t in SPECIALS else 1 for t in by_id])
    w.add_token_merges([" ".join(m) for m in tok["model"]["merges"]])
    w.add_eos_token_id(2)
    w.add_bos_token_id(1)
    w.add_add_bos_token(False)
    for name, x in random_weights(c, seed).items():
        if c["arch"] == "llama" and ("q_proj" in name or "k_proj" in name):
            x = half_to_pairs(x, c["heads"] if "q_proj" in name else c["kv_heads"])
        out = gguf_name(name)
        qtype = Q.F32 if x.ndim == 1 else types(out)
        data = encode(x, qtype)
        w.add_tensor(out, data, raw_dtype=qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def to_dtype(x, dtype):
    if dtype == "float32":
        return x
    if dtype == "float16":
        return x.astype(np.float16)
    bits = x.view(np.uint32).astype(np.uint64)  # round to nearest even
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def save_tensors(path, tensors, dtype):
    if dtype != "bfloat16":
        save_file(tensors, path, metadata={"format": "pt"})
        return
    # numpy has no bfloat16: the file says U16 until its header is mended.
    save_file(tensors, path, metadata={"format": "pt"})
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + n].decode().replace('"U16"', '"BF16"').rstrip()
    header = header.encode() + b" " * (-(len(header.encode()) + 8) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + n :])


def write_folder(folder, c, dtype, n_shards, seed, index=True):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM" if c["arch"] == "llama" else "Qwen2ForCausalLM"],
        "model_type": c["arch"],
        "hidden_size": c["hidden"],
        "intermediate_size": c["ffn"],
        "num_hidden_layers": c["layers"],
        "num_attention_heads": c["heads"],
        "num_key_value_heads": c["kv_heads"],
        "head_dim": c["dim"],
        "vocab_size": c["vocab"],
        "max_position_embeddings": c["context"],
        "rms_norm_eps": 1e-5,
        "rope_theta": c["theta"],
        "rope_scaling": c.get("rope"),
        "hidden_act": "silu",
        "tie_word_embeddings": c["tied"],
        "torch_dtype": dtype,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if c["arch"] == "qwen2":
        config["use_sliding_window"] = False
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if c.get("tokenizer", True):
        make_tokenizer(c["vocab"]).save(str(folder / "tokenizer.json"), pretty=False)
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}) + "\n"
        )
    weights = {k: to_dtype(v, dtype) for k, v in random_weights(c, seed).items()}
    names = list(weights)
    weight_map = {}
    for s in range(n_shards):
        file = "model.safetensors" if n_shards == 1 else f"model-{s + 1:05}-of-{n_shards:05}.safetensors"
        part = names[s * len(names) // n_shards : (s + 1) * len(names) // n_shards]
        save_tensors(folder / file, {k: weights[k] for k in part}, dtype)
        weight_map.update({k: file for k in part})
    if n_shards > 1 and index:
        total = sum(v.nbytes for v in weights.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text + "\n")


# ---- the models ----


def mixed_llama(name):
    table = {
        "blk.0.attn_q": Q.Q4_K, "blk.0.attn_k": Q.Q6_K, "blk.0.attn_v": Q.Q5_K, "blk.0.attn_output": Q.Q4_K,
        "blk.0.ffn_gate": Q.Q4_0, "blk.0.ffn_up": Q.Q4_1, "blk.0.ffn_down": Q.Q6_K,
        "blk.1.attn_q": Q.Q5_0, "blk.1.attn_k": Q.Q8_0, "blk.1.attn_v": Q.Q5_1, "blk.1.attn_output": Q.Q5_K,
        "blk.1.ffn_gate": Q.Q4_K, "blk.1.ffn_up": Q.Q5_0, "blk.1.ffn_down": Q.Q4_0,
        "token_embd": Q.Q8_0,
    }  # fmt: skip
    return table[name.removesuffix(".weight")]


def mixed_qwen2(name):
    if name == "output.weight" or "attn_v" in name or "ffn_down" in name:
        return Q.Q6_K
    return Q.Q4_K


def plain_llama(name):
    if "attn" in name:
        return Q.F16
    if "ffn_gate" in name or "ffn_up" in name:
        return Q.BF16
    return Q.F32


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 2.0}
WIDE = {"layers": 2, "hidden": 256, "ffn": 256, "kv_heads": 2, "vocab": 320, "context": 4096}
NARROW = {"layers": 2, "hidden": 64, "ffn": 128, "heads": 4, "kv_heads": 2, "dim": 32, "vocab": 300, "context": 4096}

MODELS = {
    "llama-mixed.gguf": WIDE | {"arch": "llama", "heads": 4, "dim": 64, "theta": 10000.0, "tied": True},
    "qwen2-mixed.gguf": WIDE | {"arch": "qwen2", "heads": 8, "dim": 32, "theta": 1e6, "tied": False},
    "llama-plain.gguf": NARROW | {"arch": "llama", "theta": 500000.0, "tied": False, "rope": LLAMA3},
    "llama-bf16": NARROW | {"arch": "llama", "theta": 10000.0, "tied": False, "rope": LLAMA3},
    "llama-f32": NARROW
    | {"arch": "llama", "hidden": 32, "ffn": 64, "theta": 10000.0, "tied": True, "rope": LINEAR},
    "llama-f16": NARROW | {"arch": "llama", "theta": 10000.0, "tied": True, "rope": YARN, "tokenizer": False},
    "qwen2-bf16": NARROW | {"arch": "qwen2", "theta": 1e6, "tied": True},
}


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    write_gguf(out / "llama-mixed.gguf", MODELS["llama-mixed.gguf"], mixed_llama, 1)
    write_gguf(out / "qwen2-mixed.gguf", MODELS["qwen2-mixed.gguf"], mixed_qwen2, 2)
    write_gguf(out / "llama-plain.gguf", MODELS["llama-plain.gguf"], plain_llama, 3)
    write_folder(out / "llama-bf16", MODELS["llama-bf16"], "bfloat16", 1, 4)
    write_folder(out / "llama-f32", MODELS["llama-f32"], "float32", 3, 5)
    write_folder(out / "llama-f16", MODELS["llama-f16"], "float16", 2, 6, index=False)
    write_folder(out / "qwen2-bf16", MODELS["qwen2-bf16"], "bfloat16", 2, 7)


if __name__ == "__main__":
    main()
