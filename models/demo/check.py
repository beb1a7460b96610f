"""Asks demo.gguf the questions of check.txt, greedily, with the numpy model of reference.py.

    /usr/bin/python3 check.py [--model demo.gguf] [--quiet] [--engine ../../build/host/flexserve]

Every matrix is the dequantised Q8_0 of the file. Each answer is made twice, with float32 activations and with
activations rounded to Q8_0, and should be the same: then an engine of either kind gives it, token for token.
With --engine the C++ engine makes each answer as well, and the two are compared.

Ends with 1 when an answer of a "+" question or too many of the others are not what check.txt expects, or too
many differ.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import reference
import tokenizer as bpe
from corpus import load_check

FOLDER = Path(__file__).parent
HELD_OUT_SHARE = 0.75  # of the held-out questions and of the conversations: below it something is broken
DIFFERING_SHARE = 0.03  # of all answers may hang on a near tie
LONGEST = 120


def prompt_of(system, turns):
    """ChatML as in the file's chat_template: turns is [question, answer, question, ...]"""
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for index, turn in enumerate(turns):
        text += f"<|im_start|>{'assistant' if index % 2 else 'user'}\n{turn}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


class Asker:
    def __init__(self, path, engine):
        self.path, self.engine = path, engine
        self.exact = reference.Model(path)
        self.rounded = reference.Model(path, quantize_activations=True)
        self.tok = bpe.Tokenizer.from_metadata(self.exact.meta)
        self.stop = (self.tok.ids[bpe.TURN_END], self.tok.ids[bpe.END_OF_TEXT])

    def _engine_says(self, prompt, count):
        command = [self.engine, "generate", self.path, "--ids", ",".join(map(str, prompt)), "-n", str(count),
                   "--temp", "0", "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)["greedy"]

    def answer(self, system, turns):
        """-> (answer, its lead: the smallest distance of a chosen logit to the second, is it well-formed: the
        same by all ways of computing it, and ended by itself)"""
        prompt = self.tok.encode(prompt_of(system, turns))
        ids, lead = self.exact.greedy(prompt, LONGEST, self.stop)
        same = ids == self.rounded.greedy(prompt, LONGEST, self.stop)[0]
        if self.engine:
            same = same and self._engine_says(prompt, len(ids) + 1)[:len(ids)] == ids
        return self.tok.decode(ids), lead, same and len(ids) < LONGEST

    def ask(self, case):
        """Goes through the turns with the model's own answers -> (last answer, lead, are all well-formed)"""
        turns, lead, good = [], float("inf"), True
        for question in case.questions:
            turns.append(question)
            text, this_lead, this_good = self.answer(case.system, turns)
            lead, good = min(lead, this_lead), good and this_good
            turns.append(text)
        return turns[-1], lead, good


def kind_of(case):
    if len(case.questions) > 1 or case.system:
        return "conversation"
    return "held out" if case.held_out else "typical"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(FOLDER / "demo.gguf"))
    parser.add_argument("--quiet", action="store_true", help="print only what is not as expected")
    parser.add_argument("--engine", help="the flexserve program to compare with")
    args = parser.parse_args()
    asker = Asker(args.model, args.engine)
    counts = {"typical": [0, 0], "held out": [0, 0], "conversation": [0, 0]}
    differing = 0
    for case in load_check():
        text, lead, same = asker.ask(case)
        good = re.search(case.expected, text, re.IGNORECASE) is not None
        counts[kind_of(case)][0] += good
        counts[kind_of(case)][1] += 1
        differing += not same
        if not (good and same and args.quiet):
            marks = ("" if good else "  [unexpected]") + ("" if same else "  [differs]")
            print(f"> {' || '.join(case.questions)}\n{text}  ({kind_of(case)}, lead {lead:.2f}){marks}\n")
    print(", ".join(f"{kind} {good}/{total}" for kind, (good, total) in counts.items()) +
          f", {differing} that differ by the way of computing or do not end")
    enough = {kind: good >= total * (1 if kind == "typical" else HELD_OUT_SHARE)
              for kind, (good, total) in counts.items()}
    return 0 if all(enough.values()) and differing <= DIFFERING_SHARE * len(load_check()) else 1


if __name__ == "__main__":
    sys.exit(main())
