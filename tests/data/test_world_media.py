"""What generated worlds show, play and say: each factor in its own place, by meaning, among much that means nothing."""

import io

import mido
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.audio_decoder import decode_audio
from data.video_decoder import decode_sound_track, decode_video
from data.world import generate_world, load_oracle, world_config
from data.world_config import STYLES
from data.world_covers import paint_cover
from data.world_descriptions import describe_good
from data.world_frames import FRAMES, SIZE, film
from data.world_instruments import RATE
from data.world_photos import take_photo
from data.world_reviews import VIRTUES, mood_of, write_review
from data.world_score import DRUMS, PROGRAMS, TICKS, Note, compose, midi_bytes
from data.world_sound import play_clip, play_score, wav_bytes
from data.world_text import write_caption, write_text
from data.world_words import CHINESE_DEEDS, CHINESE_NAMES, DEEDS, NAMES
from towers.signal_image import SignalImageEncoder

MUSIC = world_config("music", items=60, users=30, events=300, midi_share=0.2)
VIDEO = world_config("video", items=60, users=30, events=300)
SHOP = world_config("shop", items=200, users=150, events=6000)


def made(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("world") / config.kind
    generate_world(folder, config)
    return folder, pd.read_parquet(folder / "items.parquet"), load_oracle(folder)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return made(tmp_path_factory, MUSIC)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return made(tmp_path_factory, VIDEO)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return made(tmp_path_factory, SHOP)


def read_midi(content):
    """Notes of a MIDI file, by another reader."""
    notes, open_notes, programs, tick = [], {}, {9: DRUMS}, 0
    file = mido.MidiFile(file=io.BytesIO(content))
    assert (len(file.tracks), file.ticks_per_beat) == (1, TICKS // 2)
    for message in file.tracks[0]:
        tick += message.time
        if message.type == "program_change":
            programs[message.channel] = message.program
        elif message.type == "note_on":
            open_notes[message.channel, message.note] = tick, message.velocity
        elif message.type == "note_off":
            start, velocity = open_notes.pop((message.channel, message.note))
            notes.append(Note(start, tick - start, message.note, velocity, programs[message.channel]))
        elif message.type == "set_tempo":
            assert message.tempo == 500_000
    assert not open_notes
    return sorted(notes, key=lambda note: (note.start, note.length, note.pitch, note.velocity, note.program))


def test_the_notes_of_a_midi_file_play_the_clip_beside_it(music):
    folder, items, _ = music
    clips = [(index, name) for index, name in items["audio"].dropna().items() if name.endswith(".wav")]
    for index, name in clips:
        notes = read_midi((folder / "media/midi" / f"{name[6:-4]}.mid").read_bytes())
        played = play_score(notes, np.random.default_rng([MUSIC.seed, 8, index]))
        assert wav_bytes(played) == (folder / "media" / name).read_bytes()


def test_every_sound_has_notes_and_some_tracks_have_only_these(music):
    folder, items, _ = music
    audio = items["audio"].dropna()
    only = audio[audio.str.endswith(".mid")]
    assert 4 <= len(only) <= 20
    assert {path.stem for path in (folder / "media/midi").iterdir()} == {name.split("/")[1][:-4] for name in audio}
    for name in only:
        assert not (folder / "media/clips" / f"{name[5:-4]}.wav").exists()
        assert np.abs(decode_audio((folder / "media" / name).read_bytes(), 3 * RATE)).max() > 0.01


@pytest.mark.parametrize("style", range(STYLES))
def test_a_score_has_its_lead_and_survives_midi(style):
    for seed in range(20):
        notes = compose(style, np.random.default_rng([style, seed]))
        assert PROGRAMS[style] in {note.program for note in notes}
        assert not {note.program for note in notes} & (set(PROGRAMS) - {PROGRAMS[style]})
        assert all(0 <= note.start < 3 * TICKS and note.length > 0 and 0 <= note.pitch < 128 for note in notes)
        assert read_midi(midi_bytes(notes)) == notes


def test_media_are_what_the_format_says(music):
    folder, items, _ = music
    with Image.open(folder / "media" / items["image"].dropna().iloc[0]) as cover:
        assert (cover.format, cover.mode, cover.size) == ("PNG", "RGB", (128, 128))
    clip = next(name for name in items["audio"].dropna() if name.endswith(".wav"))
    assert len(decode_audio((folder / "media" / clip).read_bytes(), 3 * RATE)) == 3 * RATE


def test_videos_move_and_most_of_them_sound(video):
    folder, items, _ = video
    moved, silent, heard = [], 0, 0
    for name in items["video"].dropna():
        content = (folder / "media" / name).read_bytes()
        frames = decode_video(content, 8, SIZE).astype(float)
        moved.append(np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)).max())
        try:
            heard += np.abs(decode_sound_track(content, 3 * RATE)).max() > 0.005
        except ValueError:
            silent += 1
    assert min(moved) > 0.3
    assert silent >= 1 and heard == len(moved) - silent
    assert items["title"].isna().any() and items["video"].isna().any()


def test_a_video_file_holds_the_frames_that_were_drawn(video):
    folder, items, oracle = video
    index = items["video"].first_valid_index()
    style = int(oracle.factors["style"][index, 1])
    drawn = film(style, np.random.default_rng([VIDEO.seed, 6, index]))
    read = decode_video((folder / "media" / items["video"].iat[index]).read_bytes(), FRAMES, SIZE)
    assert np.abs(read.astype(float) - drawn).mean() < 8


def test_ratings_and_the_mood_of_words_go_together(shop):
    folder, items, oracle = shop
    events = pd.read_parquet(folder / "interactions.parquet")
    bought = events["event"] == "purchase"
    assert events["value"].notna().eq(bought).all() and events.loc[bought, "value"].isin([1, 2, 3, 4, 5]).all()
    said = events[events["review"].notna()]
    assert 0.4 < len(said) / bought.sum() < 0.6 and set(said["event"]) == {"purchase"}
    openings = said.groupby(said["review"].str.extract(r"^([^.!:。！]+[.!:。！])")[0])["value"].apply(
        lambda stars: {mood_of(int(star)) for star in stars}
    )
    assert (openings.str.len() == 1).all() and set.union(*openings) == {0, 1, 2}
    chinese = said["review"].str.contains("[\u4e00-\u9fff]")
    assert 0.1 < chinese.mean() < 0.35
    # Better goods are rated better, and testers said so before anyone bought.
    appeal = pd.Series(oracle.factors["appeal"], oracle.item_ids)
    quoted = items[items["description"].str.contains("Testers said", na=False)]
    praised = quoted["description"].str.contains("Love it!|Delighted|Worth every|What a find|Very happy|recommend it")
    blamed = quoted["description"].str.contains("Disappointed|Sent it back|Never again|waste of money|expected more|Sad to")
    better, worse = quoted[praised & ~blamed], quoted[blamed & ~praised]
    assert appeal[better["item_id"]].mean() > appeal[worse["item_id"]].mean() + 0.5


def test_reviews_speak_of_their_virtue_in_every_mood():
    rng = np.random.default_rng(0)
    for chinese in (False, True):
        told = []
        for virtue in range(len(VIRTUES)):
            reviews = [write_review(virtue, stars, chinese, rng) for stars in range(1, 6) for _ in range(40)]
            end = "。！：" if chinese else ".!:"
            told.append({review[min(review.find(mark) for mark in end if mark in review) + 1 :].strip() for review in reviews})
        assert all(told[a].isdisjoint(told[b]) for a in range(len(VIRTUES)) for b in range(a))
    with pytest.raises(ValueError, match="stars"):
        write_review(0, 6, False, rng)


def test_material_goes_with_what_reviews_speak_of_and_colour_with_nothing(shop):
    _, items, oracle = shop
    style = pd.Series(oracle.factors["style"][:, 2], items.index)
    known = items["material"].notna()
    agreement = pd.crosstab(style[known], items.loc[known, "material"]).max(axis=1) / style[known].value_counts().sort_index()
    assert agreement.between(0.4, 0.9).all()


def test_themes_share_no_words():
    for bank in (NAMES, DEEDS, CHINESE_NAMES, CHINESE_DEEDS):
        assert len(bank) == STYLES
        assert all(set(bank[a]).isdisjoint(bank[b]) for a in range(STYLES) for b in range(a))
        assert all(len(set(words)) == len(words) for words in bank)


@pytest.mark.parametrize("write", [write_text, lambda *given: ("", write_caption(*given))])
@pytest.mark.parametrize("chinese", [False, True])
def test_wordings_vary_and_tell_one_theme(write, chinese):
    rng = np.random.default_rng(0)
    names, deeds = (CHINESE_NAMES, CHINESE_DEEDS) if chinese else (NAMES, DEEDS)
    for theme in range(STYLES):
        texts = [" ".join(write(theme, chinese, rng)) for _ in range(60)]
        assert len(set(texts)) > 50
        banks = [[word.lower() for word in (*names[other], *deeds[other])] for other in range(STYLES)]
        told = [sum(any(word in text.lower() for word in bank) for text in texts) for bank in banks]
        assert told[theme] == 60
        # Short words may stand inside longer ones of another theme; nothing else may.
        assert all(count < 25 for other, count in enumerate(told) if other != theme)


def nearest_centroid(features, styles, train):
    """Accuracy of the nearest class mean, fitted on the first `train`."""
    scale = features[:train].std(0) + 1e-9
    centres = np.array([features[:train][styles[:train] == style].mean(0) for style in range(STYLES)]) / scale
    distance = ((features[train:, None] / scale - centres) ** 2).sum(2)
    return float((distance.argmin(1) == styles[train:]).mean())


def test_shapes_tell_what_a_cover_shows_and_colours_do_not():
    styles = np.arange(240) % STYLES
    covers = np.stack([paint_cover(style, np.random.default_rng([9, index])) for index, style in enumerate(styles)])
    colours = np.concatenate([covers.mean((1, 2)), covers.std((1, 2))], axis=1)
    assert nearest_centroid(colours, styles, 160) < 0.35, "chance is 0.17"
    shapes = SignalImageEncoder(128).encode(covers)[:, -92:]  # orientations, band energies, polar spectrum
    assert nearest_centroid(shapes, styles, 160) > 0.35


def test_loudness_and_balance_do_not_tell_who_plays():
    styles = np.arange(240) % STYLES
    clips = np.stack([play_clip(int(style), np.random.default_rng([9, index])) for index, style in enumerate(styles)])
    power = np.abs(np.fft.rfft(clips / 32768.0)) ** 2
    edges = np.unique(np.geomspace(100, power.shape[1] - 1, 8).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-6)
    assert nearest_centroid(bands, styles, 160) < 0.45, "chance is 0.17"
    loud = np.abs(clips).max(1) / 32768
    assert loud.max() / loud.min() > 8


@pytest.mark.parametrize(
    "make",
    [
        paint_cover,
        play_clip,
        film,
        lambda style, rng: write_text(style, False, rng),
        lambda style, rng: write_caption(style, False, rng),
        lambda style, rng: describe_good(style, 0, ("mug",), False, rng),
        lambda style, rng: take_photo(style, 0, 0, rng),
    ],
)
def test_unknown_styles_are_refused(make):
    with pytest.raises(ValueError, match=r"must be in 0\.\.5, received 6"):
        make(6, np.random.default_rng(0))
