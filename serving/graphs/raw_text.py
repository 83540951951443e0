"""Raw text inside a graph: cleaned as at ingestion, cut into tokens by tensorflow-text, and encoded."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from serving.graphs.token_weights import TOKENS, TokenWeights

BLANKS = r"[\s\pZ\x{0b}\x{1c}-\x{1f}\x{85}]+"
DROPPED = (
    r"[\x{00}-\x{08}\x{0e}-\x{1b}\x{7f}-\x{84}\x{86}-\x{9f}\x{202a}-\x{202e}\x{2066}-\x{2069}\x{feff}\x{fffe}\x{ffff}]"
)
SPACES = r"[\s\p{Cc}\p{Cf}]"
KEPT_ALONE = (
    r"[!-/:-@\[-`{-~\p{P}\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{20000}-\x{2a6df}\x{2a700}-\x{2ceaf}\x{f900}-\x{faff}"
    r"\x{2f800}-\x{2fa1f}]"
)
"""Punctuation and Chinese characters, each a word of its own to BERT."""


def clean_text(texts: Any) -> tf.Tensor:
    """One line of NFC text a string, as `data.cleaning.clean_text` makes it: control characters dropped, blanks joined.

    Bytes that are no UTF-8 are dropped. HTML entities are left as they are, since no operation resolves them: resolve
    them before the request.

    Shapes: string [...] -> string [...].
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
    texts = tf.strings.regex_replace(texts, DROPPED, "")
    return tf_text.normalize_utf8(tf.strings.strip(tf.strings.regex_replace(texts, BLANKS, " ")), "NFC")


def item_text(title: Any, description: Any, categories: Any) -> tf.Tensor:
    """What a text encoder reads of an item; the rule is the encode stage's (`pipeline.content.encode.item_text`).

    Title and description, or title and categories where that is empty; categories ("a|b") alone are no text.

    Shapes: three times string [B] -> string [B].

    Example:
        >>> item_text(["Blue Hour"], [""], ["jazz| piano"]).numpy().tolist()
        [b'Blue Hour. jazz, piano']
    """
    title, description, categories = clean_text(title), clean_text(description), clean_text(categories)
    names = tf.strings.regex_replace(tf.strings.regex_replace(categories, r"^[\s|]+|[\s|]+$", ""), r"\s*\|[\s|]*", ", ")
    body = tf.where((description == "") & (title != ""), names, description)
    between = tf.where((title == "") | (body == ""), "", ". ")
    return tf.strings.join([title, between, body])


class RawText(tf.Module):
    """What text encoders share: texts cut to length, framed by marks, and a Keras model over padded tokens.

    Args:
        encoder: with `model`, `width`, `size` and perhaps `prefix` and `query_prefix`.
        length: tokens of a text, marks included.
        marks: ids of start, end and padding.

    Shapes: string [B] -> float32 [B, F_m].
    """

    def __init__(self, encoder: Any, length: int, marks: tuple[int, int, int]):
        super().__init__(name="raw_text")
        self.width, self.size, self.length = encoder.width, encoder.size, length
        self.prefix = getattr(encoder, "prefix", "")
        self.query_prefix = getattr(encoder, "query_prefix", self.prefix)
        self.start, self.end, self.padding = marks
        self.model = TokenWeights(encoder.model, "text")
        self.inputs = tuple(encoder.model.input)

    def pieces(self, texts: Any) -> tf.RaggedTensor:
        """Token ids [B, (T)] without marks, not yet cut."""
        raise NotImplementedError

    def tokens(self, texts: Any, prefix: str) -> tf.RaggedTensor:
        """Token ids int32 [B, (T)] as the model reads them, marks included."""
        texts = tf.strings.join([prefix, tf.strings.substr(texts, 0, self.size, unit="UTF8_CHAR")])
        pieces = self.pieces(texts)[:, : self.length - 2]
        mark = tf.ones((pieces.nrows(), 1), tf.int32)
        return tf.concat([mark * self.start, pieces, mark * self.end], axis=1)

    def __call__(self, texts: Any) -> tf.Tensor:
        """Vectors of items' texts."""
        return self._vectors(texts, self.prefix)

    def queries(self, texts: Any) -> tf.Tensor:
        """Vectors of questions, to be compared with those of items."""
        return self._vectors(texts, self.query_prefix)

    def _vectors(self, texts: Any, prefix: str) -> tf.Tensor:
        tokens = self.tokens(texts, prefix)
        ids, mask = tokens.to_tensor(self.padding), tf.cast(tf.sequence_mask(tokens.row_lengths()), tf.int32)
        given = {TOKENS: ids, "padding_mask": mask, "segment_ids": tf.zeros_like(ids)}
        return self.model({name: given[name] for name in self.inputs})


class WordPieceText(RawText):
    """BERT-like encoders of keras-hub (`pack:minilm`, `keras_hub:` with a word-piece vocabulary).

    Args:
        encoder: a `TextEmbedderEncoder` whose tokenizer is a keras-hub `BertTokenizer`; lower case, accents and length
            are its own.
    """

    def __init__(self, encoder: Any):
        tokenizer = encoder.preprocessor.tokenizer
        marks = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        super().__init__(encoder, int(encoder.preprocessor.sequence_length), marks)
        self.lowercase, self.strip_accents = bool(tokenizer.lowercase), bool(tokenizer.strip_accents)
        self.tokenizer = tf_text.FastWordpieceTokenizer(
            list(tokenizer.get_vocabulary()),
            suffix_indicator=tokenizer.suffix_indicator,
            unknown_token=tokenizer.oov_token,
            token_out_type=tf.int32,
            no_pretokenization=True,
        )

    def pieces(self, texts: Any) -> tf.RaggedTensor:
        """Words are cut at blanks, punctuation and Chinese characters, then into the longest pieces known."""
        if self.strip_accents:
            texts = tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
        words = tf_text.regex_split(texts, f"{SPACES}|{KEPT_ALONE}", keep_delim_regex_pattern=KEPT_ALONE)
        if self.lowercase:
            words = tf_text.case_fold_utf8(words)
        return self.tokenizer.tokenize(words).merge_dims(-2, -1)


class SentencePieceText(RawText):
    """Encoders whose tokenizer brings a SentencePiece model with its normalisation (`pack:e5`).

    Args:
        encoder: with `tokenizer`: `model` (the serialised SentencePiece model, its ids the encoder's own), `length`,
            `begin`, `end` and `padding`.
    """

    def __init__(self, encoder: Any):
        tokenizer = encoder.tokenizer
        super().__init__(encoder, tokenizer.length, (tokenizer.begin, tokenizer.end, tokenizer.padding))
        self.tokenizer = tf_text.SentencepieceTokenizer(tokenizer.model, out_type=tf.int32)

    def pieces(self, texts: Any) -> tf.RaggedTensor:
        """The likeliest cut of each text."""
        return self.tokenizer.tokenize(texts)


class XlmRobertaText(RawText):
    """XLM-RoBERTa encoders of keras-hub, such as `keras_hub:multilingual_e5_small`.

    Args:
        encoder: a `TextEmbedderEncoder` whose tokenizer is a keras-hub `XLMRobertaTokenizer`.
    """

    def __init__(self, encoder: Any):
        tokenizer = encoder.preprocessor.tokenizer
        marks = (tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.pad_token_id)
        super().__init__(encoder, int(encoder.preprocessor.sequence_length), marks)
        self.tokenizer = tf_text.SentencepieceTokenizer(tokenizer.proto, out_type=tf.int32)
        self.unknown = tokenizer.unk_token_id

    def pieces(self, texts: Any) -> tf.RaggedTensor:
        """SentencePiece's ids, one further on, with the unknown piece (0 there) at its own place."""
        pieces = self.tokenizer.tokenize(texts)
        return pieces.with_flat_values(tf.where(pieces.flat_values == 0, self.unknown, pieces.flat_values + 1))
