"""A Qwen3 forward pass in float32 numpy on the dequantised weights of a GGUF file, one token at a time with a
KV cache. It shares no code with the trainer or with the C++ engine, so that either can be checked against it.

`quantize_activations` rounds the input of every matrix to Q8_0 blocks first, as engines do that multiply int8
by int8; the rest stays float32."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy loads it: the matrices are small

import numpy as np

import gguf


def rms_norm(x, weight, eps):
    """x [..., n], weight [n]"""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Model:
    def __init__(self, path, quantize_activations=False):
        self.meta, self.w = gguf.read(path)
        self.quantize_activations = quantize_activations
        assert self.meta["general.architecture"] == "qwen3"
        get = lambda key: self.meta[f"qwen3.{key}"]
        self.layers, self.context = get("block_count"), get("context_length")
        self.heads, self.kv_heads = get("attention.head_count"), get("attention.head_count_kv")
        self.head_dim, self.eps = get("attention.key_length"), get("attention.layer_norm_rms_epsilon")
        half = self.head_dim // 2
        self.frequency = get("rope.freq_base") ** (-np.arange(half) / half)  # [half]
        self.head = self.w.get("output.weight", self.w["token_embd.weight"])  # tied when there is no head
        self.reset()

    def reset(self):
        shape = (self.layers, self.context, self.kv_heads, self.head_dim)
        self.k, self.v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.position = 0

    def _times(self, matrix, x):
        if self.quantize_activations:
            x = gguf.dequantize_q8_0(gguf.quantize_q8_0(x[None]), 1, x.size)[0]
        return matrix @ x

    def _rope(self, x):
        """x [heads, head_dim]: rotates (i, i + head_dim / 2)."""
        angle = self.position * self.frequency
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def _attention(self, layer, x):
        w = lambda name: self.w[f"blk.{layer}.attn_{name}.weight"]
        q = rms_norm(self._times(w("q"), x).reshape(self.heads, -1), w("q_norm"), self.eps)
        k = rms_norm(self._times(w("k"), x).reshape(self.kv_heads, -1), w("k_norm"), self.eps)
        self.k[layer, self.position] = self._rope(k)
        self.v[layer, self.position] = self._times(w("v"), x).reshape(self.kv_heads, -1)
        # [kv heads, group, head_dim]: consecutive query heads share a key head
        q = self._rope(q).reshape(self.kv_heads, -1, self.head_dim)
        keys, values = (c[layer, :self.position + 1].transpose(1, 0, 2) for c in (self.k, self.v))
        weights = softmax(q @ keys.transpose(0, 2, 1) / np.sqrt(np.float32(self.head_dim)))
        return self._times(w("output"), (weights @ values).reshape(-1))

    def step(self, token):
        """Appends one token; returns the logits [vocabulary] of the next."""
        x = self.w["token_embd.weight"][token]
        for layer in range(self.layers):
            w = lambda name: self.w[f"blk.{layer}.{name}.weight"]
            x = x + self._attention(layer, rms_norm(x, w("attn_norm"), self.eps))
            y = rms_norm(x, w("ffn_norm"), self.eps)
            gate = self._times(w("ffn_gate"), y)
            up = self._times(w("ffn_up"), y)
            x = x + self._times(w("ffn_down"), gate / (1 + np.exp(-gate)) * up)
        self.position += 1
        return self._times(self.head, rms_norm(x, self.w["output_norm.weight"], self.eps))

    def greedy(self, ids, count, stop=()):
        """Continues ids by at most `count` tokens; a stop token ends it and is not part of the answer.
        Also returns the smallest lead of a chosen token's logit over the second best."""
        self.reset()
        for token in ids:
            logits = self.step(token)
        answer, lead = [], np.inf
        while True:
            second, best = np.partition(logits, -2)[-2:]
            lead = min(lead, best - second)
            token = int(np.argmax(logits))
            if token in stop or len(answer) == count or self.position == self.context:
                return answer, float(lead)
            answer.append(token)
            logits = self.step(token)
