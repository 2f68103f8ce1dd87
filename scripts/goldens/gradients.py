#!/usr/bin/env python3
"""Writes tests/data/gradients and tests/data/golden/gradients-*: the gradient of the loss that
masks are learned with, by PyTorch's autograd in float64, for tests/test_gradients.c.

  tests/data/gradients/<name>/                      a random model, Hugging Face folder in BF16
  tests/data/golden/gradients-<name>.safetensors    losses and gradients, described below

The model (llama, qwen2) is written out here in float64 and compared with transformers in float32.

Loss. A sequence is a prompt and an answer, positions from 0, channels in half order, K after RoPE.
Rows of the prompt attend densely and depend on no parameter. The row of the answer at position t
sees keys 0 .. t, its cache holds T = t + 1 tokens, and keys in
  [n_sink, n_sink + 64 * floor(max(0, T - n_sink - n_recent) / 64))
are its middle. With a = alpha[l][h] of the row's layer and kv head (the G query heads of a kv head
share it), its logits are
  middle:  (1/sqrt D) sum_c a_c q_c k_jc
           + (1/sqrt D) sum_c (1 - a_c) q_c mean_c   (mean compensation only; mean_c over the
                                                      keys of this row's middle)
  others:  (1/sqrt D) sum_c q_c k_jc
The answer is so short that a middle never holds keys of the answer. Q, and K and V of the answer,
come from the scaled pass itself. With H the states of the answer's rows after the last norm and
H_full the same by dense attention, a constant:
  loss            = mean over rows and channels of (H_full - H)^2
  loss_normalised = loss / mean_square,   mean_square = mean over rows and channels of H_full^2
Stage 1 has alpha in [0, 1], here random, with exact zeros and ones, and one head of zeros whose
middle logits are thus 0 (or the mean's). Stage 2 has the 0/1 mask in its place; a head that keeps
nothing has no middle (policy drop, also in the case with mean compensation). gradient2 is the
derivative by the mask's entries as real numbers, kept or not; zero for the head that keeps nothing.

A golden file holds:
  tokens             I32 [n]             prompt and answer
  sizes              I32 [4]             n_prompt, n_answer, n_sink, n_recent
  mean_compensation  I32 [1]             0 or 1
  alpha              F32 [L][Hk][D]
  loss, loss_normalised, mean_square     F64 [1]
  gradient           F64 [L][Hk][D]      of loss by alpha
  hidden_full, hidden_scaled             F64 [n_answer][hidden]
  mask               U8  [L][Hk][D]
  loss2, loss2_normalised                F64 [1]
  gradient2          F64 [L][Hk][D]      of loss2 by mask
  hidden_mask        F64 [n_answer][hidden]

Before a file is written, entries of both gradients are compared with central differences, and the
scaled pass with all alphas 1 with the dense one. Needs numpy, torch, transformers, gguf,
safetensors, tokenizers. Same seeds, same models; gradients agree but for rounding.

usage: gradients.py [NAME ...]   (in the repository; no names: every case)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from tiny_models import write_folder
from transformers import AutoModelForCausalLM

DATA = Path(__file__).resolve().parents[2] / "tests/data"
PAGE, N_SINK, N_RECENT = 64, 64, 64

TINY = {"layers": 2, "vocab": 64, "context": 4096, "tied": True, "tokenizer": False}
LLAMA = TINY | {"arch": "llama", "theta": 10000.0}
QWEN2 = TINY | {"arch": "qwen2", "theta": 1e6}
WIDE, NARROW = {"hidden": 64, "ffn": 128}, {"hidden": 32, "ffn": 64}


def case(base, group, kv_heads, dim, n_prompt, n_answer, mean=False):
    sizes = {"heads": group * kv_heads, "kv_heads": kv_heads, "dim": dim}
    return base | sizes | {"n_prompt": n_prompt, "n_answer": n_answer, "mean": mean}


# A middle begins at T = 192 and grows at 256, 320, 384, 448 and 512.
CASES = {
    "g1-d64": case(LLAMA | WIDE, 1, 2, 64, 186, 14),  # from no middle to one page
    "g2-d64-mean": case(LLAMA | WIDE, 2, 2, 64, 247, 20, mean=True),  # 1 to 2 pages
    "g3-d64": case(LLAMA | {"hidden": 48, "ffn": 96}, 3, 1, 64, 250, 12),  # 1 to 2 pages
    "g4-d128": case(LLAMA | NARROW, 4, 1, 128, 316, 17),  # 2 to 3 pages
    "g6-d128": case(QWEN2 | NARROW, 6, 1, 128, 171, 40),  # from no middle to one page
    "g7-d128": case(QWEN2 | NARROW, 7, 1, 128, 300, 11),  # 2 pages
    "g7-d64": case(QWEN2 | NARROW, 7, 2, 64, 497, 33),  # 5 to 6 pages
}


# ---- the model in float64 ----


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def rotate(x, theta):
    """x [heads, n, D] at positions 0 .. n-1; channel i turns with i + D/2."""
    n, half = x.shape[1], x.shape[2] // 2
    freq = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * freq
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def middle_of_rows(c):
    """Bool [n_answer][n]: what is in the middle of each row of the answer."""
    n = c["n_prompt"] + c["n_answer"]
    middle = torch.zeros(c["n_answer"], n, dtype=torch.bool)
    for r in range(c["n_answer"]):
        held = c["n_prompt"] + r + 1
        end = N_SINK + PAGE * (max(0, held - N_SINK - N_RECENT) // PAGE)
        assert end <= c["n_prompt"]
        middle[r, N_SINK:end] = True
    return middle


def middle_logits(c, q, k, middle, alpha):
    """q [Hk, G, n_answer, D] scaled by 1/sqrt(D), k [Hk, n, D], alpha [Hk, D]; returns
    [Hk, G, n_answer, n]."""
    logits = torch.einsum("hgrc,hc,hjc->hgrj", q, alpha, k)
    if c["mean"]:
        count = middle.sum(1, keepdim=True).clamp(min=1)  # rows without a middle use no mean
        mean = (middle.double() @ k) / count
        logits = logits + torch.einsum("hgrc,hc,hrc->hgr", q, 1 - alpha, mean)[..., None]
    return logits


def attention(c, q, k, v, alpha, drop):
    """q [Hk, G, n, D], k and v [Hk, n, D]; alpha [Hk, D] or None: dense; drop: bool [Hk], heads
    without a middle. Returns outputs [Hk, G, n, D] and weights."""
    n, first = k.shape[1], c["n_prompt"]
    q = q / c["dim"] ** 0.5
    logits = torch.einsum("hgrc,hjc->hgrj", q, k)
    if alpha is not None:
        middle = middle_of_rows(c)
        scaled = middle_logits(c, q[:, :, first:], k, middle, alpha)
        scaled = scaled.masked_fill(drop[:, None, None, None], -torch.inf)
        answer = torch.where(middle, scaled, logits[:, :, first:])
        logits = torch.cat([logits[:, :, :first], answer], 2)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    weights = logits.masked_fill(~causal, -torch.inf).softmax(-1)
    return torch.einsum("hgrj,hjc->hgrc", weights, v), weights


def project(c, w, name, x, n_heads):
    y = x @ w[name + ".weight"].T
    if name + ".bias" in w:
        y = y + w[name + ".bias"]
    return y.reshape(len(x), n_heads, c["dim"]).transpose(0, 1)


def forward(c, w, tokens, alpha=None, drop=None):
    """Hidden states after the last norm, [n][hidden]; attention weights of every layer."""
    x, all_weights = w["model.embed_tokens.weight"][tokens], []
    if alpha is not None and drop is None:
        drop = torch.zeros(alpha.shape[:2], dtype=torch.bool)
    for i in range(c["layers"]):
        p = f"model.layers.{i}."
        y = rms_norm(x, w[p + "input_layernorm.weight"])
        q = rotate(project(c, w, p + "self_attn.q_proj", y, c["heads"]), c["theta"])
        k = rotate(project(c, w, p + "self_attn.k_proj", y, c["kv_heads"]), c["theta"])
        v = project(c, w, p + "self_attn.v_proj", y, c["kv_heads"])
        q = q.reshape(c["kv_heads"], -1, *q.shape[1:])
        layer = (None, None) if alpha is None else (alpha[i], drop[i])
        out, weights = attention(c, q, k, v, *layer)
        all_weights.append(weights.detach())
        x = x + out.flatten(0, 1).transpose(0, 1).flatten(1) @ w[p + "self_attn.o_proj.weight"].T
        y = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(y @ w[p + "mlp.gate_proj.weight"].T)
        x = x + (gate * (y @ w[p + "mlp.up_proj.weight"].T)) @ w[p + "mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"]), all_weights


def check_dense(folder, w, tokens, hidden):
    """Against transformers in float32, every position."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        theirs = model(tokens[None]).logits[0].double()
    ours = hidden @ w["model.embed_tokens.weight"].T
    error = float((theirs - ours).abs().max() / ours.std())
    assert error < 2e-4, (folder, error)
    return error


# ---- losses and gradients ----


class Loss:
    """The loss of one sequence as a function of alpha [L, Hk, D] (or of a mask)."""

    def __init__(self, c, w, tokens):
        self.c, self.w, self.tokens = c, w, tokens
        hidden, self.weights = forward(c, w, tokens)
        self.dense = hidden
        self.full = hidden[c["n_prompt"] :]
        self.mean_square = self.full.square().mean()

    def at(self, alpha, drop=None):
        """The loss and the states of the answer's rows."""
        hidden, _ = forward(self.c, self.w, self.tokens, alpha, drop)
        assert torch.equal(hidden[: self.c["n_prompt"]], self.dense[: self.c["n_prompt"]])
        hidden = hidden[self.c["n_prompt"] :]
        return (self.full - hidden).square().mean(), hidden

    def gradient(self, alpha, drop=None):
        alpha = alpha.clone().requires_grad_()
        loss, hidden = self.at(alpha, drop)
        loss.backward()
        return loss.detach(), alpha.grad, hidden.detach()

    def check(self, alpha, gradient, rng, drop=None, step=1e-4):
        """Central differences at the largest entry of each head and at random ones. Returns the
        largest error relative to the largest entry of its head."""
        worst = 0.0
        heads, dim = gradient.flatten(0, 1), gradient.shape[2]
        for h in range(len(heads)):
            largest = float(heads[h].abs().max())
            for channel in [int(heads[h].abs().argmax()), *rng.integers(0, dim, 3).tolist()]:
                ends = []
                for sign in (step, -step):
                    moved = alpha.clone()
                    moved.flatten(0, 1)[h, channel] += sign
                    with torch.no_grad():
                        ends.append(float(self.at(moved, drop)[0]))
                slope = (ends[0] - ends[1]) / (2 * step)
                error = abs(slope - float(heads[h, channel]))
                worst = max(worst, error / largest) if largest else max(worst, error)
        return worst


def random_alpha(c, rng, zero_head):
    shape = (c["layers"], c["kv_heads"], c["dim"])
    alpha, kind = rng.random(shape, np.float32), rng.random(shape)
    alpha[kind < 0.15] = 0
    alpha[kind > 0.85] = 1
    alpha[zero_head] = 0
    return alpha


def random_mask(c, rng, empty_head):
    """Heads keep three eighths, all, a quarter, ... of their channels; one keeps nothing."""
    mask = np.zeros((c["layers"], c["kv_heads"], c["dim"]), np.uint8)
    counts = [3 * c["dim"] // 8, c["dim"], c["dim"] // 4]
    heads = [h for h in np.ndindex(mask.shape[:2]) if h != empty_head]
    for i, head in enumerate(heads):
        mask[head][rng.permutation(c["dim"])[: counts[i % 3]]] = 1
    return mask


def golden(name, c, seed):
    folder = DATA / "gradients" / name
    write_folder(folder, c, "bfloat16", 1, seed)
    stored = load_file(folder / "model.safetensors")
    w = {key: x.double() for key, x in stored.items()}
    rng = np.random.default_rng(1000 + seed)
    tokens = torch.from_numpy(rng.integers(0, c["vocab"], c["n_prompt"] + c["n_answer"]))
    # The two special heads are in different layers, and change places from case to case.
    zero_head, empty_head = (seed % 2, 0), (1 - seed % 2, c["kv_heads"] - 1)
    alpha, mask = random_alpha(c, rng, zero_head), random_mask(c, rng, empty_head)
    drop = torch.from_numpy(~mask.any(-1))

    with torch.no_grad():
        loss = Loss(c, w, tokens)
        assert float(loss.at(torch.ones(alpha.shape, dtype=torch.float64))[0]) < 1e-26
    dense_error = check_dense(folder, w, tokens, loss.dense)
    stages = []
    for values, heads in ((alpha, torch.zeros_like(drop)), (mask, drop)):
        values = torch.from_numpy(values).double()
        value, gradient, hidden = loss.gradient(values, heads)
        assert torch.isfinite(gradient).all() and bool((gradient[heads] == 0).all())
        assert bool((gradient[~heads].abs().amax(-1) > 0).all())
        error = loss.check(values, gradient, rng, heads)
        assert error < 1e-6, (name, error)
        stages.append((value, gradient, hidden, error))
    report(name, c, loss, stages, dense_error)
    write(name, c, loss, stages, tokens, alpha, mask)


def report(name, c, loss, stages, dense_error):
    late = torch.stack([x[:, :, c["n_prompt"] :] for x in loss.weights])
    in_middle = (late * middle_of_rows(c)).sum(-1).mean()
    normalised = [float(s[0] / loss.mean_square) for s in stages]
    errors = [s[3] for s in stages]
    print(
        f"{name}: largest weight {late.amax(-1).mean():.2f}, weight of the middle {in_middle:.2f}, "
        f"normalised losses {normalised[0]:.3g} {normalised[1]:.3g}, largest gradients "
        f"{stages[0][1].abs().max():.3g} {stages[1][1].abs().max():.3g}, error of logits "
        f"{dense_error:.1e}, of differences {errors[0]:.1e} {errors[1]:.1e}"
    )


def write(name, c, loss, stages, tokens, alpha, mask):
    (loss1, gradient1, hidden1, _), (loss2, gradient2, hidden2, _) = stages
    out = {
        "tokens": tokens.int(),
        "sizes": torch.tensor([c["n_prompt"], c["n_answer"], N_SINK, N_RECENT]).int(),
        "mean_compensation": torch.tensor([c["mean"]]).int(),
        "alpha": torch.from_numpy(alpha),
        "loss": loss1.reshape(1),
        "loss_normalised": (loss1 / loss.mean_square).reshape(1),
        "mean_square": loss.mean_square.reshape(1),
        "gradient": gradient1,
        "hidden_full": loss.full,
        "hidden_scaled": hidden1,
        "mask": torch.from_numpy(mask),
        "loss2": loss2.reshape(1),
        "loss2_normalised": (loss2 / loss.mean_square).reshape(1),
        "gradient2": gradient2,
        "hidden_mask": hidden2,
    }
    arrays = {key: np.ascontiguousarray(x.numpy()) for key, x in out.items()}
    save_file(arrays, DATA / f"golden/gradients-{name}.safetensors")


def main():
    unknown = set(sys.argv[1:]) - CASES.keys()
    if unknown:
        sys.exit(f"gradients.py: no case {', '.join(sorted(unknown))}: {', '.join(CASES)}")
    for i, (name, c) in enumerate(CASES.items()):
        if not sys.argv[1:] or name in sys.argv[1:]:
            golden(name, c, 40 + i)


if __name__ == "__main__":
    main()
