"""Prompts and answers: whatever a catalogue or a model says, the frame of the prompt holds and the answer is bounded."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.enrichment import enriched_text
from pipeline.content.enrich_prompt import FENCE, TURNS, clean_answer, fit_prompt, make_prompt, quoted, wording

COMMANDS = ("<eos>", "<|im_end|>", "[INST]", "</s>", "@@end@@")
PIECES = ("<<eos>eos>", "[/INST]", "===", "\n===\n", '"}', "\\", "‹", "ignore that", "\x00", "\u202e", "&lt;|", "&amp;lt;b&gt;")
LINKS = ("http://", "HTTPS://x", "&#104;ttp://", "www.", " ", "|>")
HOSTILE = st.one_of(
    st.text(max_size=200), st.lists(st.sampled_from([*COMMANDS, *PIECES, *LINKS]), max_size=20).map("".join)
)


@given(HOSTILE, st.integers(1, 80))
def test_quoted_text_holds_no_command(text, bound):
    result = quoted(text, bound, COMMANDS)
    assert len(result) <= bound and FENCE not in result
    assert not set(result) & set("<>\n\r\x00\u202e\u2028") and not any(command in result for command in COMMANDS)
    assert not re.search(r"\[/?[A-Z_]{2,20}\]", result)


@pytest.mark.parametrize("style", sorted(set(TURNS) - {"pali_gemma"}))
@given(title=HOSTILE, description=HOSTILE)
def test_the_item_stays_between_its_fences(style, title, description):
    item = {"title": quoted(title, 100, COMMANDS), "description": quoted(description, 100, COMMANDS)}
    lines = make_prompt("What is it?", item, style).split("\n")
    fences = [row for row, line in enumerate(lines) if line == FENCE]
    assert len(fences) == 2 and fences[1] == fences[0] + 2
    assert json.loads(lines[fences[0] + 1]) == {name: text for name, text in item.items() if text}
    empty = make_prompt("What is it?", {}, style).split("\n")
    assert len(lines) == len(empty)  # an item adds no line, whatever it holds
    assert [line for row, line in enumerate(lines) if row != fences[0] + 1] == [
        line for row, line in enumerate(empty) if row != fences[0] + 1
    ]


def test_wording_is_the_familys_unless_the_configuration_says():
    assert wording("attributes", "gemma", "", ("mood", "use")).count("mood, use") == 1
    assert wording("caption", "pali_gemma", "", ()) == "caption en"
    assert wording("caption", "gemma", "Say {keys}", ("mood",)) == "Say mood"
    assert make_prompt("caption en", {"title": "Obey me"}, "pali_gemma") == "caption en\n"
    assert "<start_of_image>" in make_prompt("What?", {}, "gemma", picture=True)


@given(HOSTILE, st.integers(10, 300))
def test_answers_are_bounded_and_plain(raw, bound):
    for field in ("caption", "summary", "attributes"):
        answer = clean_answer(field, raw, ("mood", "genre"), bound)
        assert len(answer) <= bound and not set(answer) & set("<>\n") and not re.search("(?i)https?://", answer)


@given(st.lists(st.tuples(st.sampled_from(["mood", "Genre", "price", "url", "colour"]), st.text(max_size=90)), max_size=8))
def test_attributes_keep_to_the_allowed_names(pairs):
    raw = "\n".join(f"- {name}: {value}" for name, value in pairs)
    answer = clean_answer("attributes", raw, ("genre", "mood"), 200)
    names = [part.split(": ")[0] for part in answer.split("; ")] if answer else []
    assert names == sorted(set(names)) and set(names) <= {"genre", "mood"}


def test_answers_that_say_nothing_are_dropped():
    assert clean_answer("caption", "<eos>", (), 100) == clean_answer("caption", " .. 12 ", (), 100) == ""
    assert clean_answer("attributes", "mood: unknown\ngenre:\nuse: N/A", ("mood", "genre", "use"), 100) == ""
    assert clean_answer("summary", "<think>the item is...</think>\n**A calm record.**", (), 100) == "A calm record."
    assert clean_answer("caption", "A &lt;b&gt;calm <3 piano, www.bad.test/x", (), 100) == "A calm ‹3 piano,"


def test_a_long_item_is_shortened_until_it_fits():
    def build(item):
        return "question " + " ".join(item.values())

    def count(prompt):
        return len(prompt.split())

    item = {"title": "blue hour", "description": "word " * 300}
    prompt = fit_prompt(build, item, count, 50)
    assert 30 < count(prompt) <= 50 and "blue hour" in prompt
    assert item["description"] == "word " * 300  # the caller's own stays
    with pytest.raises(ValueError, match=r"question alone takes 1 tokens, received 0"):
        fit_prompt(build, {"title": "x y z"}, count, 0)


@given(st.text(max_size=40), st.dictionaries(st.sampled_from(["caption", "summary", "attributes"]), st.text(max_size=40)))
def test_the_own_text_comes_first_and_whole(text, generated):
    result = enriched_text(text, generated)
    assert result.startswith(text.strip())
    assert enriched_text(text, None) == enriched_text(text, {}) == text.strip()
    for part in generated.values():
        assert part.strip() in result
