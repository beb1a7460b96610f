"""GGUF version 3, little-endian: the part that a Qwen3 Q8_0 file needs, read and written with numpy only.

Layout (ggml docs/gguf.md): magic, version, tensor count, key count, keys, tensor table, padding to
general.alignment, tensor data (each tensor padded to the alignment, offsets count from the data section).
"""

import struct
from dataclasses import dataclass

import numpy as np

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32

# Value types of metadata.
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
SCALAR = {UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i", FLOAT32: "<f",
          BOOL: "<?", UINT64: "<Q", INT64: "<q", FLOAT64: "<d"}

# Tensor types.
F32, F16, Q8_0 = 0, 1, 8
BLOCK = 32
BLOCK_BYTES = 34  # one f16 scale and 32 int8


def quantize_q8_0(matrix):
    """float32 [rows, cols] -> bytes of Q8_0 blocks. cols must be a multiple of 32.

    As ggml's reference does: scale = max|x| / 127, x / scale with the float32 scale rounded half away from
    zero; only the stored scale is narrowed to f16.
    """
    rows, cols = matrix.shape
    assert cols % BLOCK == 0, f"row length {cols} is not a multiple of {BLOCK}"
    blocks = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    out = np.empty((blocks.shape[0], BLOCK_BYTES), dtype=np.uint8)
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    out[:, 2:] = whole.view(np.uint8)
    return out.tobytes()


def dequantize_q8_0(data, rows, cols):
    """Bytes of Q8_0 blocks -> float32 [rows, cols]."""
    raw = np.frombuffer(data, dtype=np.uint8).reshape(-1, BLOCK_BYTES)
    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    return (raw[:, 2:].copy().view(np.int8).astype(np.float32) * scale).reshape(rows, cols)


@dataclass
class Tensor:
    name: str
    shape: tuple  # numpy order: rows, columns (the file stores columns first)
    kind: int
    data: bytes


def f32_tensor(name, vector):
    vector = np.ascontiguousarray(vector, dtype="<f4")
    return Tensor(name, vector.shape, F32, vector.tobytes())


def q8_0_tensor(name, matrix):
    return Tensor(name, matrix.shape, Q8_0, quantize_q8_0(matrix))


def _string(text):
    raw = text if isinstance(text, bytes) else text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, value):
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        item_kind, items = value
        head = struct.pack("<IQ", item_kind, len(items))
        return head + b"".join(_value(item_kind, item) for item in items)
    return struct.pack(SCALAR[kind], value)


def _pad(length):
    return -length % ALIGNMENT


def write(path, metadata, tensors):
    """metadata: list of (key, kind, value); an array's value is (item kind, list)."""
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, kind, value in metadata:
        head += _string(key) + struct.pack("<I", kind) + _value(kind, value)
    offset = 0
    for tensor in tensors:
        head += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.kind, offset)
        offset += len(tensor.data) + _pad(len(tensor.data))
    with open(path, "wb") as file:
        file.write(head + bytes(_pad(len(head))))
        for tensor in tensors:
            file.write(tensor.data + bytes(_pad(len(tensor.data))))


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise ValueError("the file ends too early")
        piece = self.data[self.at:self.at + count]
        self.at += count
        return piece

    def scalar(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self):
        return self.take(self.scalar("<Q")).decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item_kind, count = self.scalar("<I"), self.scalar("<Q")
            return [self.value(item_kind) for _ in range(count)]
        return self.scalar(SCALAR[kind])


def read(path):
    """-> (metadata as a dict, tensors as a dict of float32 arrays). For our own files: it trusts them."""
    with open(path, "rb") as file:
        reader = _Reader(file.read())
    if reader.take(4) != MAGIC or reader.scalar("<I") != VERSION:
        raise ValueError(f"{path} is not a GGUF version {VERSION} file")
    tensor_count, key_count = reader.scalar("<Q"), reader.scalar("<Q")
    metadata = {}
    for _ in range(key_count):
        key = reader.string()
        metadata[key] = reader.value(reader.scalar("<I"))
    table = []
    for _ in range(tensor_count):
        name = reader.string()
        dims = [reader.scalar("<Q") for _ in range(reader.scalar("<I"))]
        table.append((name, tuple(reversed(dims)), reader.scalar("<I"), reader.scalar("<Q")))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    start = reader.at + -reader.at % alignment
    tensors = {}
    for name, shape, kind, offset in table:
        count = int(np.prod(shape))
        reader.at = start + offset
        if kind == F32:
            values = np.frombuffer(reader.take(4 * count), dtype="<f4").reshape(shape)
        elif kind == F16:
            values = np.frombuffer(reader.take(2 * count), dtype="<f2").astype(np.float32).reshape(shape)
        elif kind == Q8_0:
            values = dequantize_q8_0(reader.take(count // BLOCK * BLOCK_BYTES), *shape)
        else:
            raise ValueError(f"tensor {name} has the unsupported type {kind}")
        tensors[name] = values
    return metadata, tensors
