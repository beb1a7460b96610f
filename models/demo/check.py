"""Asks demo.gguf the questions of check.txt, greedily, with the numpy model of reference.py.

    /usr/bin/python3 check.py [--model demo.gguf] [--quiet]

Every matrix is the dequantised Q8_0 of the file. Each answer is made twice, with float32 activations and with
activations rounded to Q8_0, and must be the same: so an engine of either kind should give it, token for token.
Ends with 1 when an answer of a "+" question or too many of the others are not what check.txt expects.
"""

import argparse
import re
import sys
from pathlib import Path

import reference
import tokenizer as bpe
from corpus import load_check

FOLDER = Path(__file__).parent
HELD_OUT_SHARE = 0.9  # of the held-out questions and of the conversations must be answered as expected
LONGEST = 120


def prompt_of(system, turns):
    """ChatML as in the file's chat_template: turns is [question, answer, question, ...]"""
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for index, turn in enumerate(turns):
        text += f"<|im_start|>{'assistant' if index % 2 else 'user'}\n{turn}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def answer(model, tok, system, turns):
    """-> (answer, its lead: the smallest distance of a chosen logit to the second, did it end by itself)"""
    stop = (tok.ids[bpe.TURN_END], tok.ids[bpe.END_OF_TEXT])
    ids, lead = model.greedy(tok.encode(prompt_of(system, turns)), LONGEST, stop)
    return tok.decode(ids), lead, len(ids) < LONGEST


def ask(exact, rounded, tok, case):
    """Goes through the turns of a case with the model's own answers -> (last answer, lead, is it well-formed)"""
    turns, lead, good = [], float("inf"), True
    for question in case.questions:
        turns.append(question)
        text, this_lead, ended = answer(exact, tok, case.system, turns)
        good = good and ended and text == answer(rounded, tok, case.system, turns)[0]
        lead = min(lead, this_lead)
        turns.append(text)
    return turns[-1], lead, good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(FOLDER / "demo.gguf"))
    parser.add_argument("--quiet", action="store_true", help="print only what is not as expected")
    args = parser.parse_args()
    exact, rounded = reference.Model(args.model), reference.Model(args.model, quantize_activations=True)
    tok = bpe.Tokenizer.from_metadata(exact.meta)
    counts = {"typical": [0, 0], "held out": [0, 0], "conversation": [0, 0]}
    unstable = 0
    for case in load_check():
        kind = "held out" if case.held_out else "typical" if len(case.questions) == 1 and not case.system else "conversation"
        text, lead, stable = ask(exact, rounded, tok, case)
        good = re.search(case.expected, text, re.IGNORECASE | re.DOTALL) is not None
        counts[kind][0] += good
        counts[kind][1] += 1
        unstable += not stable
        if not (good and stable and args.quiet):
            marks = ("" if good else "  [unexpected]") + ("" if stable else "  [unstable]")
            print(f"> {' || '.join(case.questions)}\n{text}  ({kind}, lead {lead:.2f}){marks}\n")
    print(", ".join(f"{kind} {good}/{total}" for kind, (good, total) in counts.items()) +
          f", {unstable} not the same with rounded activations or without an end")
    enough = all(good >= total * (1 if kind == "typical" else HELD_OUT_SHARE) for kind, (good, total) in counts.items())
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
