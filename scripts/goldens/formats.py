#!/usr/bin/env python3
"""Files of the reference implementations for the tests of the formats and for their fuzzers:
torch.save, the safetensors package and the gguf package (PyPI).

    formats.py ROOT        (the repository; writes tests/data/formats and fuzz/corpus)

Masks are a fixed pattern, so that the tests know every value: element (l, h, c) of a mask is kept
where (l * 7 + h * 3 + c) % 5 < 2. The order of safetensors' metadata differs from run to run."""

import io
import json
import pathlib
import struct
import sys
import zipfile

import gguf
import numpy as np
import safetensors.torch
import torch

def pattern(n_layers, n_heads, head_dim):
    l, h, c = np.ogrid[:n_layers, :n_heads, :head_dim]
    return torch.from_numpy(((l * 7 + h * 3 + c) % 5 < 2).astype(np.float32))


def to_pairs(mask):
    """Channel i < D/2 of the half order is 2i, i + D/2 is 2i + 1."""
    half = mask.shape[-1] // 2
    out = torch.empty_like(mask)
    out[..., 0::2] = mask[..., :half]
    out[..., 1::2] = mask[..., half:]
    return out


def save_torch(path, value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    path.write_bytes(buffer.getvalue())


def write_pth(folder):
    mask = pattern(2, 3, 8)
    save_torch(folder / "tensor.pth", mask)
    save_torch(folder / "list.pth", [layer.clone() for layer in mask])
    save_torch(folder / "views.pth", list(mask))
    save_torch(folder / "nested.pth", [[head.clone() for head in layer] for layer in mask])
    save_torch(folder / "tuple-shared.pth", (mask[0], mask[1]))
    save_torch(folder / "protocol4.pth", [layer.clone() for layer in mask], pickle_protocol=4)
    save_torch(folder / "transposed.pth", mask.transpose(0, 2).contiguous().transpose(0, 2))
    for name, dtype in (("bfloat16", torch.bfloat16), ("half", torch.float16),
                        ("double", torch.float64), ("uint8", torch.uint8), ("bool", torch.bool)):
        save_torch(folder / f"{name}.pth", mask.to(dtype))
    save_torch(folder / "refused-dict.pth", {"mask": mask})
    save_torch(folder / "refused-ragged.pth", [mask[0].clone(), mask[1, :2].clone()])
    save_torch(folder / "refused-int64.pth", mask.to(torch.int64))
    save_torch(folder / "refused-2d.pth", mask[0].clone())
    save_torch(folder / "refused-old-format.pth", mask, _use_new_zipfile_serialization=False)
    compress(folder / "tensor.pth", folder / "refused-compressed.pth")
    save_torch(folder / "fraction.pth", mask * 0.5)


def compress(source, target):
    with zipfile.ZipFile(source) as z, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for name in z.namelist():
            out.writestr(zipfile.ZipInfo(name), z.read(name), zipfile.ZIP_DEFLATED)


def mask_metadata(**changes):
    metadata = {"format": "leank-mask", "format_version": "1", "architecture": "llama",
                "n_layers": "2", "n_kv_heads": "3", "head_dim": "8", "channel_order": "half",
                "rope_theta": "500000.0", "rope_scaling": "llama3", "rope_factor": "8.0",
                "n_sink": "64", "n_recent": "512", "policy": "mean", "mean_compensation": "true",
                "ratio_asked": "0.6", "align": "1", "method": "learned", "data": "some text",
                "steps": "300", "seed": "18446744073709551615", "fingerprint": "0123456789abcdef"}
    metadata.update(changes)
    return {key: value for key, value in metadata.items() if value is not None}


def write_masks(folder):
    mask = pattern(2, 3, 8)
    alpha = torch.arange(48, dtype=torch.float32).reshape(2, 3, 8) / 64
    save = safetensors.torch.save_file
    save({"mask": mask.to(torch.uint8)}, folder / "half.safetensors", mask_metadata())
    save({"mask": to_pairs(mask).to(torch.uint8), "alpha": to_pairs(alpha)},
         folder / "pairs.safetensors", mask_metadata(channel_order="pairs"))
    required = ("format", "format_version", "n_layers", "n_kv_heads", "head_dim", "channel_order",
                "n_sink", "n_recent", "policy")
    save({"mask": mask.to(torch.uint8)}, folder / "least.safetensors",
         {key: mask_metadata()[key] for key in required})


def write_safetensors(path):
    safetensors.torch.save_file(
        {"f32": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 2, "i64": torch.tensor(-5),
         "bf16": torch.tensor([1, 2, 3], dtype=torch.bfloat16), "bool": torch.tensor([True])},
        path, {"made by": "safetensors"})


def write_gguf(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "é", ""])
    writer.add_array("tokenizer.ggml.token_type", [3, 1, 1, 1])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, 2.0, 0.25])
    writer.add_key_value("negative", -3, gguf.GGUFValueType.INT64)
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    quants = gguf.quants.quantize(np.ones((3, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", quants, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pickle_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))


def write_corpus(data, corpus):
    """Seeds of the fuzzers: the files above, and some that are refused for one reason each."""
    for kind in ("gguf", "safetensors", "pth", "pickle", "mask"):
        (corpus / kind).mkdir(parents=True, exist_ok=True)
    (corpus / "gguf/reference.gguf").write_bytes((data / "reference.gguf").read_bytes())
    (corpus / "gguf/counts.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63))
    (corpus / "safetensors/reference.safetensors").write_bytes(
        (data / "reference.safetensors").read_bytes())
    header = json.dumps({"a": {"dtype": "U8", "shape": [2**40, 2**40], "data_offsets": [0, 2**62]}})
    (corpus / "safetensors/overflow.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header.encode())
    for path in sorted(data.glob("*.pth")):
        (corpus / "pth" / path.name).write_bytes(path.read_bytes())
        if zipfile.is_zipfile(path) and "compressed" not in path.name:
            (corpus / "pickle" / f"{path.stem}.pkl").write_bytes(pickle_of(path))
    for name in ("half", "pairs", "least"):
        (corpus / f"mask/{name}.safetensors").write_bytes(
            (data / f"{name}.safetensors").read_bytes())
    for name in ("tensor", "nested"):
        (corpus / f"mask/{name}.pth").write_bytes((data / f"{name}.pth").read_bytes())


def main():
    root = pathlib.Path(sys.argv[1])
    data = root / "tests/data/formats"
    data.mkdir(parents=True, exist_ok=True)
    write_pth(data)
    write_masks(data)
    write_safetensors(data / "reference.safetensors")
    write_gguf(data / "reference.gguf")
    write_corpus(data, root / "fuzz/corpus")


if __name__ == "__main__":
    main()
