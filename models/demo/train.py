"""Trains the demo model on one core and writes demo.gguf.

    /usr/bin/python3 train.py --tokens 3000000 --out demo.gguf

The text and the order of the samples depend on the seed alone, the weights also on the torch build and the
CPU. A checkpoint beside --out lets --resume go on after a break.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch load their matrix library
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import model as qwen3
import tokenizer as bpe
from corpus import Corpus

FOLDER = Path(__file__).parent
MERGES = 1261  # with 256 bytes and 3 special tokens a vocabulary of up to 1520, padded to 1536
BATCH_TOKENS = 1536
CUT_SHARE = 0.6  # of the conversations end soon after their last answer has begun
NOT_SPOKEN = 0.1  # the loss weight of what the user or the system says, against 1 for the model's own words


def make_tokenizer(seed):
    """Trained on a sample of the corpus."""
    corpus = Corpus(seed)
    texts = [text for _ in range(20000) for text, _ in corpus.sample()]
    plain = [bpe.re.sub(r"<\|\w+\|>", "\n", text) for text in texts]
    return bpe.Tokenizer.from_merges(bpe.train_merges(plain, MERGES))


def encode(pieces, tok, context):
    """-> (ids, loss weight of each id), cut to the context"""
    ids, weights = [], []
    for text, spoken in pieces:
        part = tok.encode(text)
        ids += part
        weights += [1.0 if spoken else NOT_SPOKEN] * len(part)
    return ids[:context], weights[:context]


def cut(sample, rng):
    """What is hard is to begin the right answer, the rest of it is soon learned: many samples therefore stop a
    few tokens into the last answer, which leaves time for more questions."""
    ids, weights = sample
    start = len(weights)
    while start and weights[start - 1] == 1.0:
        start -= 1
    if start and rng.random() < CUT_SHARE:
        end = start + rng.randint(4, 16)
        return ids[:end], weights[:end]
    return sample


def batches(seed, tok, context):
    """Endless batches [rows, length] of ids and weights; samples of like length go together, so that little
    is padded, and each sample starts a row, as a prompt does."""
    corpus, order = Corpus(seed), random.Random(seed)
    while True:
        pool = [cut(encode(corpus.sample(), tok, context), order) for _ in range(2000)]
        pool.sort(key=lambda sample: len(sample[0]))
        groups, group = [], []
        for sample in pool:
            if group and len(sample[0]) * (len(group) + 1) > BATCH_TOKENS:
                groups.append(group)
                group = []
            group.append(sample)
        groups.append(group)
        order.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.full((len(group), length), tok.ids[bpe.END_OF_TEXT])
            weights = torch.zeros(len(group), length)
            for row, (sample, weight) in enumerate(group):
                ids[row, :len(sample)] = torch.tensor(sample)
                weights[row, :len(weight)] = torch.tensor(weight)
            yield ids, weights, sum(len(sample) for sample, _ in group)


def loss_of(net, ids, weights):
    """Mean loss over the weighted tokens, and the mean over the model's own words alone."""
    hidden = net(ids[:, :-1]).reshape(-1, net.c.width)
    targets, weights = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    used = weights > 0
    losses = F.cross_entropy(net.logits(hidden[used]), targets[used], reduction="none")
    weights = weights[used]
    spoken = weights == 1
    return (losses * weights).sum() / weights.sum(), losses[spoken].mean().item()


def make_optimizer(net, rate):
    decayed = [p for p in net.parameters() if p.dim() == 2]
    free = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-9)


def train(net, tok, args, checkpoint, state):
    """`state` is what a checkpoint held, or None to begin."""
    optimizer = make_optimizer(net, args.rate)
    done, step, mean, before = 0, 0, None, 0.0
    if state:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        done, step, before = state["done"], state["step"], state["seconds"]
    start = saved = time.time()
    for ids, weights, count in batches(args.seed + step, tok, net.c.context):
        part = done / args.tokens
        rate = args.rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * min(1, part)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, spoken = loss_of(net, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done, step = done + count, step + 1
        mean = spoken if mean is None else 0.97 * mean + 0.03 * spoken
        seconds = before + time.time() - start
        if step % 50 == 0 or done >= args.tokens:
            print(f"step {step}  tokens {done}  loss {mean:.4f}  rate {rate:.5f}  {seconds / 60:.1f} min",
                  flush=True)
        if time.time() - saved > 300 or done >= args.tokens:
            saved = time.time()
            torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "done": done,
                        "step": step, "seconds": seconds, "merges": tok.merges}, checkpoint)
        if done >= args.tokens:
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=str(FOLDER / "demo.gguf"))
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    checkpoint = Path(args.out).with_suffix(".checkpoint")
    state = torch.load(checkpoint) if args.resume else None
    tok = bpe.Tokenizer.from_merges(state["merges"]) if state else make_tokenizer(args.seed)
    net = qwen3.Qwen3(qwen3.Config(vocab=len(tok.tokens)))
    print(f"{sum(p.numel() for p in net.parameters())} weights, vocabulary {len(tok.tokens)}", flush=True)
    train(net, tok, args, checkpoint, state)
    qwen3.export(net, tok, args.out)
    print(f"{args.out}: {os.path.getsize(args.out)} bytes")


if __name__ == "__main__":
    main()
