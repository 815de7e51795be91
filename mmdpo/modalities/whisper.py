"""Whisper's encoder for audio: log-mel windows in, stacked frames out; the tokens of a clip follow its real length.

Facts (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2, and
``transformers.WhisperFeatureExtractor``): audio at 16 kHz, one mel frame for every 160 samples, one encoder frame for
every two mel frames, windows of 30 seconds padded with silence. Encoder frames that lie wholly in the padding are cut
after the encoder and before stacking, so a short clip costs few tokens. A longer clip becomes several windows.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmdpo.errors import ConfigError, DataError
from mmdpo.media.audio import Audio, resample, resampled_length
from mmdpo.modalities.encoders import MediaEncoder

RATE = 16_000
"""Samples a second that Whisper was trained on."""
SAMPLES_PER_FRAME = 320
"""Samples for one encoder frame: hop of 160, and a convolution of stride 2."""


@dataclass(frozen=True, kw_only=True)
class WhisperFeatures(MediaEncoder):
    """Encoder frames of Whisper, ``stack`` of them joined to one vector.

    An item is a :class:`mmdpo.media.audio.Audio`.

    Args:
        config: Fields of a ``transformers.WhisperConfig``; read from ``path`` when empty. Its
            ``max_source_positions`` is the window in encoder frames of 20 ms (1500 for the published 30 seconds).
        path: Folder or hub name of a pretrained Whisper, for :meth:`load`.
        stack: Encoder frames for one token; 4 is 12.5 tokens a second.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_features", "lengths")

    config: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    stack: int = 4

    def __post_init__(self) -> None:
        from transformers import WhisperConfig

        if self.stack < 1:
            raise ConfigError(
                f"whisper: stack is {self.stack}",
                why="It is the number of encoder frames that become one token.",
                fix="Give a number of at least 1.",
            )
        if not self.config:
            if self.path is None:
                raise ConfigError(
                    "whisper: neither config nor path is given",
                    why="The size of the encoder is not known.",
                    fix="Give path: with a pretrained Whisper, or config: with fields of a WhisperConfig.",
                )
            pretrained = WhisperConfig.from_pretrained(self.path).to_diff_dict()
            object.__setattr__(self, "config", {k: v for k, v in pretrained.items() if k not in _NOT_SIZES})

    @functools.cached_property
    def _whisper(self) -> Any:
        from transformers import WhisperConfig

        return WhisperConfig(**self.config)

    @property
    def width(self) -> int:
        """``stack`` times the encoder's width."""
        return int(self._whisper.d_model) * self.stack

    @property
    def window(self) -> int:
        """Samples of one window."""
        return int(self._whisper.max_source_positions) * SAMPLES_PER_FRAME

    def tokens(self, item: Any) -> int:
        """Frames of all windows by ``stack``, rounded up; from the number of samples alone."""
        return -(-sum(self._frames(_length(item))) // self.stack)

    def prepare(self, item: Any) -> dict[str, Tensor]:
        """``input_features`` [1, windows, mels, mel frames] float32 and ``lengths`` [1, windows] in encoder frames.

        Raises:
            DataError: The clip has no samples, is not mono, or has values that are not finite.
        """
        length = _length(item)
        if not np.isfinite(item.samples).all():
            raise DataError(
                "an audio clip has samples that are not finite",
                why="One NaN makes every log-probability after it NaN.",
                fix="Decode the clip again, or leave it out.",
            )
        samples = resample(item, RATE).samples
        windows = [samples[start : start + self.window] for start in range(0, length, self.window)]
        mels = _extractor(int(self._whisper.num_mel_bins))(
            windows, sampling_rate=RATE, padding="max_length", max_length=self.window, return_tensors="np"
        )["input_features"]
        return {"input_features": torch.from_numpy(mels)[None], "lengths": torch.tensor([self._frames(length)])}

    def build(self) -> nn.Module:
        """A fresh encoder."""
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperTower(WhisperEncoder(self._whisper), self.stack)

    def load(self) -> nn.Module:
        """The encoder of the pretrained Whisper at ``path``; a fresh one without ``path``."""
        from transformers import WhisperModel

        if self.path is None:
            return self.build()
        return WhisperTower(WhisperModel.from_pretrained(self.path, use_safetensors=True).encoder, self.stack)

    def _frames(self, length: int) -> list[int]:
        """Encoder frames of each window that are not padding, of a clip of ``length`` samples at 16 kHz."""
        starts = range(0, length, self.window)
        return [-(-min(self.window, length - start) // SAMPLES_PER_FRAME) for start in starts]


class WhisperTower(nn.Module):
    """Whisper's encoder, padding cut, windows of a clip joined, frames stacked.

    Args:
        encoder: ``transformers``' Whisper encoder.
        stack: Frames for one vector.
    """

    def __init__(self, encoder: nn.Module, stack: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stack = stack

    def forward(self, input_features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Encodes clips.

        Args:
            input_features: [n, windows, mels, mel frames].
            lengths: [n, windows] encoder frames that are not padding; 0 for a window that is padding of the batch.

        Returns:
            For each clip [tokens_i, stack * d_model].
        """
        used = lengths > 0
        frames = self.encoder(input_features[used]).last_hidden_state
        kept = [window[:length] for window, length in zip(frames, lengths[used].tolist(), strict=True)]
        clips, start = [], 0
        for count in used.sum(1).tolist():
            clips.append(self._stacked(torch.cat(kept[start : start + count])))
            start += count
        return clips

    def _stacked(self, frames: Tensor) -> Tensor:
        """[frames, d] to [tokens, stack * d]; what is missing in the last group is zero."""
        missing = -len(frames) % self.stack
        return nn.functional.pad(frames, (0, 0, 0, missing)).reshape(-1, self.stack * frames.shape[1])


_NOT_SIZES = {"_name_or_path", "architectures", "dtype", "model_type", "transformers_version", "use_cache"}


@functools.lru_cache(maxsize=4)
def _extractor(mels: int) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=mels, sampling_rate=RATE)


def _length(item: Audio) -> int:
    """Samples of a clip at 16 kHz, known from its length alone."""
    shape = np.shape(item.samples)
    if len(shape) != 1 or shape[0] == 0:
        raise DataError(
            f"an audio clip has samples of shape {tuple(shape)}",
            why="There is nothing to hear." if 0 in shape else "Whisper takes one channel.",
            fix="Leave the clip out." if 0 in shape else "Mix the channels to one, float32 [n].",
        )
    return resampled_length(shape[0], item.rate, RATE)
