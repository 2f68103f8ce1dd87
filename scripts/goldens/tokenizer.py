#!/usr/bin/env python3
"""Writes the goldens of tests/test_tokenizer.c: strings, and their tokens by Hugging Face tokenizers.

    scripts/goldens/tokenizer.py --models FOLDER [--vocabs FOLDER] [--out tests/data/tokenizer]

--models  folder with the two GGUF models that scripts/fetch-model fetches
--vocabs  folder with ggml-vocab-llama-bpe.gguf (llama.cpp's models folder); optional

Needs numpy, gguf, tokenizers and transformers. The outputs are committed; the tests need no Python.

Files (all integers are unsigned LEB128):
  strings.bin   "LKTS", count, then per string: length in bytes, bytes
  <name>.ids    "LKTI", step, count, then per string number 0, step, 2 step ..: count + 1 of plain
                tokens or 0 = the same as the special ones; the special ones' count; tokens
  tiny-*/       folders with tokenizer.json, trained here on the strings; tiny-*.gguf: the same
"""
import argparse
import json
import os
import pathlib
import random

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
from transformers import AutoTokenizer

SEED = 20250802
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CHATML_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3_SPECIALS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>",
]
TOOLS = ["<tool_call>", "</tool_call>"]

# ---- strings ----

# Blocks that every Unicode version since 12 agrees about; (first, last, how many to draw).
BLOCKS = [
    (0x20, 0x7E), (0xA1, 0xFF), (0x100, 0x17F), (0x391, 0x3A1), (0x3B1, 0x3C9), (0x400, 0x45F),
    (0x531, 0x556), (0x5D0, 0x5EA), (0x620, 0x64A), (0x660, 0x669), (0x905, 0x939), (0x93E, 0x94D),
    (0x985, 0x98C), (0xE01, 0xE3A), (0xE40, 0xE4E), (0xF40, 0xF47), (0x1000, 0x102A),
    (0x10D0, 0x10F0), (0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2), (0x1200, 0x1248),
    (0x13A0, 0x13F5), (0x1780, 0x17B3), (0x1E00, 0x1EFF), (0x1F00, 0x1F15), (0x2010, 0x2027),
    (0x2030, 0x205E), (0x2070, 0x2071), (0x2080, 0x208E), (0x20A0, 0x20BF), (0x2100, 0x214F),
    (0x2150, 0x218B), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2460, 0x249B), (0x2500, 0x257F),
    (0x2600, 0x26FF), (0x2701, 0x27BF), (0x3001, 0x303F), (0x3041, 0x3096), (0x30A1, 0x30FA),
    (0x3131, 0x318E), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xF900, 0xFA2D), (0xFB00, 0xFB06),
    (0xFE70, 0xFE74), (0xFF01, 0xFFBE), (0x10330, 0x1034A), (0x1D400, 0x1D454), (0x1D7CE, 0x1D7FF),
    (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6C5), (0x20000, 0x2A6D6),
]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u180e", "\u200b", "\ufeff"]
MARKS = [chr(c) for c in list(range(0x300, 0x34F)) + [0x5B0, 0x651, 0x64B, 0x93C, 0x3099, 0x20D0]]
EMOJI = ["👩‍💻", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "1️⃣", "❤️", "🧑🏿‍🚀", "☺", "⌚️", "🤷🏻‍♂️"]
WORDS = """the of and to in is you that it he was for on are as with his they at be this have from
or one had by word but not what all were we when your can said there use an each which she do how
their if will up other about out many then them these so some her would make like him into time has
look two more write go see number no way could people my than first water been call who oil its now
find long down day did get come made may part Überraschung naïve coöperate façade Ångström Straße
don't I'm you're we've they'll he'd it's O'Neil rock'n'roll DON'T I'M YOU'RE WE'VE it'S ’s you’re
antidisestablishmentarianism supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaft
""".split()
PROSE = [
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",
    "Größere Änderungen übernimmt der Verfasser; für Straße und Maß gilt dasselbe.",
    "L'été, où l'œuvre naît, coïncide avec Noël — n'est-ce pas ?",
    "¿Dónde está la niña? ¡Qué pequeño es el pingüino!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "色は匂へど散りぬるを我が世誰ぞ常ならむ。カタカナとひらがな、混ぜて書く。",
    "我能吞下玻璃而不伤身体。数字：１２３，４５６。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت",
    "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "Árvíztűrő tükörfúrógép; İstanbul'da ıssız bir şey ſſ ŉ ǆ",
]
CODE = [
    "int main(void) {\n\tprintf(\"%d\\n\", 0x1F);\n\treturn 0;\n}\n",
    "def f(x, *, y=1):\n    \"\"\"Doc.\"\"\"\n    return [i ** 2 for i in range(x) if i % 2 == 0]\n\n\n",
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x <> 'it''s' GROUP BY 1 HAVING COUNT(*) >= 10;",
    "const f = async (x) => { await g(x)?.y ?? `${x}`; } // done\r\n\r\n",
    "<html>\n  <body class=\"a\">&nbsp;</body>\n</html>\n", "a+=b;c--;!d||e&&f^g<<2>>>1",
    "{\"key\": [1, 2.5e-10, null, true, \"\\u00e9\"]}", "$ grep -rn 'foo' ./src | awk '{print $1}'",
    "\\begin{align}\n  x &= \\frac{1}{2} \\\\\n\\end{align}", "#include <stdio.h>\r\n#define X 1\r\n",
    "        if x:\n                y()\n\n\n\n    z", "https://example.org/a/b?c=d&e=f#g", "/* --- === --- */",
]
SPECIALS = CHATML_SPECIALS + LLAMA3_SPECIALS + TOOLS + [
    "<|fim_prefix|>", "<|file_sep|>", "<repo_name>", "<reponame>", "<|im_start", "|im_end|>",
    "<<|im_end|>>", "<|im_end|><|im_end|>", "<|IM_END|>", "< |im_end|>", "<tool_call", "<|",
    "[PAD151665]", "<|reserved_special_token_0|>", "<mask>", "<pad>",
]


def draw_char(rng):
    while True:
        first, last = rng.choice(BLOCKS)
        c = chr(rng.randint(first, last))
        if c.isprintable() or first < 0x100:
            return c


def draw_number(rng):
    return rng.choice([str(rng.randrange(10 ** rng.randint(1, 24))), f"{rng.random():.{rng.randint(1, 9)}f}",
                       f"{rng.randrange(1 << 32):#x}", f"{rng.randrange(1, 10**6):,}", "½¾²", "Ⅷ", "①②", "٣٤٥", "1e-5",
                       f"{rng.randint(1, 12)}/{rng.randint(1, 31)}/{rng.randint(1900, 2100)}", "3.14", "१२३"])


def draw_piece(rng):
    kind = rng.randrange(14)
    if kind < 4:
        return rng.choice(WORDS)
    if kind == 4:
        return draw_number(rng)
    if kind == 5:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5)))
    if kind == 6:
        return "".join(draw_char(rng) for _ in range(rng.randint(1, 8)))
    if kind == 7:
        return rng.choice("aeionuAEIOÅẛΩक가か") + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 4)))
    if kind == 8:
        return rng.choice(EMOJI)
    if kind == 9:
        return rng.choice(SPECIALS)
    if kind == 10:
        return "".join(rng.choice("!?.,;:-_'\"()[]{}<>/\\|@#$%^&*+=~`") for _ in range(rng.randint(1, 6)))
    if kind == 11:
        return chr(rng.choice(list(range(0, 32)) + [127]))
    return " "


def make_strings():
    rng = random.Random(SEED)
    out = ["", " ", "a", "\n", "\0", "a\0b", "\x7f", "\u00ad", "\ufeff", "\U0010ffff", "\ud7ff", "\ue000"]
    out += PROSE + CODE + WORDS + SPECIALS + EMOJI + SPACES
    out += [s * n for s in (" ", "\n", "\t", "\r\n", "\u3000") for n in (2, 3, 7, 16, 63)]
    out += [" " * n + "x" for n in range(1, 9)] + ["\n" * n + " x" for n in range(1, 5)]
    out += ["x" + s + "y" for s in SPACES] + [w + s + s + w for s in SPACES for w in ("a", "1", ".")]
    out += [chr(c) for c in range(0x80)] + ["a" + chr(c) + "b" for c in list(range(0x20)) + [0x7F]]
    out += ["a" * n for n in (10, 100, 700)] + ["ab" * 200, "0" * 300, "é" * 150, "e\u0301" * 60, "가" * 80]
    out += ["a" + "\u0301\u0323" * 20, "\u1100\u1161\u11a8", "\u212b\u2126\u212a", "q\u0307\u0323", "\u0344"]
    out += [" ".join(rng.choices(WORDS, k=rng.randint(2, 12))) for _ in range(300)]
    out += ["".join(draw_piece(rng) for _ in range(rng.randint(1, 14))) for _ in range(700)]
    out += [draw_number(rng) + rng.choice(["", " ", "%", "€", "km"]) for _ in range(120)]
    out += ["".join(draw_char(rng) for _ in range(rng.randint(1, 20))) for _ in range(250)]
    out += [rng.choice(SPECIALS) + rng.choice(["", " ", "\n", "x"]) + rng.choice(SPECIALS) for _ in range(120)]
    out += [rng.choice(PROSE + CODE)[rng.randrange(12):] + rng.choice(SPACES) + rng.choice(CODE) for _ in range(120)]
    out += [f"<|im_start|>{r}\n{t}<|im_end|>\n" for r in ("system", "user", "assistant") for t in PROSE[:6]]
    return list(dict.fromkeys(out))


# ---- files ----


def leb(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def write_strings(path, strings):
    encoded = [s.encode() for s in strings]
    path.write_bytes(b"LKTS" + leb(len(encoded)) + b"".join(leb(len(s)) + s for s in encoded))


def write_ids(path, tokenizer, strings, step):
    chosen = strings[::step]
    tokenizer.encode_special_tokens = False
    special = [tokenizer.encode(s, add_special_tokens=False).ids for s in chosen]
    tokenizer.encode_special_tokens = True
    plain = [tokenizer.encode(s, add_special_tokens=False).ids for s in chosen]
    tokenizer.encode_special_tokens = False
    out = b"LKTI" + leb(step) + leb(len(chosen))
    for s, p in zip(special, plain):
        out += leb(0) if s == p else leb(len(p) + 1) + b"".join(map(leb, p))
        out += leb(len(s)) + b"".join(map(leb, s))
    path.write_bytes(out)
    print(path.name, len(chosen), "strings", sum(map(len, special)), "tokens", len(out), "bytes")


# ---- tokenizers out of GGUF files ----


def digits_and_words():
    return pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])


def split_and_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


FAMILIES = {  # pre-tokenizer, normaliser, ignore_merges, as in the tokenizer.json of the family
    "smollm": (digits_and_words, None, False),
    "qwen2": (lambda: split_and_bytes(QWEN2), normalizers.NFC, False),
    "llama-bpe": (lambda: split_and_bytes(LLAMA3), None, True),
}


def dress(tokenizer, family):
    pre, normalizer, _ = FAMILIES[family]
    tokenizer.pre_tokenizer = pre()
    if normalizer:
        tokenizer.normalizer = normalizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def from_gguf(path):
    """Control tokens are special added tokens, user-defined ones added tokens. (transformers reads
    only a few of them out of a GGUF file, and takes a SmolLM2 for a Llama 2.)"""
    fields = gguf.GGUFReader(path).fields
    value = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types, family = value("tokens"), value("token_type"), value("pre")
    merges = [tuple(m.split(" ")) for m in value("merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges,
                                     ignore_merges=FAMILIES[family][2]))
    dress(tokenizer, family)
    for t, kind in zip(tokens, types):
        if kind == 3:
            tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True)])
        elif kind == 4:
            tokenizer.add_tokens([AddedToken(t, normalized=False)])
    assert [tokenizer.token_to_id(t) for t in tokens] == list(range(len(tokens)))
    return tokenizer


def check_against_transformers(tokenizer, folder, name, strings):
    """Where transformers converts the file rightly (Qwen2), it must agree on text without specials."""
    other = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    added = tokenizer.get_added_tokens_decoder().values()
    n = 0
    for s in strings:
        if any(t.content in s for t in added):
            continue
        assert other.encode(s, add_special_tokens=False) == tokenizer.encode(s, add_special_tokens=False).ids, s
        n += 1
    print(name, "agrees with transformers on", n, "strings")


# ---- tiny tokenizers ----


def train(family, specials, strings, vocab_size):
    tokenizer = Tokenizer(models.BPE(ignore_merges=FAMILIES[family][2]))
    dress(tokenizer, family)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(strings, trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in specials])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in TOOLS])
    return tokenizer


def train_odd(strings):
    """The parts of tokenizer.json that the families here do not use: an unknown token for missing
    bytes, blanks put before pieces, runs of digits, lookahead, tokens that strip or are normalised."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex(r"[\p{Lu}]+(?=[^\s]\S)|\p{Ll}+|[^\s\p{L}]"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=["<unk>"],
                                  limit_alphabet=150)
    tokenizer.train_from_iterator(strings, trainer)
    tokenizer.add_special_tokens([
        AddedToken("<mask>", lstrip=True, normalized=False, special=True),
        AddedToken("<pad>", rstrip=True, normalized=False, special=True),
        AddedToken("<|im_end|>", lstrip=True, rstrip=True, normalized=False, special=True)])
    tokenizer.add_tokens([AddedToken("café", normalized=True), AddedToken("<tool_call>", normalized=True),
                          AddedToken("the ", normalized=False, lstrip=True)])
    return tokenizer


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def write_folder(folder, tokenizer, config, generation):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    write_json(folder / "tokenizer_config.json", config)
    if generation:
        write_json(folder / "generation_config.json", generation)


def write_gguf(path, tokenizer, family, template, eos, bos=None):
    spec = json.loads(tokenizer.to_str())
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.get)
    kinds = {t["id"]: 3 if t["special"] else 4 for t in spec["added_tokens"]}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(i, 1) for i in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    writer.add_eos_token_id(ids[eos])
    if bos:
        writer.add_bos_token_id(ids[bos])
        writer.add_add_bos_token(True)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def chatml(system):
    first = ("{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\n" + system
             + "<|im_end|>\\n' }}{% endif %}") if system else ""
    return ("{% for message in messages %}" + first + "{{ '<|im_start|>' + message['role'] + '\\n' + "
            "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def write_tiny(out, strings):
    corpus = strings + PROSE * 20 + CODE * 20
    smollm = train("smollm", CHATML_SPECIALS, corpus, 640)
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    write_folder(out / "tiny-smollm", smollm,
                 {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": chatml(system)}, None)
    write_gguf(out / "tiny-smollm.gguf", smollm, "smollm", chatml(system), "<|im_end|>")
    qwen = train("qwen2", CHATML_SPECIALS, corpus, 640)
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    write_folder(out / "tiny-qwen2", qwen,
                 {"add_bos_token": False, "bos_token": None, "eos_token": {"content": "<|im_end|>"},
                  "chat_template": [{"name": "tool_use", "template": "none"},
                                    {"name": "default", "template": chatml(system)}]},
                 {"eos_token_id": [qwen.token_to_id("<|im_end|>"), qwen.token_to_id("the")]})
    write_gguf(out / "tiny-qwen2.gguf", qwen, "qwen2", chatml(system), "<|im_end|>")
    llama = train("llama-bpe", LLAMA3_SPECIALS, corpus, 640)
    bos = "<|begin_of_text|>"
    llama.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                      special_tokens=[(bos, llama.token_to_id(bos))])])
    write_folder(out / "tiny-llama3", llama, {"bos_token": bos, "eos_token": "<|eot_id|>"},
                 {"eos_token_id": llama.token_to_id("<|end_of_text|>")})
    (out / "tiny-llama3" / "chat_template.jinja").write_text(
        "{{ '<|start_header_id|>' }} {# Cutting Knowledge Date: December 2023 #}\n")
    write_gguf(out / "tiny-llama3.gguf", llama, "llama-bpe", None, "<|eot_id|>", bos)
    odd = train_odd(corpus)
    write_folder(out / "tiny-odd", odd, {}, None)
    for name, tokenizer in (("smollm", smollm), ("qwen2", qwen), ("llama3", llama), ("odd", odd)):
        write_ids(out / f"tiny-{name}.ids", tokenizer, strings, 6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, type=pathlib.Path)
    parser.add_argument("--vocabs", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/data/tokenizer"))
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    args.out.mkdir(parents=True, exist_ok=True)
    strings = make_strings()
    write_strings(args.out / "strings.bin", strings)
    print(len(strings), "strings")
    smollm = "SmolLM2-135M-Instruct.Q4_1.gguf"
    qwen = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    write_ids(args.out / "smollm2.ids", from_gguf(args.models / smollm), strings, 1)
    tokenizer = from_gguf(args.models / qwen)
    check_against_transformers(tokenizer, args.models, qwen, strings)
    write_ids(args.out / "qwen2.5-coder.ids", tokenizer, strings, 1)
    if args.vocabs:
        write_ids(args.out / "llama3.ids", from_gguf(args.vocabs / "ggml-vocab-llama-bpe.gguf"), strings, 2)
    write_tiny(args.out, strings)


if __name__ == "__main__":
    main()
