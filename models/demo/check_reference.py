"""Holds reference.py and tokenizer.py against what llama.cpp computes.

    /usr/bin/python3 check_reference.py GOLDEN_DIR [TOKENIZER_DIR]

GOLDEN_DIR has NAME.gguf and NAME.json (`prompt` ids, `logits` at some positions, `greedy` continuation) for
Qwen3 models; TOKENIZER_DIR has vocab-qwen2.gguf, qwen2.inp and qwen2.out. llama.cpp rounds the activations in
front of a Q8_0 matrix to Q8_0, so does the reference here.
"""

import json
import sys
from pathlib import Path

import numpy as np

import gguf
import reference
import tokenizer as bpe

TOLERANCE = 2e-2
SEPARATOR = "\n__ggml_vocab_test__\n"


def check_logits(path):
    golden = json.loads(path.with_suffix(".json").read_text())
    model = reference.Model(path, quantize_activations="f16" not in path.name)
    logits = [model.step(token) for token in golden["prompt"]]
    worst = max(float(np.abs(logits[item["pos"]] - item["values"]).max()) for item in golden["logits"])
    same = model.greedy(golden["prompt"], len(golden["greedy"]))[0] == golden["greedy"]
    print(f"{path.name}: largest difference of a logit {worst:.1e}, greedy {'equal' if same else 'DIFFERS'}")
    return same and worst < TOLERANCE


def check_tokenizer(folder):
    metadata, _ = gguf.read(folder / "vocab-qwen2.gguf")
    tok = bpe.Tokenizer.from_metadata(metadata)
    texts = (folder / "qwen2.inp").read_bytes().decode("utf-8").split(SEPARATOR)
    lines = (folder / "qwen2.out").read_text().split("\n")
    expected = [[int(number) for number in line.split()] for line in lines]
    equal = sum(tok.encode(text) == ids for text, ids in zip(texts, expected))
    print(f"qwen2 tokenizer: {equal}/{len(texts)}")
    return equal == len(texts)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    good = [check_logits(path) for path in sorted(Path(sys.argv[1]).glob("qwen3-*.gguf"))]
    good += [check_tokenizer(Path(folder)) for folder in sys.argv[2:3]]
    if not good:
        sys.exit(f"no qwen3-*.gguf in {sys.argv[1]}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
