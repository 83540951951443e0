"""One modality of the encode stage: which refusals are remembered."""

import numpy as np
import pytest

from pipeline.content.encode_local import Encoded
from pipeline.content.encode_part import Part
from pipeline.content.encode_plan import Content, Plan
from towers.encoder_card import EncoderCard

CARD = EncoderCard("signal:", "00ff", "image", 2, 96)
PLAN = Plan("signal:", CARD, {1: Content("image", "a.png"), 2: Content("image", "b.png")}, {1: bytes(16), 2: b"b" * 16}, {})


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("no sound: the file has no sound track; leave `audio` empty or give a sound file", True),
        ("broken image: OSError: image file is truncated; save it again from the original picture", True),
        ("too large: at most 40,000,000 pixels; scale the picture down", True),
        ("broken image: MemoryError; save it again from the original picture", False),
        ("took too long: over 60 s to decode", False),
        ("crashed the decoder 2 times (SIGKILL)", False),
        ("decoder failed: ImportError: libsndfile", False),
        ("changed: missing: no file 'a.png' under the media folder", False),
    ],
)
def test_a_fault_of_the_content_itself_is_remembered_and_no_other(tmp_path, reason, kept):
    part = Part(PLAN, tmp_path, "media")
    (batch,) = part.missing(8)
    part.take(Encoded(batch, np.array([1]), np.ones((1, 2), np.float32), {0: reason}))
    part.close()
    again = Part(PLAN, tmp_path, "media")
    assert [batch.keys for batch in again.missing(8)] == ([] if kept else [(bytes(16),)])
    again.close()
