"""BLAKE2b in TensorFlow integer operations, so that a graph hashes as Python's `hashlib` does."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

BLOCK_BYTES = 128
START = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
"""Fraction bits of the square roots of the first eight primes, as in SHA-512."""

ORDER = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ]
)
"""Which message words enter each round; rounds 11 and 12 repeat the first two."""


def blake2b(messages, digest_bytes: int) -> tf.Tensor:
    """Unkeyed BLAKE2b digests (RFC 7693) of any strings.

    Shapes: string [G] -> uint8 [G, digest_bytes], digest_bytes a multiple of 8 in 8..64.

    Example:
        >>> import hashlib
        >>> bytes(blake2b([b"dub"], 8).numpy()[0]) == hashlib.blake2b(b"dub", digest_size=8).digest()
        True
    """
    if digest_bytes % 8 or not 8 <= digest_bytes <= 64:
        raise ValueError(f"digest_bytes: must be a multiple of 8 in 8..64, received {digest_bytes}")
    messages = tf.convert_to_tensor(messages)
    lengths = tf.strings.length(messages)
    state = START.copy()
    state[0] ^= np.uint64(0x01010000 ^ digest_bytes)
    hashes = tf.tile(tf.constant(state)[:, None], [1, tf.size(messages)])
    last = tf.maximum(lengths - 1, 0) // BLOCK_BYTES

    def absorb(block, hashes):
        start = tf.minimum(block * BLOCK_BYTES, lengths)
        part = tf.strings.substr(messages, start, tf.fill(tf.shape(start), BLOCK_BYTES))
        words = tf.bitcast(tf.io.decode_raw(part, tf.int64, fixed_length=BLOCK_BYTES), tf.uint64)
        counted = tf.cast(tf.minimum(lengths, (block + 1) * BLOCK_BYTES), tf.uint64)
        mixed = _compress(hashes, tf.transpose(words), counted, block == last)
        return block + 1, tf.where(block <= last, mixed, hashes)

    bounds = [tf.TensorShape([]), tf.TensorShape([8, None])]
    blocks = tf.reduce_max(tf.pad(last, [[0, 1]])) + 1
    _, hashes = tf.while_loop(lambda block, _: block < blocks, absorb, [0, hashes], bounds)
    digest = tf.bitcast(tf.transpose(hashes[: digest_bytes // 8]), tf.uint8)  # [G, words, 8], little-endian
    return tf.reshape(digest, (-1, digest_bytes))


def _compress(hashes, words, counted, final):
    """One block: hashes u64 [8, G], words u64 [16, G], bytes so far u64 [G], last block bool [G] -> hashes."""
    size = tf.shape(counted)
    zero = tf.zeros(size, tf.uint64)
    flag = tf.where(final, tf.fill(size, tf.constant(0xFFFFFFFFFFFFFFFF, tf.uint64)), zero)
    start = tf.tile(tf.constant(START)[:, None], [1, size[0]])
    a, b, c = hashes[:4], hashes[4:], start[:4]
    d = tf.bitwise.bitwise_xor(start[4:], tf.stack([counted, zero, flag, zero]))
    for turn in range(12):
        order = ORDER[turn % 10]
        a, b, c, d = _mix(a, b, c, d, tf.gather(words, order[0:8:2]), tf.gather(words, order[1:8:2]))
        b, c, d = tf.roll(b, -1, 0), tf.roll(c, -2, 0), tf.roll(d, -3, 0)
        a, b, c, d = _mix(a, b, c, d, tf.gather(words, order[8::2]), tf.gather(words, order[9::2]))
        b, c, d = tf.roll(b, 1, 0), tf.roll(c, 2, 0), tf.roll(d, 3, 0)
    halves = tf.bitwise.bitwise_xor(tf.concat([a, b], 0), tf.concat([c, d], 0))
    return tf.bitwise.bitwise_xor(hashes, halves)


def _mix(a, b, c, d, x, y):
    """The four column (or diagonal) steps of a round at once, each u64 [4, G]."""
    a = a + b + x
    d = _turn(tf.bitwise.bitwise_xor(d, a), 32)
    c = c + d
    b = _turn(tf.bitwise.bitwise_xor(b, c), 24)
    a = a + b + y
    d = _turn(tf.bitwise.bitwise_xor(d, a), 16)
    c = c + d
    return a, _turn(tf.bitwise.bitwise_xor(b, c), 63), c, d


def _turn(value, bits: int):
    right, left = tf.constant(bits, tf.uint64), tf.constant(64 - bits, tf.uint64)
    return tf.bitwise.bitwise_or(tf.bitwise.right_shift(value, right), tf.bitwise.left_shift(value, left))
