"""Tiny randomly initialised keras-hub models as preset folders: every kind of encoder without a model hub."""

import io
import itertools
import string
from pathlib import Path

WORDS = ("slow", "piano", "jazz", "blue", "hour", "rain", "on", "glass", "drums", "night", "city", "song", "a", "the")
LETTERS = string.ascii_lowercase + string.digits + ".,:;!?'\"`()[]{}<>|_-=/\\&%$#@*+~^ \n"


def preset(build):
    """`build()` gives a model, or a model and what reads its inputs; every weight is drawn from `seed`, and all of it is
    saved into `folder`, and given back."""

    def save(folder, seed=0):
        import keras

        keras.utils.set_random_seed(seed)
        Path(folder).mkdir(parents=True, exist_ok=True)
        made = build()
        for part in made if isinstance(made, tuple) else (made,):
            part.save_to_preset(str(folder))
        return made

    return save


def sentence_piece(special=()):
    """A character-level SentencePiece model as bytes: `<pad> </s> <s> <unk>`, the special pieces, then letters."""
    import sentencepiece

    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([LETTERS.replace("\n", " "), *WORDS] * 20),
        model_writer=stream,
        model_type="CHAR",
        vocab_size=4 + len(special) + 67,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="</s>" if "<eos>" not in special else "<eos>",
        bos_piece="<s>" if "<bos>" not in special else "<bos>",
        user_defined_symbols=[piece for piece in special if piece not in ("<eos>", "<bos>")],
        minloglevel=2,
    )
    return stream.getvalue()


def byte_pairs(first=(), last=()):
    """Vocabulary and merges of a byte-pair tokenizer that knows letters, `WORDS` and some special tokens."""
    letters = ["Ġ", *"abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"`()[]{}<>|_-=/&#Ċ"]
    merges, pieces = [], []
    for word in WORDS:
        for prefix in ("", "Ġ"):
            joined = (prefix + word)[0]
            for letter in (prefix + word)[1:]:
                if f"{joined} {letter}" not in merges:
                    merges.append(f"{joined} {letter}")
                joined += letter
                pieces.append(joined)
    tokens = dict.fromkeys(itertools.chain(first, letters, pieces, last))
    return {token: row for row, token in enumerate(tokens)}, merges


@preset
def bert():
    import keras_hub

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "passage", "query", ":", "."]
    tokenizer = keras_hub.tokenizers.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary), num_layers=2, num_heads=2, hidden_dim=12, intermediate_dim=24, dropout=0.0
    )
    return backbone, tokenizer


@preset
def roberta():
    """A backbone for which keras-hub has no text embedder."""
    import keras_hub

    vocabulary, merges = byte_pairs(first=("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    tokenizer = keras_hub.tokenizers.RobertaTokenizer(vocabulary=vocabulary, merges=merges)
    backbone = keras_hub.models.RobertaBackbone(
        vocabulary_size=len(vocabulary), num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16, dropout=0.0
    )
    return backbone, tokenizer


@preset
def t5():
    """An encoder-decoder; only its encoder is wanted."""
    import keras_hub

    tokenizer = keras_hub.tokenizers.T5Tokenizer(proto=sentence_piece())
    backbone = keras_hub.models.T5Backbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
    )
    return backbone, tokenizer


@preset
def vit():
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=16, num_layers=1, num_heads=2, hidden_dim=12, mlp_dim=24
    )
    return backbone, keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 255)


@preset
def dinov2():
    import keras_hub

    backbone = keras_hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=1,
        hidden_dim=12,
        num_heads=2,
        intermediate_dim=24,
        num_register_tokens=2,
        image_shape=(28, 28, 3),
        position_embedding_shape=(28, 28, 3),
    )
    return backbone, keras_hub.layers.DINOV2ImageConverter(image_size=(28, 28), scale=1 / 255)


@preset
def efficientnet():
    import keras_hub

    backbone = keras_hub.models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0],
        stackwise_depth_coefficients=[1.0],
        stackwise_kernel_sizes=[3],
        stackwise_num_repeats=[1],
        stackwise_input_filters=[8],
        stackwise_output_filters=[8],
        stackwise_expansion_ratios=[1],
        stackwise_strides=[1],
        stackwise_block_types=["v1"],
        stackwise_squeeze_and_excite_ratios=[0.25],
        stackwise_force_input_filters=[0],
        stackwise_nores_option=[False],
        dropout=0.0,
    )
    return backbone, keras_hub.layers.EfficientNetImageConverter(image_size=(33, 33), scale=1 / 255)


@preset
def whisper():
    import keras_hub

    backbone = keras_hub.models.WhisperBackbone(
        vocabulary_size=20, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16
    )
    return backbone, keras_hub.layers.WhisperAudioConverter()


@preset
def moonshine():
    import keras_hub

    backbone = keras_hub.models.MoonshineBackbone(
        vocabulary_size=20,
        filter_dim=16,
        encoder_num_layers=1,
        decoder_num_layers=1,
        hidden_dim=16,
        intermediate_dim=16,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )
    return backbone, keras_hub.layers.MoonshineAudioConverter()


@preset
def clip():
    import keras_hub

    vocabulary, merges = byte_pairs(last=("<|startoftext|>", "<|endoftext|>"))
    vocabulary |= {f"{letter}</w>": len(vocabulary) + row for row, letter in enumerate(string.ascii_lowercase)}
    for token in ("<|startoftext|>", "<|endoftext|>"):  # the text tower reads the highest id
        vocabulary.pop(token)
    vocabulary = {token: row for row, token in enumerate([*vocabulary, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = keras_hub.tokenizers.CLIPTokenizer(vocabulary=vocabulary, merges=merges)
    vision = keras_hub.models.CLIPVisionEncoder(
        patch_size=16, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=24, image_shape=(32, 32, 3)
    )
    text = keras_hub.models.CLIPTextEncoder(
        vocabulary_size=len(vocabulary),
        embedding_dim=16,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=24,
        max_sequence_length=20,
    )
    backbone = keras_hub.models.CLIPBackbone(vision_encoder=vision, text_encoder=text, projection_dim=10)
    converter = keras_hub.layers.CLIPImageConverter(image_size=(32, 32), scale=1 / 255)
    return backbone, keras_hub.models.CLIPPreprocessor(tokenizer, converter, sequence_length=20)


@preset
def siglip():
    import keras_hub

    tokenizer = keras_hub.tokenizers.SigLIPTokenizer(proto=sentence_piece())
    vision = keras_hub.models.SigLIPVisionEncoder(
        patch_size=16, hidden_dim=12, num_layers=1, num_heads=2, intermediate_dim=24, image_shape=(32, 32, 3)
    )
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=tokenizer.vocabulary_size(),
        embedding_dim=12,
        hidden_dim=12,
        num_layers=1,
        num_heads=2,
        intermediate_dim=24,
        max_sequence_length=24,
    )
    backbone = keras_hub.models.SigLIPBackbone(vision_encoder=vision, text_encoder=text)
    converter = keras_hub.layers.SigLIPImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1)
    return backbone, keras_hub.models.SigLIPPreprocessor(tokenizer, converter, sequence_length=24)


@preset
def gpt2():
    """A causal language model, to write gibberish with."""
    import keras_hub

    vocabulary, merges = byte_pairs(last=("<|endoftext|>",))
    tokenizer = keras_hub.tokenizers.GPT2Tokenizer(vocabulary=vocabulary, merges=merges)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(vocabulary),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
        max_sequence_length=1024,
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=1024)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor)


@preset
def pali_gemma():
    """A vision-language model, to write gibberish about pictures with."""
    import keras_hub

    special = ("<bos>", "<eos>", *(f"<loc{row:04}>" for row in range(2)), "<img>")
    tokenizer = keras_hub.tokenizers.PaliGemmaTokenizer(proto=sentence_piece(special))
    backbone = keras_hub.models.PaliGemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        image_size=16,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=4,
        vit_patch_size=8,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=1,
    )
    converter = keras_hub.layers.PaliGemmaImageConverter(image_size=(16, 16), scale=1 / 127.5, offset=-1)
    preprocessor = keras_hub.models.PaliGemmaCausalLMPreprocessor(tokenizer, converter, sequence_length=256)
    return keras_hub.models.PaliGemmaCausalLM(backbone=backbone, preprocessor=preprocessor)


@preset
def gemma3():
    """A vision-language model that takes a picture or none."""
    import keras_hub

    special = ("<bos>", "<eos>", "<img>", "<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>")
    tokenizer = keras_hub.tokenizers.Gemma3Tokenizer(proto=sentence_piece(special))
    vision = keras_hub.models.Gemma3VisionEncoder(
        image_size=16,
        patch_size=4,
        num_heads=2,
        hidden_dim=8,
        num_layers=1,
        intermediate_dim=16,
        output_dim=8,
        pool_size=2,
    )
    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        image_size=16,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=4,
        vision_encoder=vision,
    )
    for weight in backbone.weights:  # louder than its start, so that its answers depend on what it sees
        if len(weight.shape) > 1:
            weight.assign(weight * 3)
    converter = keras_hub.layers.Gemma3ImageConverter(image_size=(16, 16), scale=1 / 127.5, offset=-1)
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(
        tokenizer, converter, sequence_length=256, num_vision_tokens_per_image=4
    )
    return keras_hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=preprocessor)


@preset
def embedding_gemma():
    """A Gemma 3 with a pooling head: its width is not that of its states."""
    import keras_hub

    tokenizer = keras_hub.tokenizers.Gemma3Tokenizer(proto=sentence_piece(("<bos>", "<eos>")), has_vision_tokens=False)
    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        image_size=16,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        head_dim=4,
        use_bidirectional_attention=True,
        is_embedding_model=True,
        pooling_intermediate_dim=12,
        embedding_dim=6,
    )
    return backbone, tokenizer
