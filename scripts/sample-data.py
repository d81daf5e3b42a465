#!/usr/bin/env python3
"""Makes the sample data in data/: conversations to train on, held-out ones also as requests, plain sentences.

    scripts/sample-data.py            write data/
    scripts/sample-data.py --check    compare with the committed files, write nothing

Standard library only. The same files come out each time, on every Python 3.8 and later: random
numbers are drawn by the generator below, not by the `random` module, whose methods may change.
What the data must satisfy is stated in data/README.md and tested in crates/olmo-data/tests.
"""

import json
import re
import sys
from pathlib import Path

SEED = 20240917
TRAIN_SINGLE = 6000  # conversations with one question
TRAIN_MULTI = 2000  # conversations with two or three
HELD_OUT = 44  # per family, of which ...
HELD_OUT_MULTI = 6  # ... have an earlier question
SENTENCES = 8000

COLORS = "red blue green yellow black white brown pink gray purple".split()
OBJECTS = "bag cup hat box ball coat book chair kite shoe lamp bowl".split()
NAMES = "Anna Ben Carl Dora Emma Finn Gina Hugo Ida Jack Kate Leo".split()
CLASSES = {
    "fruit": "plum apple pear grape peach lemon cherry mango".split(),
    "animal": "dog cat horse cow sheep goat lion mouse".split(),
    "tool": "hammer saw drill axe wrench shovel rake file".split(),
    "vehicle": "car bus train truck plane tram ship van".split(),
    "drink": "milk tea juice water coffee cocoa cider soda".split(),
    "instrument": "drum flute piano violin guitar harp horn bell".split(),
}
WORDS = (
    "river stone cloud sun tree moon star rain snow wind fire sand hill lake road bridge "
    "house door window table garden flower grass leaf bird fish bread salt sugar paper pen "
    "key clock ring rope wall roof gate farm town king song game day night hand "
    "bag cup hat box lamp dog cat car bus milk drum apple hammer"
).split()
SYSTEM = [
    "You are a helpful assistant.",
    "Answer in as few words as possible.",
    "You give short and exact answers.",
]


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        return z ^ z >> 31

    def below(self, n):
        return self.next() % n

    def pick(self, items):
        return items[self.below(len(items))]

    def some(self, items, n):
        """n different items, in random order."""
        return self.shuffled(items)[:n]

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


def a_kind(kind):
    return ("an " if kind[0] in "aeiou" else "a ") + kind


def a(noun):
    """With its article; one does not say `a milk`."""
    if noun in CLASSES["drink"]:
        return noun
    return a_kind(noun)


def folded(text):
    return re.findall("[a-z0-9]+", text.lower())


def holds_in_order(words, wanted):
    """Whether `wanted` is a subsequence of `words`."""
    rest = iter(words)
    return all(word in rest for word in wanted)


class Numbers:
    """Numbers that a question or a sentence may use."""

    def __init__(self, allowed):
        self.set = frozenset(allowed)
        self.two = sorted(n for n in allowed if 10 <= n <= 99)
        # n such that n + 1 is allowed too.
        self.before = sorted(n for n in allowed if n + 1 in self.set)
        self.before_two = [n for n in self.before if n <= 98]


# A question: (family, key, prompt, answer). The key is what makes it the same question in
# other words: its operands, in one order where their order does not matter.


def repeat(r, numbers):
    words = r.some(WORDS, 2 + r.below(2))
    text = " ".join(words)
    prompt = r.pick(["Repeat: %s.", "Repeat after me: %s.", "Say again: %s."]) % text
    return "repeat", tuple(words), prompt, text


def successor(r, numbers):
    n = r.pick(numbers.before_two if r.below(4) == 0 else numbers.before)
    form = r.pick(["What number comes after %d?", "Which number follows %d?", "Count on by one from %d."])
    return "successor", (n,), form % n, str(n + 1)


def larger(r, numbers):
    x, y = r.some(numbers.two, 2)
    if r.below(6) == 0:  # the same tens, so that the second digit decides
        near = [n for n in numbers.two if n // 10 == x // 10 and n != x]
        y = r.pick(near) if near else y
    form = r.pick(["Which is larger, %d or %d?", "Which number is bigger: %d or %d?", "What is the larger of %d and %d?"])
    return "larger", (min(x, y), max(x, y)), form % (x, y), str(max(x, y))


def category(r, numbers):
    kinds = r.some(sorted(CLASSES), 3)
    words = [r.pick(CLASSES[kind]) for kind in kinds]
    at = r.below(3)
    listed = ", ".join(words)
    form = r.below(3)
    prompt = [
        "Which of these is %s: %s?" % (a_kind(kinds[at]), listed),
        "Pick the %s: %s." % (kinds[at], listed),
        "Name the %s in this list: %s." % (kinds[at], listed),
    ][form]
    return "category", (kinds[at],) + tuple(sorted(words)), prompt, words[at]


def last_word(r, numbers):
    words = r.some(WORDS, 3 + r.below(2))
    text = " ".join(words)
    prompt = r.pick(["What is the last word of: %s?", "Give the last word: %s.", "Which word comes last: %s?"]) % text
    return "last_word", tuple(words), prompt, words[-1]


def first_word(r, numbers):
    words = r.some(WORDS, 3 + r.below(2))
    text = " ".join(words)
    prompt = r.pick(["What is the first word of: %s?", "Give the first word: %s.", "Which word comes first: %s?"]) % text
    return "first_word", tuple(words), prompt, words[0]


MAKERS = [repeat, first_word, successor, larger, category, last_word]
LISTS = ("repeat", "first_word", "last_word")  # their key is a list of words


def conversation(identity, questions, system):
    messages = [{"role": "system", "content": system}] if system else []
    for _, _, prompt, answer in questions:
        messages.append({"role": "user", "content": prompt})
        messages.append({"role": "assistant", "content": answer})
    return {"dataset": questions[-1][0], "id": identity, "messages": messages}


class Held:
    """The held-out questions, and what would tell them."""

    def __init__(self):
        self.keys = set()
        self.tells = []

    def add(self, question):
        family, key, prompt, answer = question
        self.keys.add((family, key))
        if family == "successor":
            return  # its numbers occur nowhere else at all
        if family in LISTS:
            orders = [list(key)]
        elif family == "larger":
            orders = [[str(n) for n in order] for order in (key, key[::-1])]
        else:  # category
            orders = [folded(prompt[prompt.index(":") :])]
            orders = [[key[0]] + orders[0], orders[0] + [key[0]]]
        self.tells += [order + folded(answer) for order in orders]

    def asked(self, question):
        """Whether `question` is a held-out one, or lists the words of one."""
        family, key, _, _ = question
        if (family, key) in self.keys:
            return True
        if family not in LISTS:
            return False
        runs = {key[i:j] for i in range(len(key)) for j in range(i + 2, len(key) + 1)}
        return any((f, run) in self.keys for run in runs for f in LISTS)

    def told(self, line):
        """Whether `line` holds a held-out question's operands and then its answer, in order."""
        words = folded(line)
        return any(holds_in_order(words, tell) for tell in self.tells)


def draw(r, numbers, maker, held):
    while True:
        question = maker(r, numbers)
        if not held.asked(question):
            return question


def held_out(r, numbers, held_numbers):
    """Conversations, and the questions in them."""
    held, rows = Held(), []
    starts = iter(held_numbers)
    for maker in MAKERS:
        for i in range(HELD_OUT):
            questions = []
            if i < HELD_OUT_MULTI:
                earlier = r.pick([m for m in MAKERS if m not in (maker, successor)])
                questions.append(draw(r, numbers, earlier, held))
                held.add(questions[0])
            if maker is successor:
                n = next(starts)
                only = Numbers([n, n + 1])
                only.before_two = only.before
                questions.append(maker(r, only))
            else:
                questions.append(draw(r, numbers, maker, held))
            held.add(questions[-1])
            identity = "%s-%03d" % (questions[-1][0], i + 1)
            system = r.pick(SYSTEM) if r.below(100) < 15 else None
            rows.append(conversation(identity, questions, system))
    return rows, held


def train(r, numbers, held):
    rows, prompts = [], set()
    while len(rows) < TRAIN_SINGLE + TRAIN_MULTI:
        makers = [MAKERS[len(rows) % len(MAKERS)]]
        if len(rows) >= TRAIN_SINGLE:
            makers = [r.pick(MAKERS) for _ in range(1 + r.below(2))] + makers
        questions = [draw(r, numbers, maker, held) for maker in makers]
        if questions[-1][2] in prompts:
            continue
        prompts.add(questions[-1][2])
        system = r.pick(SYSTEM) if r.below(100) < 15 else None
        rows.append(conversation(None, questions, system))
    rows = r.shuffled(rows)
    for i, row in enumerate(rows):
        row["id"] = "sample-%05d" % (i + 1)
    return rows


# Plain sentences.


def fact(r, numbers):
    kind, other = r.some(sorted(CLASSES), 2)
    x, y = r.some(CLASSES[kind], 2)
    z = r.pick(CLASSES[other])
    line = r.pick([
        "%s is %s." % (a(x), a_kind(kind)),
        "%s is %s and %s is %s." % (a(x), a_kind(kind), a(z), a_kind(other)),
        "%s is %s, and %s is %s too." % (a(x), a_kind(kind), a(y), a_kind(kind)),
        "The %s is %s." % (x, a_kind(kind)),
        "Is %s %s? Yes, %s is %s." % (a(x), a_kind(kind), a(x), a_kind(kind)),
        "Is %s %s? No, %s is %s." % (a(x), a_kind(other), a(x), a_kind(kind)),
    ])
    return line[0].upper() + line[1:]


def counting(r, numbers):
    n = r.pick(numbers.before_two if r.below(4) == 0 else numbers.before)
    run = [n]
    while len(run) < 6 and run[-1] + 1 in numbers.set:
        run.append(run[-1] + 1)
    if r.below(2):
        return "After %d comes %d." % (n, n + 1)
    return "Count: %s." % " ".join(map(str, run))


def comparing(r, numbers):
    _, (low, high), _, _ = larger(r, numbers)
    return r.pick([
        "%d is larger than %d." % (high, low),
        "%d is smaller than %d." % (low, high),
        "Of %d and %d the larger is %d." % (*r.shuffled((low, high)), high),
    ])


def story(r, numbers):
    count = 2 if r.below(4) else 3
    things = list(zip(r.some(NAMES, count), r.some(COLORS, count), r.some(OBJECTS, count)))
    _, shade, thing = r.pick(things)
    facts = ["%s has a %s %s" % t for t in things] if r.below(3) else ["the %s is %s" % (o, c) for _, c, o in things]
    text = ", ".join(facts[:-1]) + " and " + facts[-1] + ". "
    end = r.pick(["The %s is %s.", "So the %s is %s.", "You see, the %s is %s."]) % (thing, shade)
    return text[0].upper() + text[1:] + end


def listing(r, numbers):
    words = r.some(WORDS, 3 + r.below(2))
    text = " ".join(words)
    return r.pick([
        "%s %s." % (text, text),
        "%s, once more: %s." % (text, text),
        "The words are %s. The last word is %s." % (text, words[-1]),
        "%s ends with %s." % (text, words[-1]),
    ])


def sentences(r, numbers, held):
    makers = [fact, counting, comparing, story, listing, listing]
    lines = []
    while len(lines) < SENTENCES:
        line = makers[len(lines) % len(makers)](r, numbers)
        if not held.told(line):
            lines.append(line)
    return r.shuffled(lines)


def requests(held_rows):
    """The held-out conversations of three families as requests (olmo-eval's serialized task), by family."""
    tasks = {"larger": [], "category": [], "repeat": []}
    for row in held_rows:
        if row["dataset"] not in tasks:
            continue
        messages, answer = row["messages"][:-1], row["messages"][-1]["content"]
        question = messages[-1]["content"]
        choices = {
            "larger": re.findall("[0-9]+", question),
            "category": question.split(": ")[-1][:-1].split(", "),
            "repeat": None,
        }[row["dataset"]]
        how = {"max_gen_toks": 16} if choices is None else {"gold_idx": choices.index(answer)}
        tasks[row["dataset"]].append({
            "doc_id": len(tasks[row["dataset"]]),
            "question": question,
            "gold_answers": [answer],
            "choices": choices,
            "metadata": dict(how, id=row["id"]),
            "request_type": "chat" if choices is None else "loglikelihood",
            "prompt": None,
            "messages": messages,
            "continuations": choices,
        })
    return tasks


def make():
    r = Random(SEED)
    # Numbers of held-out successor questions occur nowhere else, neither do their answers.
    held_numbers = []
    for n in r.shuffled(range(10, 999)):
        small = sum(1 for m in held_numbers if m < 99)
        fits = all(abs(n - m) > 2 for m in held_numbers)
        if fits and (small < HELD_OUT // 6 if n < 99 else len(held_numbers) - small < HELD_OUT - HELD_OUT // 6):
            held_numbers.append(n)
    assert len(held_numbers) == HELD_OUT
    excluded = {m for n in held_numbers for m in (n, n + 1)}
    numbers = Numbers([n for n in range(10, 1000) if n not in excluded])

    held_rows, held = held_out(r, numbers, r.shuffled(held_numbers))
    sample = train(r, numbers, held)
    text = sentences(r, numbers, held)

    def lines(rows):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    return {
        **{"requests/%s.jsonl" % task: lines(rows) for task, rows in requests(held_rows).items()},
        "tulu-sample.jsonl": lines(sample),
        "tulu-heldout.jsonl": lines(held_rows),
        "sentences.txt": "".join(line + "\n" for line in text),
    }


def main():
    data = Path(__file__).resolve().parent.parent / "data"
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    differ = []
    for name, text in make().items():
        path = data / name
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8"))
        elif not path.exists() or path.read_bytes() != text.encode("utf-8"):
            differ.append(name)
    if differ:
        sys.exit("differs from what scripts/sample-data.py makes: " + ", ".join(differ))


if __name__ == "__main__":
    main()
