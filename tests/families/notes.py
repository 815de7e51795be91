"""What is worth knowing of a family and cannot be measured: limits, and traps of templates and processors."""

from __future__ import annotations

EXPERTS = "The experts are no linear layers: `lora: {targets: auto}` adapts the attention beside them"

NOTES: dict[str, str] = {
    "llava": "Its template renders content that is one plain string as nothing, and writes no end token after an "
    "answer; records with content parts are safe",
    "vipllava": "Its template writes no end token after an answer; `</s>` is added",
    "llava_onevision": "An image alone in its prompt becomes tiles, one of several becomes a single view, so the same "
    "image costs other tokens in another prompt. The videos of a prompt must have equally many frames: its processor "
    "stacks them",
    "internvl": "The videos of a prompt must have equally many frames: its processor stacks them",
    "qwen2_5_vl": "Positions count seconds in videos; they are taken from the times of the frames",
    "qwen3_vl": "Frames are written with their times in the prompt",
    "qwen3_vl_moe": EXPERTS,
    "qwen3_5": "The larger models' template ends a prompt inside an open thought",
    "glm4v": "Frames of a video are images to the model, each with its second written behind it. Its template ends no "
    "answer; what ends it is the next turn's `<|user|>`",
    "idefics2": "Images are cut into four quarters and the whole, and each is resampled to a fixed number of tokens",
    "smolvlm": "The processor needs the package `num2words`",
    "paligemma": "It has no chat template: images first, then the question and a newline; the whole prompt is attended "
    "to in both directions. Earlier turns would be run together with the question",
    "paligemma2": "As PaliGemma. Rows longer than the sliding window (4096 tokens in the published models) have no "
    "supported mask; the check at the start of a run finds them",
    "gemma3": "`lora: null` trains the projector, one bare parameter",
    "gemma4": "Tested with its image tower; the audio tower of the small published models is not tested",
    "gemma4_moe": EXPERTS,
    "mllama": "Images stay outside of the row and reach it through cross-attention layers, whose gates are 0 in a "
    "fresh model and not in a published one",
    "aya_vision": "Tile names (`TILE_1`, ...) between the placeholders are ordinary text",
    "qwen2_audio": "Clips longer than its window of 30 s would be cut without a word by its processor; they are set "
    "aside with the reason",
    "voxtral": "Every clip takes the tokens of whole windows of 30 s. Its `tekken.json` is read without "
    "`mistral-common`, with the same ids. A system turn together with audio is refused",
    "granite_speech": "Its processor needs torchaudio; where that is missing the test puts another mel spectrogram in "
    "its place. Its encoder has no mask, so the clips of a prompt are encoded together",
    "audioflamingo3": "Clips longer than 10 minutes are set aside with the reason",
    "qwen2_5_omni": "The thinker alone: text out, no speech",
    "qwen3_omni_moe": "The thinker alone: text out, no speech. Its audio encoder is not the same for a clip shorter "
    f"than a second alone and beside longer ones. {EXPERTS}",
}
