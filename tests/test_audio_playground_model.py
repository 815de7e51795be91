"""The model of the world of sounds: a real composed Whisper and Llama, its recipe, and the weights that ship."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperFeatureExtractor

from mmdpo.models.load import SHIPPED, load_pretrained
from mmdpo.playground.audio import recipe
from mmdpo.playground.audio.model import build
from mmdpo.playground.audio.sounds import render
from mmdpo.playground.audio.text import LANGUAGE
from mmdpo.playground.audio.world import RATE, SECONDS, scenes
from mmdpo.playground.audio.worlds import SOUNDS as WORLD
from mmdpo.playground.measure import greedy_replies, measure_captions, question_accuracy


@pytest.fixture(scope="module")
def fresh() -> tuple[Any, Any]:
    return build(seed=0)


def test_every_training_text_is_known_and_decodes_to_itself(fresh: tuple[Any, Any]) -> None:
    encoder = recipe.text_encoder(fresh[1])
    tokenizer = fresh[1].tokenizer
    for scene in scenes(300, 0, "train"):
        for prompt, reply in LANGUAGE.texts(scene):
            assert tokenizer.unk_token_id not in encoder.prompt(prompt) + encoder.answer(reply)
            assert tokenizer.decode(encoder.answer(reply), skip_special_tokens=True) == reply


def test_what_is_learned_is_what_generate_is_given(fresh: tuple[Any, Any]) -> None:
    """The ids of prompt + answer are those of the template's rendering of the finished dialogue, token for token."""
    processor = fresh[1]
    encoder = recipe.text_encoder(processor)
    clip = recipe.clip(scenes(1, 0, "heldout")[0])
    for prompt, reply in (
        (LANGUAGE.caption_prompt, "On a shore there is a horn and a beep."),
        (LANGUAGE.question("buzz"), "No"),
    ):
        dialogue = [
            {"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": prompt}]},
            {"role": "assistant", "content": [{"type": "text", "text": reply}]},
        ]
        rendered = processor.apply_chat_template(dialogue, tokenize=True, return_dict=True, return_tensors="pt")
        assert rendered["input_ids"][0].tolist() == encoder.prompt(prompt) + encoder.answer(reply)
        text = processor.apply_chat_template(dialogue, tokenize=False)
        assert text == f"USER: <audio>{prompt} ASSISTANT: {reply}</s>"


def test_a_clip_is_whispers_own_log_mel_and_twenty_tokens(fresh: tuple[Any, Any]) -> None:
    model, processor = fresh
    few = scenes(3, 0, "train")
    official = WhisperFeatureExtractor(chunk_length=SECONDS)(
        [render(scene) for scene in few], sampling_rate=RATE, return_tensors="pt"
    )["input_features"]
    inputs = recipe.encoder_inputs(processor, few)
    torch.testing.assert_close(inputs["input_features"][:, 0], official)
    features = model.model.get_media_features("audio", **inputs).pooler_output
    assert [len(feature) for feature in features] == [20, 20, 20]
    assert recipe.text_encoder(processor).prompt(LANGUAGE.caption_prompt).count(model.config.audio_token_id) == 20


def test_the_loss_is_that_of_the_model_itself(fresh: tuple[Any, Any]) -> None:
    """The oracle runs one row at a time through the model's own forward with its own labels."""
    model, processor = fresh
    encoder = recipe.text_encoder(processor)
    batch = scenes(3, 0, "train")
    total, count = 0.0, 0
    for scene in batch:
        inputs = {f"audio_{name}": value for name, value in recipe.encoder_inputs(processor, [scene]).items()}
        for texts in LANGUAGE.texts(scene):
            loss = model(**encoder.rows([texts]), **inputs).loss.item()
            tokens = len(encoder.answer(texts[1]))
            total, count = total + loss * tokens, count + tokens
    texts_of_all = [LANGUAGE.texts(scene) for scene in batch]
    found = recipe.clip_loss(model, encoder, recipe.encoder_inputs(processor, batch), texts_of_all)
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def test_clips_come_again_in_another_order_and_with_other_texts() -> None:
    turns = list(itertools.islice(recipe._shuffled(50, seed=0), 150))
    for turn in range(3):
        part = turns[50 * turn : 50 * (turn + 1)]
        assert sorted(number for number, _ in part) == list(range(50))
        assert {which for _, which in part} == {turn}
    assert [number for number, _ in turns[:50]] != [number for number, _ in turns[50:100]]
    scene = scenes(1, 0, "train")[0]
    assert LANGUAGE.texts(scene) == LANGUAGE.texts(scene)
    assert len({str(LANGUAGE.texts(scene, turn)) for turn in range(8)}) > 1


@pytest.mark.slow
def test_the_recipe_learns_from_nothing_and_saves_a_model_that_loads(tmp_path: Path) -> None:
    model, processor, losses = recipe.train(steps=8, seed=1, clips=32)
    assert losses[0] == pytest.approx(math.log(len(processor.tokenizer)), abs=1.0), "starts near chance"
    assert losses[-1] < 0.8 * losses[0]

    recipe.save(model, processor, tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    again, its_processor = load_pretrained(str(tmp_path))
    saved = dict(again.named_parameters())
    for name, parameter in model.named_parameters():
        assert saved[name].dtype == torch.float32
        assert torch.equal(saved[name], parameter.half().float()), name
    assert its_processor.chat_template == processor.chat_template
    assert its_processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


# --- the shipped base model --------------------------------------------------------------------------------------


def test_the_shipped_weights_are_small_and_safe() -> None:
    shipped = [path for path in SHIPPED["audio-playground"].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) <= 4 * 2**20
    assert {path.suffix for path in shipped} <= {".safetensors", ".json", ".jinja"}


@pytest.mark.slow
def test_the_shipped_base_model_hears_well_and_has_the_habit() -> None:
    model, processor = load_pretrained(WORLD.model)
    held_out = scenes(120, 11, "heldout")
    prompts = [LANGUAGE.caption_prompt] * len(held_out)
    measures = measure_captions(held_out, greedy_replies(model, processor, held_out, prompts, WORLD), LANGUAGE)
    assert measures.other_absent_rate <= 0.05
    assert measures.recall >= 0.95
    assert 0.12 <= measures.usual_object_rate <= 0.45

    assert 0.6 <= question_accuracy(model, processor, held_out[:60], "adversarial", WORLD) <= 0.88
    assert question_accuracy(model, processor, held_out[:60], "random", WORLD) >= 0.93


def test_the_shipped_base_model_needs_the_clip() -> None:
    """With another clip in its place, the caption no longer finds what is there."""
    model, processor = load_pretrained(WORLD.model)
    held_out = scenes(60, 12, "heldout")
    prompts = [LANGUAGE.caption_prompt] * len(held_out)
    captions = greedy_replies(model, processor, held_out, prompts, WORLD)
    swapped = [*captions[1:], captions[0]]
    recall = [measure_captions(held_out, given, LANGUAGE).recall for given in (captions, swapped)]
    assert recall[0] - recall[1] > 0.5, np.round(recall, 3)
