"""Makes the training text of the demo model out of knowledge/*.txt, the same text for the same seed.

A knowledge file is a list of entries and definitions:

    == name [weight]      starts an entry; weight (default 1) says how often it is drawn
    Q: pattern            ways to ask; each line is as likely as the next
    A: answer             one or more answers, the first is the usual one
    M: answer             optional: what follows "tell me more"
    Y: answer             optional: what follows "why?"
    P: paragraph          plain running text, not a question
    %name = pattern       a definition; a second line of the same name goes on with it
    @name = pattern       a definition with the parameters $1, $2, $3

In a pattern `[a|b|]` chooses one of its parts, `%name` and `@name(x; y)` stand for definitions. An argument
may have brackets but no parentheses.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

NO_MORE = ["That is all I know about it. You could ask me about FlexServe, Flex-Mem or the secure world.",
           "I do not know more about that. I am only a small model. Try another question."]


@dataclass
class Entry:
    name: str
    weight: float = 1.0
    questions: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    more: list = field(default_factory=list)
    why: list = field(default_factory=list)
    paragraphs: list = field(default_factory=list)


def load_knowledge(folder=FOLDER / "knowledge"):
    """-> (entries, definitions: "%name" or "@name" -> pattern)"""
    entries, definitions = [], {}
    for path in sorted(folder.glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            kind, _, rest = line.partition(" ")
            if line[0] in "%@":
                before = definitions.get(kind)
                pattern = rest.removeprefix("=").strip()
                definitions[kind] = f"{before}|{pattern}" if before else pattern
            elif kind == "==":
                name, *weight = rest.split()
                entries.append(Entry(name, float(weight[0]) if weight else 1.0))
            elif kind in ("Q:", "A:", "M:", "Y:", "P:"):
                entry = entries[-1]
                {"Q:": entry.questions, "A:": entry.answers, "M:": entry.more, "Y:": entry.why,
                 "P:": entry.paragraphs}[kind].append(rest.strip())
            else:
                raise ValueError(f"{path.name}:{number}: {line}")
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    for entry in entries:
        if bool(entry.questions) != bool(entry.answers) or not (entry.answers or entry.paragraphs):
            raise ValueError(f"entry {entry.name} lacks questions or answers")
    if twice:
        raise ValueError(f"entries with the same name: {twice}")
    return entries, definitions


class Grammar:
    def __init__(self, definitions, rng):
        self.definitions, self.rng = definitions, rng

    def _apply(self, match):
        body = self.definitions[match.group(1)]
        for index, argument in enumerate(match.group(2).split(";"), 1):
            body = body.replace(f"${index}", argument.strip())
        return f"[{body}]"

    def expand(self, pattern):
        """One random sentence of the pattern. It chooses before it substitutes, so that only what was chosen
        is worked on; an argument is chosen once, however often its macro names it."""
        while True:
            before = pattern
            if "[" in pattern:
                pattern = self._choose_outermost(pattern)
            elif "%" in pattern:
                pattern = re.sub(r"%\w+", lambda m: f"[{self.definitions[m.group()]}]", pattern)
            elif "@" in pattern:
                pattern = re.sub(r"(@\w+)\(([^()]*)\)", self._apply, pattern)
            if pattern == before:
                return re.sub(r" +([.?!,])", r"\1", re.sub(r"  +", " ", pattern)).strip()

    def _choose_outermost(self, pattern):
        """Replaces each outermost bracket by one of its parts, all equally likely."""
        depth, start, parts, piece, out = 0, 0, [], 0, []
        for at, char in enumerate(pattern):
            if char == "[":
                if depth == 0:
                    out.append(pattern[start:at])
                    parts, piece = [], at + 1
                depth += 1
            elif char == "|" and depth == 1:
                parts.append(pattern[piece:at])
                piece = at + 1
            elif char == "]":
                depth -= 1
                if depth == 0:
                    parts.append(pattern[piece:at])
                    out.append(self.rng.choice(parts))
                    start = at + 1
        if depth:
            raise ValueError(f"brackets do not match: {pattern}")
        return "".join(out) + pattern[start:]


def normal_form(text):
    """Letters and digits only: to keep the questions of the check out of the training text."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


@dataclass
class CheckCase:
    system: str  # empty: no system turn
    questions: list  # one a turn
    expected: str  # a regular expression that the last answer must contain
    held_out: bool  # never in the training text


def load_check(path=FOLDER / "check.txt"):
    """-> list of CheckCase; the format is told in the file"""
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        talk, expected = (part.strip() for part in line.split("=>"))
        turns = [turn.strip() for turn in talk.lstrip("+ ").split("||")]
        system = turns.pop(0).removeprefix("system:").strip() if turns[0].startswith("system:") else ""
        cases.append(CheckCase(system, turns, expected, len(turns) == 1 and not system and line[0] != "+"))
    return cases


def first_sentences(answer):
    """The first sentence, or two when the first is just a word or two ("No.")."""
    sentences = re.split(r"(?<=[.!?]) ", answer)
    count = 2 if len(sentences[0].split()) < 4 and len(sentences) > 1 else 1
    return " ".join(sentences[:count])


class Typist:
    """What people do to a question: greetings, no capitals, no question mark, words and letters lost."""

    def __init__(self, grammar, rng):
        self.grammar, self.rng = grammar, rng
        self.light_words = set(grammar.definitions["%light"].split("|"))

    def _slip(self, text):
        """A letter lost, doubled or swapped with the next."""
        places = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
        if not places:
            return text
        i = self.rng.choice(places)
        lost, doubled, swapped = text[i + 1:], text[i] + text[i:], text[i + 1] + text[i] + text[i + 2:]
        return text[:i] + self.rng.choice([lost, doubled, swapped])

    def _reword(self, text):
        """A light word lost, or a filler put in."""
        words = text.split()
        light = [i for i, word in enumerate(words) if word.lower() in self.light_words]
        if light and len(words) > 3 and self.rng.random() < 0.6:
            words.pop(self.rng.choice(light))
        elif len(words) > 3:
            words.insert(self.rng.randint(2, len(words) - 1), self.grammar.expand("%filler"))
        return " ".join(words)

    def _open(self, text):
        opener = self.grammar.expand("%opener")
        soft = opener[-1] not in ".!" and not re.match(r"I\b|[A-Z][A-Za-z]*[A-Z]|Linux|Flex|Trust", text)
        return f"{opener} {text[0].lower() + text[1:] if soft else text}"

    def type(self, text):
        chance = self.rng.random
        if chance() < 0.12:
            text = self._reword(text)
        if chance() < 0.10:
            text = self._open(text)
        if chance() < 0.04:
            text = f"{text} {self.grammar.expand('%closer')}"
        if chance() < 0.20:
            text = text.rstrip(".?!") or text
        if chance() < 0.25:
            text = text.lower()
        if chance() < 0.05:
            text = self._slip(text)
        if chance() < 0.01:
            text = text.upper()
        return text[0].upper() + text[1:] if chance() < 0.6 else text


class Corpus:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.entries, definitions = load_knowledge()
        self.grammar = Grammar(definitions, self.rng)
        self.typist = Typist(self.grammar, self.rng)
        self.asked = [entry for entry in self.entries if entry.questions]
        self.weights = [entry.weight for entry in self.asked]
        self.paragraphs = [p for entry in self.entries for p in entry.paragraphs]
        self.telling = [a for entry in self.asked for a in entry.answers + entry.more
                        if not entry.name.startswith("talk") and not re.match(r"(Yes|No)\b", a)]
        self.held_out = {normal_form(case.questions[0]) for case in load_check() if case.held_out}

    def _question(self, pattern):
        while True:
            text = self.typist.type(self.grammar.expand(pattern))
            if normal_form(text) not in self.held_out:
                return text

    def _answer_of(self, entry):
        """Mostly the first, so that a greedy answer is clearly ahead of the others."""
        return entry.answers[0] if self.rng.random() < 0.7 else self.rng.choice(entry.answers)

    def _turns(self, count, brief):
        """-> list of (question, answer), with follow-ups about the last answer."""
        turns, last = [], None
        while len(turns) < count:
            kind = self.rng.random() if turns else 1.0
            if kind < 0.16:
                pattern, answer = "%more", self.rng.choice(last and last.more or NO_MORE)
                last = None
            elif kind < 0.24 and last and last.why:
                pattern, answer = "%why", self.rng.choice(last.why)
            elif kind < 0.27 and len(turns[-1][1]) < 200:
                pattern, answer = "%again", turns[-1][1]
            elif kind < 0.30:
                pattern, answer = "%shorter", first_sentences(turns[-1][1])
            else:
                last = self.rng.choices(self.asked, self.weights)[0]
                pattern, answer = self.rng.choice(last.questions), self._answer_of(last)
                if brief:
                    answer = first_sentences(answer)
            turns.append((self._question(pattern), answer))
        return turns

    def chat(self, count):
        """A ChatML conversation of `count` turns -> list of (text, is it the model's to say)"""
        kind, pieces = self.rng.random(), []
        brief = kind < 0.08
        if kind < 0.30:
            system = self.grammar.expand("%brief" if brief else "%system")
            pieces.append((f"{TURN_START}system\n{system}{TURN_END}\n", False))
        for question, answer in self._turns(count, brief):
            pieces.append((f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n", False))
            pieces.append((f"{answer}{TURN_END}", True))
            pieces.append(("\n", False))
        return pieces[:-1]

    def running_text(self):
        """A paragraph, or a few statements one after the other, for plain completion."""
        if self.rng.random() < 0.5:
            text = self.rng.choice(self.paragraphs)
        else:
            text = " ".join(self.rng.sample(self.telling, self.rng.randint(1, 3)))
        return [(text + END_OF_TEXT, True)]

    def sample(self):
        kind = self.rng.random()
        if kind < 0.05:
            return self.running_text()
        if kind < 0.55:
            return self.chat(1)
        return self.chat(self.rng.choice([2, 2, 2, 3, 3, 4]) if kind < 0.97 else self.rng.randint(5, 12))


if __name__ == "__main__":
    corpus = Corpus(seed=1)
    for _ in range(20):
        print("".join(text for text, _ in corpus.sample()), "\n" + "-" * 40)
