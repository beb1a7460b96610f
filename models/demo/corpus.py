"""Makes the training text of the demo model out of knowledge/*.txt, the same text for the same seed.

A knowledge file is a list of entries:

    == name [weight]      starts an entry; weight (default 1) says how often it is drawn
    Q: pattern            ways to ask
    A: answer             one or more answers
    M: answer             optional: what follows "tell me more"
    Y: answer             optional: what follows "why?"
    P: paragraph          plain running text, not a question

and of definitions, `%name = pattern`. In a pattern `[a|b|]` chooses one of its parts, `%name` stands for a
definition, and `@name(x; y)` for a macro below, with `$1` and `$2` replaced.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

MACROS = {
    "what": "[What is $1?|What is $1?|What is $1?|What's $1?|What exactly is $1?|What is $1 exactly?|Explain $1.|"
            "[Please|Can you|Could you] explain $1[.|?|to me]|[Can you|Could you|Please] explain what $1 is[.|?]|"
            "Explain to me what $1 is.|Tell me about $1.|Tell me something about $1.|Tell me what $1 is.|"
            "Can you tell me what $1 is?|Can you tell me about $1?|What does $1 mean?|What is meant by $1?|"
            "What do you know about $1?|Define $1.|Describe $1.|$1?|Give me a [short|simple] explanation of $1.|"
            "How would you [explain|describe] $1[?| to a child?| to a beginner?]|"
            "In [simple|a few|plain] words, what is $1?|What is $1 in [simple|plain|easy] [words|terms|English]?|"
            "I [do not|don't] [know|understand] what $1 is.|I don't understand $1.|"
            "I [want|would like] to know what $1 is.|I [want|would like] to [learn|know more] about $1.|"
            "Do you know what $1 is?|Have you heard of $1?|Explain $1 in one sentence.|"
            "Let us talk about $1.|Say something about $1.|[I wonder|I am wondering] what $1 is.|"
            "I have a question about $1.|"
            "What kind of thing is $1?|What is $1, in [short|brief|a word]?|$1: what is [it|that]?|So what is $1?|"
            "What [on earth|really] is $1?|Give me [the|a] definition of $1.|Help me [to|] understand $1.|"
            "I [read|heard] about $1. What is [it|that]?|What is this thing called $1?|Teach me about $1.|"
            "Who or what is $1?|What should I think of when I hear $1?|Tell me a [bit|little] about $1.|"
            "What do you mean by $1?|What do people mean by $1?|Please tell me what $1 is all about.|"
            "What is it, $1?|What is all this about $1?|Do you know [something|anything] about $1?|Tell me more about $1.|What should I know about $1?|What can you tell me about $1?]",
    "use": "[What is $1 for?|What does $1 do?|What does $1 do?|What is $1 used for?|"
           "What is the [purpose|job|task|role|point|use] of $1?|What do [we|you|people] use $1 for?|"
           "Why do we [need|have|use] $1?|Why is $1 [useful|needed|important|there]?|What is $1 good for?|"
           "What good is $1?|How does $1 help [me|us|]?|"
           "What is $1 [doing|there for]?|Why is there $1?|When do you use $1?|Where is $1 used?|What would I use $1 for?|"
           "What does $1 do [for us|for me|exactly|all day|here]?|Which job does $1 do?|Why do [you|I] need $1?|"
           "Why should I care about $1?|What is $1 and why is it [there|useful|needed]?|Tell me what $1 does.|Explain what $1 does.|What is the idea behind $1?]",
    "how": "[How does $1 work?|How does $1 work?|Explain how $1 works.|Can you explain how $1 works?|"
           "Tell me how $1 works.|How does $1 work in [practice|detail|simple words]?|"
           "[I want|I would like] to [know|understand] how $1 works.|How is $1 [built|made|done]?|"
           "What happens inside $1?|How exactly does $1 work?]",
    "about": "[@what($1)|@what($1)|@what($1)|@use($1)]",
    "can": "[Can|Can|Can|Could|Will] $1 $2?|Is $1 [able|allowed] to $2?|Is it possible for $1 to $2?|"
           "Is it possible that $1 can $2?|Can $1 [really|actually|still|ever|simply|secretly] $2?|"
           "I [fear|worry|think] that $1 [can|could] $2.|Does $1 have a way to $2?|"
           "Is there a way for $1 to $2?|What if $1 tries to $2?|What happens if $1 tries to $2?|"
           "Could $1 $2 [somehow|anyway|if it tried]?|Can $1 $2 or not?|Does $1 $2?|Will $1 ever $2?|"
           "Is it true that $1 can $2?|Would $1 be able to $2?|$1 can $2, can't it?|Might $1 $2?|Can it happen that $1 can $2?|"
           "Suppose $1 tries to $2.|Could it be that $1 can $2?|How could $1 $2?|How likely is it that $1 can $2?|Tell me if $1 can $2.",
    "whynot": "[Why can $1 not $2?|Why can't $1 $2?|Why cannot $1 $2?|Why is $1 [unable|not able|not allowed] to $2?|"
              "Why is it impossible for $1 to $2?|What [stops|prevents|keeps] $1 from $3?|"
              "How do you [stop|prevent|keep] $1 from $3?|How is $1 [stopped|prevented|kept] from $3?|"
              "Explain why $1 [cannot|can't] $2.|What is the reason that $1 cannot $2?|"
              "How come $1 cannot $2?|How does FlexServe [stop|prevent|keep] $1 from $3?]",
}

MORE = ("[Tell me more.|Tell me more.|More.|Go on.|Continue.|Can you tell me more?|Say more about [it|that].|"
        "Tell me more about [it|that].|What else?|Anything else?|More details please.|Can you explain more?|"
        "Please explain that in more detail.|And then?|I want to know more.|Please continue.|Give me more detail.]")
WHY = "[Why?|Why?|Why is that?|Why is that so?|But why?|How come?|And why?|What is the reason?|Why so?|Explain why.]"
AGAIN = ("[Can you repeat that?|Repeat that.|Say that again.|Please say that again.|Again please.|"
         "What did you say?|Could you repeat your answer?|Repeat your last answer.|Sorry, what?]")
SHORTER = ("[Say it shorter.|Shorter please.|Can you say that shorter?|In one sentence please.|Make it shorter.|"
           "That was too long.|Can you say it in one sentence?|Summarise that.|Give me the short version.]")
NO_MORE = ["That is all I know about it. You could ask me about FlexServe, Flex-Mem or the secure world.",
           "I do not know more about that. I am only a small model. Try another question."]

OPENERS = ["Hi, ", "Hello, ", "Hello. ", "Hi! ", "Hey, ", "Please, ", "So, ", "Ok, ", "Okay. ", "Well, ", "And ", "Now, ",
           "One question: ", "Question: ", "Next question. ", "Quick question: ", "Thanks. ", "I see. ", "Good. ", "Tell me, ",
           "I am new here. ", "Sorry, ", "By the way, ", "Excuse me, ", "Now tell me: ", "Can I ask something? ",
           "Can you tell me: ", "I would like to know: ", "I want to know: ", "My question is: ", "Please answer this: "]
# Words whose loss does not change what is asked.
LIGHT_WORDS = {"a", "an", "the", "is", "are", "do", "does", "did", "of", "me", "to", "please", "exactly", "it", "so", "that"}
FILLERS = ["really", "actually", "exactly", "now", "then", "please", "again", "here", "just"]
CLOSERS = [" Please.", " Thanks.", " Thank you.", " Please explain.", " I am curious.", " Keep it simple.", " I want to learn.",
           " Tell me.", " I don't get it.", " Just a short answer."]

SYSTEM = ("[You are [a helpful assistant|an assistant|a friendly assistant|FlexServe|the FlexServe demo model|a helpful AI|"
          "a small language model|a chat bot|a polite assistant|an expert on security|a teacher].[| Answer the user's questions.|"
          " Answer in English.| Be helpful.| Be polite.| You run in the secure world.| Use simple words.| Be honest.]|"
          "Be helpful and honest.|Answer in simple English.|Help the user.|Answer the question.|You help people.]")
BRIEF = ("[|You are a helpful assistant. |You are FlexServe. |Be polite. ][Answer in one sentence.|Be brief.|Answer briefly.|"
         "Keep your answers short.|Give short answers.|Use one short sentence.|Be concise.|Short answers only.]")


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
    """-> (entries, definitions)"""
    entries, definitions = [], {}
    for path in sorted(folder.glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            kind, _, rest = line.partition(" ")
            if line.startswith("%"):
                name, _, pattern = line[1:].partition("=")
                definitions[name.strip()] = pattern.strip()
            elif kind == "==":
                name, *weight = rest.split()
                entries.append(Entry(name, float(weight[0]) if weight else 1.0))
            elif kind in ("Q:", "A:", "M:", "Y:", "P:"):
                entry = entries[-1]
                {"Q:": entry.questions, "A:": entry.answers, "M:": entry.more, "Y:": entry.why,
                 "P:": entry.paragraphs}[kind].append(rest.strip())
            else:
                raise ValueError(f"{path.name}:{number}: {line}")
    for entry in entries:
        if bool(entry.questions) != bool(entry.answers) or not (entry.answers or entry.paragraphs):
            raise ValueError(f"entry {entry.name} lacks questions or answers")
    return entries, definitions


class Grammar:
    def __init__(self, definitions, rng):
        self.definitions, self.rng = definitions, rng

    def _substitute(self, pattern):
        """Replaces %definitions and @macros until none is left."""
        while True:
            before = pattern
            pattern = re.sub(r"%(\w+)", lambda m: f"[{self.definitions[m.group(1)]}]", pattern)
            pattern = re.sub(r"@(\w+)\(([^()]*)\)", self._macro, pattern)
            if pattern == before:
                return pattern

    @staticmethod
    def _macro(match):
        body = MACROS[match.group(1)]
        for index, argument in enumerate(match.group(2).split(";"), 1):
            body = body.replace(f"${index}", argument.strip())
        return f"[{body}]"

    def expand(self, pattern):
        """One random sentence of the pattern."""
        pattern = self._substitute(pattern)
        innermost = re.compile(r"\[([^\[\]]*)\]")
        while innermost.search(pattern):
            pattern = self._choose_once(pattern)
        return re.sub(r" +([.?!,])", r"\1", re.sub(r"  +", " ", pattern)).strip()

    def _choose_once(self, pattern):
        """Chooses at the outermost brackets first, so that the parts of a choice are equally likely."""
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


class Corpus:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.entries, definitions = load_knowledge()
        self.grammar = Grammar(definitions, self.rng)
        self.asked = [entry for entry in self.entries if entry.questions]
        self.weights = [entry.weight for entry in self.asked]
        self.paragraphs = [p for entry in self.entries for p in entry.paragraphs]
        self.telling = [a for entry in self.asked for a in entry.answers + entry.more
                        if not entry.name.startswith("talk") and not re.match(r"(Yes|No)\b", a)]
        self.held_out = {normal_form(case.questions[0]) for case in load_check() if case.held_out}

    def _typo(self, text):
        """One slip of the finger: a letter lost, doubled or swapped with the next."""
        places = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
        if not places:
            return text
        i = self.rng.choice(places)
        return text[:i] + self.rng.choice([text[i + 1:], text[i] + text[i:], text[i + 1] + text[i] + text[i + 2:]])

    def _reworded(self, text):
        """A light word lost or a filler put in."""
        words = text.split()
        light = [i for i, word in enumerate(words) if word.lower() in LIGHT_WORDS]
        if light and len(words) > 3 and self.rng.random() < 0.6:
            words.pop(self.rng.choice(light))
        elif len(words) > 3:
            words.insert(self.rng.randint(2, len(words) - 1), self.rng.choice(FILLERS))
        return " ".join(words)

    def _as_typed(self, text):
        """What people do to a question: greetings, no capitals, no question mark, typing errors."""
        r = self.rng.random
        if r() < 0.10:
            text = self._reworded(text)
        if r() < 0.10:
            opener = self.rng.choice(OPENERS)
            soft = opener[-2] not in ".!" and not re.match(r"I\b|[A-Z][A-Za-z]*[A-Z]|Linux|Flex|Trust", text)
            text = opener + (text[0].lower() + text[1:] if soft else text)
        if r() < 0.04:
            text += self.rng.choice(CLOSERS)
        if r() < 0.20:
            text = text.rstrip(".?!")
        if r() < 0.25:
            text = text.lower()
        if r() < 0.04:
            text = self._typo(text)
        if r() < 0.01:
            text = text.upper()
        return text[0].upper() + text[1:] if r() < 0.6 else text

    def _question(self, pattern):
        while True:
            text = self._as_typed(self.grammar.expand(pattern))
            if normal_form(text) not in self.held_out:
                return text

    def _turns(self, count, brief):
        """-> list of (question, answer), with follow-ups about the last answer."""
        turns, last = [], None
        while len(turns) < count:
            kind = self.rng.random() if turns else 1.0
            if kind < 0.16:
                question, answer = MORE, self.rng.choice(last.more or NO_MORE) if last else self.rng.choice(NO_MORE)
                last = None
            elif kind < 0.24 and last and last.why:
                question, answer = WHY, self.rng.choice(last.why)
            elif kind < 0.27 and len(turns[-1][1]) < 200:
                question, answer = AGAIN, turns[-1][1]
            elif kind < 0.30:
                question, answer = SHORTER, first_sentences(turns[-1][1])
            else:
                last = self.rng.choices(self.asked, self.weights)[0]
                question, answer = self.rng.choice(last.questions), self.rng.choice(last.answers)
                if brief:
                    answer = first_sentences(answer)
            turns.append((self._question(question), answer))
        return turns

    def chat(self, count):
        """A ChatML conversation of `count` turns -> list of (text, is it the model's to say)"""
        kind, pieces = self.rng.random(), []
        brief = kind < 0.08
        if kind < 0.30:
            system = self.grammar.expand(BRIEF if brief else SYSTEM)
            pieces.append((f"{TURN_START}system\n{system}{TURN_END}\n", False))
        for question, answer in self._turns(count, brief):
            pieces.append((f"{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n", False))
            pieces.append((f"{answer}{TURN_END}", True))
            pieces.append(("\n", False))
        return pieces[:-1]

    def running_text(self):
        """A paragraph, or a few statements one after the other, for plain completion."""
        if self.paragraphs and self.rng.random() < 0.5:
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
