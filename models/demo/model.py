"""Qwen3 in torch, for training, and its export to GGUF."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import gguf
import tokenizer as bpe


@dataclass(frozen=True)
class Config:
    vocab: int
    context: int = 1024
    width: int = 256
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64  # heads * head_dim != width, as in the real family
    hidden: int = 640
    rope_base: float = 10000.0
    eps: float = 1e-6


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x, cos, sin):
    """x [batch, heads, length, head_dim], cos and sin [length, head_dim / 2]; turns (i, i + head_dim / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        linear = lambda rows, cols: nn.Linear(cols, rows, bias=False)
        self.attn_norm, self.ffn_norm = RmsNorm(c.width, c.eps), RmsNorm(c.width, c.eps)
        self.attn_q_norm, self.attn_k_norm = RmsNorm(c.head_dim, c.eps), RmsNorm(c.head_dim, c.eps)
        self.attn_q = linear(c.heads * c.head_dim, c.width)
        self.attn_k = linear(c.kv_heads * c.head_dim, c.width)
        self.attn_v = linear(c.kv_heads * c.head_dim, c.width)
        self.attn_output = linear(c.width, c.heads * c.head_dim)
        self.ffn_gate, self.ffn_up = linear(c.hidden, c.width), linear(c.hidden, c.width)
        self.ffn_down = linear(c.width, c.hidden)

    def forward(self, x, cos, sin, mask):
        """x [batch, length, width], mask [length, length] of 0 and -inf"""
        c, (batch, length, _) = self.c, x.shape
        y = self.attn_norm(x)
        split = lambda t, heads: t.view(batch, length, heads, c.head_dim).transpose(1, 2)
        q = rotate(self.attn_q_norm(split(self.attn_q(y), c.heads)), cos, sin)
        k = rotate(self.attn_k_norm(split(self.attn_k(y), c.kv_heads)), cos, sin)
        v = split(self.attn_v(y), c.kv_heads)
        # The query heads that share a key head are stacked along the length: no key is copied.
        group = c.heads // c.kv_heads
        q = q.reshape(batch, c.kv_heads, group * length, c.head_dim)
        scores = q @ k.transpose(-1, -2) * c.head_dim ** -0.5
        scores = scores.view(batch, c.kv_heads, group, length, length) + mask
        mixed = scores.softmax(-1).view(batch, c.kv_heads, group * length, length) @ v
        mixed = mixed.view(batch, c.heads, length, c.head_dim).transpose(1, 2).reshape(batch, length, -1)
        x = x + self.attn_output(mixed)
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Qwen3(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.token_embd = nn.Embedding(c.vocab, c.width)
        self.blk = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.output_norm = RmsNorm(c.width, c.eps)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.04 / (2 * c.layers) ** 0.5 if last else 0.04)
        half = c.head_dim // 2
        angle = torch.arange(c.context)[:, None] * c.rope_base ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        """ids [batch, length] -> hidden states [batch, length, width] ready for the (tied) head"""
        length = ids.shape[1]
        x = self.token_embd(ids)
        mask = torch.full((length, length), float("-inf")).triu(1)
        for layer in self.blk:
            x = layer(x, self.cos[:length], self.sin[:length], mask)
        return self.output_norm(x)

    def logits(self, hidden):
        return hidden @ self.token_embd.weight.T


# ChatML as Qwen uses it; a system turn is optional.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")


def _metadata(c, tok):
    u32, text, f32 = gguf.UINT32, gguf.STRING, gguf.FLOAT32
    normal, control, unused = 1, 3, 5  # llama.cpp's token types
    kinds = [control if t in bpe.SPECIAL else unused if t.startswith("<|unused_") else normal
             for t in tok.tokens]
    return [
        ("general.architecture", text, "qwen3"),
        ("general.type", text, "model"),
        ("general.name", text, "FlexServe demo"),
        ("general.description", text,
         "Answers simple questions about FlexServe; trained from its own generated text"),
        ("general.size_label", text, "3M"),
        ("general.alignment", u32, gguf.ALIGNMENT),
        ("general.quantization_version", u32, 2),
        ("general.file_type", u32, 7),  # mostly Q8_0
        ("qwen3.block_count", u32, c.layers),
        ("qwen3.context_length", u32, c.context),
        ("qwen3.embedding_length", u32, c.width),
        ("qwen3.feed_forward_length", u32, c.hidden),
        ("qwen3.attention.head_count", u32, c.heads),
        ("qwen3.attention.head_count_kv", u32, c.kv_heads),
        ("qwen3.attention.key_length", u32, c.head_dim),
        ("qwen3.attention.value_length", u32, c.head_dim),
        ("qwen3.attention.layer_norm_rms_epsilon", f32, c.eps),
        ("qwen3.rope.freq_base", f32, c.rope_base),
        ("qwen3.vocab_size", u32, c.vocab),
        ("tokenizer.ggml.model", text, "gpt2"),
        ("tokenizer.ggml.pre", text, "qwen2"),
        ("tokenizer.ggml.tokens", gguf.ARRAY, (gguf.STRING, tok.tokens)),
        ("tokenizer.ggml.token_type", gguf.ARRAY, (gguf.INT32, kinds)),
        ("tokenizer.ggml.merges", gguf.ARRAY, (gguf.STRING, [f"{a} {b}" for a, b in tok.merges])),
        ("tokenizer.ggml.eos_token_id", u32, tok.ids[bpe.TURN_END]),
        ("tokenizer.ggml.padding_token_id", u32, tok.ids[bpe.END_OF_TEXT]),
        ("tokenizer.ggml.bos_token_id", u32, tok.ids[bpe.END_OF_TEXT]),
        ("tokenizer.ggml.add_bos_token", gguf.BOOL, False),
        ("tokenizer.chat_template", text, CHAT_TEMPLATE),
    ]


def export(model, tok, path):
    tensors = []
    for name, weight in model.state_dict().items():
        values = weight.detach().numpy()
        tensors.append(gguf.f32_tensor(name, values) if values.ndim == 1 else gguf.q8_0_tensor(name, values))
    gguf.write(path, _metadata(model.c, tok), tensors)
