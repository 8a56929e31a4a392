"""Official archives, built here as they unpack: audio, texts, labels, and splits that cannot be mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mixvec import UserError
from mixvec.data.sources import Corpus
from tests.readers import assert_reads, find, write, write_text


def texts(corpus: Corpus) -> dict[str, str | None]:
    """Text by the name of the audio file; every utterance reads as its file does."""
    for utterance in corpus.utterances:
        assert_reads(utterance, Path(utterance.source))
    return {Path(u.source).name: u.text for u in corpus.utterances}


@pytest.mark.parametrize("split", ["train-clean-100", "1h/0/clean"])
def test_librispeech_and_libri_light(tmp_path: Path, split: str) -> None:
    """LibriSpeech's folders, and the ten minutes to ten hours of Libri-Light."""
    chapter = tmp_path / "LibriSpeech" / split / "84" / "121123"
    for number in range(3):
        write(chapter / f"84-121123-000{number}.flac")
    write_text(chapter / "84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR", "84-121123-0001 BUT IN LESS",
               "84-121123-0009 GONE")  # fmt: skip
    write_text(tmp_path / "LibriSpeech/SPEAKERS.TXT", "; some")
    expected = {"84-121123-0000.flac": "GO DO YOU HEAR", "84-121123-0001.flac": "BUT IN LESS"}
    for source in (tmp_path / "LibriSpeech" / split, tmp_path, chapter / "84-121123.trans.txt"):
        corpus = find(source)
        assert texts(corpus) == expected
        (fault,) = corpus.skipped
        assert fault["reason"].endswith("84-121123.trans.txt:3: no audio of 84-121123-0009 beside it")
    assert len(find(tmp_path, labels=False).utterances) == 3


def test_librispeech_as_a_whole_is_refused(tmp_path: Path) -> None:
    for split in ("train-clean-100", "train-other-500", "dev-clean"):
        write(tmp_path / "LibriSpeech" / split / "1/2/1-2-0.flac")
        write_text(tmp_path / "LibriSpeech" / split / "1/2/1-2.trans.txt", "1-2-0 A")
    hint = r"holds several splits \(dev, train\); name one, such as data\.train=.*/LibriSpeech/train-clean-100$"
    with pytest.raises(UserError, match=hint):
        find(tmp_path)
    both = [str(tmp_path / "LibriSpeech" / split) for split in ("train-clean-100", "train-other-500")]
    assert len(find(both).utterances) == 2


def test_common_voice(tmp_path: Path) -> None:
    """A tsv knows no quotes: sentences may begin with one. Old releases leave out ``.mp3``."""
    root = tmp_path / "cv-corpus-17.0/de"
    for name in "abc":
        write(root / f"clips/common_voice_de_{name}.mp3", 0.5)
    header = "client_id\tpath\tsentence\tup_votes\tage"
    write_text(root / "train.tsv", header, 'x\tcommon_voice_de_a.mp3\t"Ja," sagte er\t2\t',
               "x\tcommon_voice_de_b\tNein\t2\tteens", "x\tcommon_voice_de_gone.mp3\tWeg\t2\t")  # fmt: skip
    write_text(root / "test.tsv", header, "x\tcommon_voice_de_c.mp3\tNie\t2\t")
    corpus = find(root / "train.tsv")
    assert [(Path(u.source).name, u.text) for u in corpus.utterances] == [
        ("common_voice_de_a.mp3", '"Ja," sagte er'), ("common_voice_de_b.mp3", "Nein"),
    ]  # fmt: skip
    assert [row["reason"].rpartition("/")[2] for row in corpus.skipped] == ["common_voice_de_gone.mp3: no such file"]
    meant, _ = soundfile.read(root / "clips/common_voice_de_a.mp3", dtype="float32")
    np.testing.assert_allclose(corpus.utterances[0].read(), meant, atol=1e-6)
    with pytest.raises(UserError, match=r"did you mean data\.train=.*/de/train\.tsv\?"):
        find(root)


def test_voxpopuli(tmp_path: Path) -> None:
    root = tmp_path / "transcribed_data/en"
    ids = ["20180613-0900-PLENARY-15-en_20180613-17:09:48_3", "20190116-0900-PLENARY-en_0", "20190116-gone"]
    write(root / f"2018/{ids[0]}.wav")
    write(root / f"2019/{ids[1]}.wav", 0.75)
    rows = [f'{name}\t"Raw" {i}.\tnormalised {i}\t123\ttrain\tfemale' for i, name in enumerate(ids)]
    write_text(root / "asr_train.tsv", "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender", *rows)
    corpus = find(root / "asr_train.tsv")
    assert texts(corpus) == {f"{ids[0]}.wav": "normalised 0", f"{ids[1]}.wav": "normalised 1"}
    assert "asr_train.tsv:4: no audio of 20190116-gone in the folders of" in corpus.skipped[0]["reason"]
    with pytest.raises(UserError, match=r"did you mean data\.train=.*/en/asr_train\.tsv\?"):
        find(root)


def test_aishell(tmp_path: Path) -> None:
    root = tmp_path / "data_aishell"
    for split, name in (("train/S0002", "BAC009S0002W0122"), ("train/S0003", "BAC009S0003W0121"),
                        ("train/S0003", "BAC009S0003W0999"), ("test/S0764", "BAC009S0764W0121")):  # fmt: skip
        write(root / "wav" / split / f"{name}.wav")
    write_text(root / "transcript/aishell_transcript_v0.8.txt", "BAC009S0002W0122 而 对 楼市", "BAC009S0003W0121 甚至",
               "BAC009S0764W0121 出现")  # fmt: skip
    corpus = find(root / "wav/train")
    assert texts(corpus) == {"BAC009S0002W0122.wav": "而 对 楼市", "BAC009S0003W0121.wav": "甚至"}
    assert "BAC009S0003W0999.wav: no line of the transcript" in corpus.skipped[0]["reason"]
    assert list(texts(find(root / "wav/test"))) == ["BAC009S0764W0121.wav"]
    for whole in (root, root / "wav"):
        with pytest.raises(UserError, match=r"holds several splits \(test, train\); name one, such as .*/train$"):
            find(whole)


def test_tedlium(tmp_path: Path) -> None:
    split = tmp_path / "TEDLIUM_release-3/legacy/train"
    talk = write(split / "sph/911Mothers_2010W.sph", 3.0)
    write_text(
        split / "stm/911Mothers_2010W.stm",
        ";; a remark",
        "911Mothers_2010W 1 911Mothers_2010W 0.25 1.25 <o,f0,female> <unk> it 's what we <unk> do",
        "911Mothers_2010W 1 inter_segment_gap 1.25 1.5 <o,,unknown> ignore_time_segment_in_scoring",
        "911Mothers_2010W 1 911Mothers_2010W 1.5 2.75 <NA,f0,male> yes",
        "Gone_2010 1 x 0 1 <o,f0,male> no",
    )
    corpus = find(split)
    assert [u.text for u in corpus.utterances] == ["it's what we do", "yes"]
    assert_reads(corpus.utterances[0], talk, 0.25, 1.25)
    assert_reads(corpus.utterances[1], talk, 1.5, 2.75)
    assert [row["reason"].rpartition("/")[2] for row in corpus.skipped] == ["Gone_2010.sph: no such file"]
    assert [u.duration_s for u in find(split, labels=False).utterances] == [3.0]
    with pytest.raises(UserError, match=r"did you mean data\.train=.*/legacy/train\?"):
        find(tmp_path / "TEDLIUM_release-3")
    for line, message in (
        ("talk 1 x 1.0", r"stm:1: a segment is a talk"),
        ("talk 1 x 2 1 <o,f0,male> a", r"no length"),
    ):
        write_text(split / "stm/0.stm", line)
        with pytest.raises(UserError, match=message):
            find(split)


@pytest.mark.parametrize("labels", [False, True])
def test_speech_commands(tmp_path: Path, labels: bool) -> None:
    """The folder is the training split, labelled or not: nothing held out can slip into a pretraining."""
    for name in ("yes/0a_nohash_0", "yes/0b_nohash_0", "no/0a_nohash_0", "no/0c_nohash_1", "_background_noise_/pink"):
        write(tmp_path / f"{name}.wav")
    write_text(tmp_path / "validation_list.txt", "no/0c_nohash_1.wav")
    write_text(tmp_path / "testing_list.txt", "yes/0b_nohash_0.wav", "no/0z_nohash_0.wav")

    def found(source: Path) -> list[tuple[str, str | None]]:
        return [(str(Path(u.source).relative_to(tmp_path)), u.label) for u in find(source, labels=labels).utterances]

    assert found(tmp_path) == [("no/0a_nohash_0.wav", "no"), ("yes/0a_nohash_0.wav", "yes")]
    assert found(tmp_path / "validation_list.txt") == [("no/0c_nohash_1.wav", "no")]
    assert found(tmp_path / "testing_list.txt") == [("yes/0b_nohash_0.wav", "yes")]
    (fault,) = find(tmp_path / "testing_list.txt").skipped
    assert fault["reason"].endswith("no/0z_nohash_0.wav: no such file")


def test_the_twelve_classes_of_speech_commands(tmp_path: Path) -> None:
    """Noise is cut into seconds where it is asked for by name; the test archive of the 12 classes goes by folders."""
    write(tmp_path / "v2/_background_noise_/pink.wav", 2.5)
    write_text(tmp_path / "v2/_background_noise_/broken.wav", "no audio")
    write(tmp_path / "v2/yes/0a_nohash_0.wav")
    for name in ("validation_list.txt", "testing_list.txt"):
        write_text(tmp_path / "v2" / name)
    corpus = find([str(tmp_path / "v2"), str(tmp_path / "v2/_background_noise_")])
    assert [(u.label, u.start_s, u.duration_s) for u in corpus.utterances] == [
        ("yes", 0.0, 0.5), ("_silence_", 0.0, 1.0), ("_silence_", 1.0, 1.0),
    ]  # fmt: skip
    assert len(corpus.skipped) == 1 and "broken.wav" in corpus.skipped[0]["reason"]
    for name in ("_silence_", "_unknown_", "yes"):
        write(tmp_path / "test" / name / "1.wav")
    assert [u.label for u in find(tmp_path / "test").utterances] == ["_silence_", "_unknown_", "yes"]


def test_audio_snips(tmp_path: Path) -> None:
    root = tmp_path / "SNIPS"
    for name in ("Amy-snips-train-1", "Amy-snips-train-2", "Amy-snips-train-3", "Joey-snips-train-1"):
        write(root / f"train/{name}.mp3")
    write(root / "test/Amy-snips-test-1.mp3")
    write_text(
        root / "all.iob.snips.txt",
        "Amy-snips-train-1 BOS play new york by ze new EOS\tO O B-city I-city O B-artist B-artist PlayMusic",
        "Amy-snips-train-2 BOS play it EOS\tO O O O PlayMusic",
        "Joey-snips-train-1 BOS rain EOS\tO O GetWeather",
    )
    corpus = find(root / "train")
    assert [(u.text, u.label, u.speaker) for u in corpus.utterances] == [
        ("play new york by ze new", "PlayMusic", "Amy"),
        ("rain", "GetWeather", "Joey"),
    ]
    found = corpus.utterances[0].fields
    assert json.loads(found["tokens"]) == ["play", "new", "york", "by", "ze", "new"]
    assert json.loads(found["entities"]) == [
        {"type": "city", "span": [1, 2]}, {"type": "artist", "span": [4]}, {"type": "artist", "span": [5]},
    ]  # fmt: skip
    reasons = [row["reason"].rpartition("/")[2] for row in corpus.skipped]
    assert reasons == [
        "all.iob.snips.txt:2: 2 words and 3 tags",
        "Amy-snips-train-3.mp3: no line of all.iob.snips.txt is about it",
    ]
    with pytest.raises(UserError, match=r"holds several splits \(test, train\); name one, such as .*/SNIPS/train"):
        find(root)


@pytest.mark.parametrize("audio", ["dataset/slurp_real", "audio/slurp_real", "audio/slurp_synth"])
def test_slurp(tmp_path: Path, audio: str) -> None:
    for name in ("audio-1.flac", "audio-1-headset.flac", "audio-2.flac"):
        write(tmp_path / "slurp" / audio / name)
    rows = [
        {"slurp_id": 1, "sentence": "wake me up", "intent": "alarm_set", "action": "set", "scenario": "alarm",
         "tokens": [{"surface": "Wake", "id": 0}, {"surface": "me", "id": 1}, {"surface": "up", "id": 2}],
         "entities": [{"span": [0, 2], "type": "time"}],
         "recordings": [{"file": "audio-1.flac", "wer": 0.0}, {"file": "audio-1-headset.flac"}]},
        {"slurp_id": 2, "sentence": "louder", "action": "volume_up", "scenario": "audio",
         "recordings": [{"file": "audio-2.flac"}, {"file": "audio-gone.flac"}]},
    ]  # fmt: skip
    manifest = write_text(tmp_path / "slurp/dataset/slurp/train.jsonl", *map(json.dumps, rows))
    corpus = find(manifest)
    assert texts(corpus) == {
        "audio-1.flac": "wake me up",
        "audio-1-headset.flac": "wake me up",
        "audio-2.flac": "louder",
    }
    assert [u.label for u in corpus.utterances] == ["alarm_set", "alarm_set", "audio_volume_up"]
    assert corpus.utterances[0].fields["tokens"] == '["wake", "me", "up"]'
    assert corpus.utterances[1].fields["entities"] == '[{"span": [0, 2], "type": "time"}]'
    assert "train.jsonl:2: audio-gone.flac is in no folder slurp_real or slurp_synth" in corpus.skipped[0]["reason"]
    with pytest.raises(UserError, match=r"did you mean data\.train=.*/slurp/train\.jsonl\?"):
        find(tmp_path / "slurp/dataset")
    write_text(manifest, '{"sentence": "a", "recordings": [{"wer": 0}]}')
    with pytest.raises(UserError, match=r"train\.jsonl:1: a recording without a file"):
        find(manifest)


def test_fluent_speech_commands(tmp_path: Path) -> None:
    root = tmp_path / "fluent_speech_commands_dataset"
    for name in ("a", "b"):
        write(root / f"wavs/speakers/2BqVo8kVB2Skwgyb/{name}.wav")
    rows = [f'{i},wavs/speakers/2BqVo8kVB2Skwgyb/{name}.wav,2Bq,"Louder, now",increase,volume,none'
            for i, name in enumerate(["a", "b", "gone"])]  # fmt: skip
    write_text(root / "data/train_data.csv", ",path,speakerId,transcription,action,object,location", *rows)
    corpus = find(root / "data/train_data.csv")
    assert texts(corpus) == {"a.wav": "Louder, now", "b.wav": "Louder, now"}
    assert {u.label for u in corpus.utterances} == {"increase|volume|none"}
    assert [row["reason"].rpartition("/")[2] for row in corpus.skipped] == ["gone.wav: no such file"]
    with pytest.raises(UserError, match=r"did you mean data\.train=.*/data/train_data\.csv\?"):
        find(root)
