"""Audio: clips opened with libsndfile, given to a processor at its own rate and never longer than it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmdpo import registry
from mmdpo.corruptions import Corruption, Graded, Strength
from mmdpo.media import MediaError
from mmdpo.media.audio import Audio, open_audio, resample
from mmdpo.modalities.base import Modality
from mmdpo.records import Media

NOISE_SNR_DB = 0.0
"""Power of the sound over power of the noise, in decibels: 0 is as much noise as sound."""
SHORTEST_SECONDS = 0.025
"""One window of a usual spectrum (400 samples at 16 kHz). Of less, some processors make not a single placeholder, so
that the clip would be gone from the prompt without a word, and others raise."""
SEGMENT_SECONDS = 0.25
"""Length of the pieces that change places: longer than a syllable or a knock, shorter than a sentence or a melody."""
LOW_PASS_HERTZ = 500.0
"""Highest frequency that is left: below most of what tells one vowel or one instrument from another."""


def blank(audio: Audio, generator: np.random.Generator) -> Audio:
    """Silence of the same length: what the answer's likelihood is without anything to hear."""
    del generator  # nothing random
    return Audio(np.zeros_like(audio.samples), audio.rate)


def noise(audio: Audio, generator: np.random.Generator, decibels: float = NOISE_SNR_DB) -> Audio:
    """The sound under white noise; silence stays silence."""
    white = generator.standard_normal(len(audio.samples))
    power = np.mean(np.square(audio.samples, dtype=np.float64)) / 10 ** (decibels / 10)
    added = white * np.sqrt(power / np.mean(np.square(white)))
    return Audio((audio.samples + added).astype(np.float32), audio.rate)


def low_pass(audio: Audio, generator: np.random.Generator, hertz: float = LOW_PASS_HERTZ) -> Audio:
    """The sound without its high frequencies, as through a wall; what has none of them stays as it is."""
    del generator  # nothing random
    spectrum = np.fft.rfft(audio.samples)
    spectrum[np.fft.rfftfreq(len(audio.samples), 1 / audio.rate) > hertz] = 0
    return Audio(np.fft.irfft(spectrum, len(audio.samples)).astype(np.float32), audio.rate)


def time_shuffle(audio: Audio, generator: np.random.Generator, seconds: float = SEGMENT_SECONDS) -> Audio:
    """The same sounds in another order: pieces change places; one piece alone stays as it is."""
    segment = max(1, round(seconds * audio.rate))
    pieces = np.split(audio.samples, range(segment, len(audio.samples), segment))
    return Audio(np.concatenate([pieces[n] for n in another_order(len(pieces), generator)]), audio.rate)


def another_order(count: int, generator: np.random.Generator) -> list[int]:
    """A random order of ``count`` things that is not their own order, where there is another."""
    order = generator.permutation(count)
    if np.array_equal(order, np.arange(count)):
        order = np.roll(order, 1)
    return [int(n) for n in order]


def audio_extractor(processor: Any) -> Any:
    """The part of a Hugging Face processor that takes samples; None where it takes no audio.

    Source: ``ProcessorMixin._audio_processor`` of transformers 5.23, under which most processors call it
    ``feature_extractor`` and Granite-Speech ``audio_processor``.
    """
    return getattr(processor, "audio_processor", getattr(processor, "feature_extractor", None))


def longest_clip(processor: Any) -> int | None:
    """Samples, at the extractor's rate, beyond which a processor would cut a clip; None where it never does.

    Read from what the processor says of itself (transformers 5.23): a processor that cuts clips into windows has
    ``max_audio_len`` (Audio Flamingo 3, Music Flamingo, GLM-ASR); any other passes its ``audio_kwargs`` to an extractor
    whose call cuts where ``truncation`` is set, at ``max_length`` (Gemma 3n and 4) or else at its ``n_samples``
    (Whisper's: Qwen2-Audio, Qwen2.5-Omni). Voxtral and Qwen3-Omni switch it off, Granite-Speech's has none.
    """
    extractor = audio_extractor(processor)
    windows = getattr(processor, "max_audio_len", None)
    if windows is not None:
        return int(windows // extractor.chunk_length) * int(extractor.sampling_rate * extractor.chunk_length)
    parameters = inspect.signature(extractor.__call__).parameters
    if "truncation" not in parameters:
        return None
    tokenizer = getattr(processor, "tokenizer", None)  # whose own settings reach the extractor, too
    given = processor._merge_kwargs(tokenizer_init_kwargs=getattr(tokenizer, "init_kwargs", {}))["audio_kwargs"]
    cuts, length = (given.get(name, parameters[name].default) for name in ("truncation", "max_length"))
    if not cuts:
        return None
    return length or getattr(extractor, "n_samples", None)


@registry.modalities.register("audio")
class AudioModality(Modality):
    """Sounds: speech, music, events."""

    name: ClassVar[str] = "audio"
    plural: ClassVar[str] = "audios"
    inputs: ClassVar[tuple[str, ...]] = (
        "input_features",
        "feature_attention_mask",
        "input_features_mask",
        "audio_input_features",
        "audio_attention_mask",
        "audio_embed_sizes",
    )
    corruptions: ClassVar[Mapping[str, Corruption]] = {
        "blank": blank,
        "noise": Graded(noise, Strength(NOISE_SNR_DB, -40, 60, "power of the sound over power of the noise in dB")),
        "low_pass": Graded(low_pass, Strength(LOW_PASS_HERTZ, 20, 20_000, "highest frequency left, in hertz")),
        "time_shuffle": Graded(time_shuffle, Strength(SEGMENT_SECONDS, 0.01, 60, "length of a piece in seconds")),
    }

    def load(self, media: Media, root: Path | None) -> Any:
        """An :class:`~mmdpo.media.audio.Audio` at the rate of its file."""
        return open_audio(media, root)

    def for_processor(self, item: Any, processor: Any) -> Any:
        """[n] float32 samples at the processor's rate; a processor without an audio part gets the item as it is.

        Raises:
            MediaError: The processor would cut the clip (``too_long_audio``) or drop it (``too_short_audio``).
        """
        extractor = audio_extractor(processor)
        if extractor is None:
            return item
        audio = resample(item, extractor.sampling_rate)
        if audio.seconds < SHORTEST_SECONDS:
            raise MediaError(
                "too_short_audio",
                f"the clip has {1000 * audio.seconds:.1f} milliseconds; {1000 * SHORTEST_SECONDS:g} are needed",
                why="A processor may make nothing of it, and the answer would be trained without the clip.",
                fix="Leave the record out.",
            )
        limit = longest_clip(processor)
        if limit is not None and len(audio.samples) > limit:
            raise MediaError(
                "too_long_audio",
                f"the clip has {audio.seconds:.2f} seconds, and {type(processor).__name__} takes "
                f"{limit / audio.rate:.2f} at most",
                why="It would cut off the end without a word, and the answer may be about what was there.",
                fix="Cut the clip and have the pieces rated, or use a model that takes longer clips.",
            )
        return audio.samples
