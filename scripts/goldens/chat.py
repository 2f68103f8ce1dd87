#!/usr/bin/env python3
"""Writes tests/data/tokenizer/chat.json: conversations as the models' own Jinja templates format them.

    scripts/goldens/chat.py --models FOLDER --templates FOLDER [--out tests/data/tokenizer/chat.json]

--models     folder with the two GGUF models that scripts/fetch-model fetches (smollm, qwen)
--templates  folder with meta-llama-Llama-3.1-8B-Instruct.jinja (llama.cpp's models/templates)

The template of Llama 3 (without dates) and plain ChatML are short and stand here. Per case: name of
the template, whether the model's file has Llama 3.1's dates, messages, whether the assistant's
header is asked for, text.
"""
import argparse
import json
import pathlib

import gguf
from jinja2.sandbox import ImmutableSandboxedEnvironment

LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi there."), ("user", "How are you?")],
    [("system", ""), ("user", "")],
    [("system", " padded \n"), ("user", "\n\n two\nlines \t\n"), ("assistant", "  answer\u00a0\u3000\u001c "), ("user", "x")],
    [("user", "first"), ("system", "late"), ("user", "second")],
    [("user", "größer 数字 🏳️‍🌈 e\u0301"), ("assistant", "<|im_end|> <|eot_id|>"), ("user", "{{ 1 }} {% if %} 'q' \"d\" \\n")],
    [("assistant", "I begin."), ("user", "   ")],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, type=pathlib.Path)
    parser.add_argument("--templates", required=True, type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/data/tokenizer/chat.json"))
    args = parser.parse_args()
    of = lambda name: gguf.GGUFReader(args.models / name).fields["tokenizer.chat_template"].contents()
    templates = [
        ("chatml", False, CHATML),
        ("smollm", False, of("SmolLM2-135M-Instruct.Q4_1.gguf")),
        ("qwen", False, of("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf")),
        ("llama3", False, LLAMA3),
        ("llama3", True, (args.templates / "meta-llama-Llama-3.1-8B-Instruct.jinja").read_text()),
    ]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers does
    cases = []
    for name, dates, source in templates:
        template = env.from_string(source)
        for conversation in CONVERSATIONS:
            for opened in (False, True):
                messages = [{"role": r, "content": c} for r, c in conversation]
                text = template.render(messages=messages, add_generation_prompt=opened, bos_token="<|begin_of_text|>")
                cases.append({"template": name, "dates": dates, "messages": conversation, "open": opened, "text": text})
    args.out.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
