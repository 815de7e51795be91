"""The playground's model: a real tiny LLaVA, the recipe that trains it from nothing, and the weights that ship."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from mmdpo.playground import model, recipe
from mmdpo.playground.drawing import draw
from mmdpo.playground.measure import greedy_replies, measure_captions, question_accuracy
from mmdpo.playground.text import LANGUAGE
from mmdpo.playground.tokenizer import chat_template
from mmdpo.playground.training import IGNORED, TextEncoder
from mmdpo.playground.world import scenes


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return recipe.text_encoder()


def test_every_training_text_is_known_and_decodes_to_itself(encoder: TextEncoder) -> None:
    tokenizer = encoder.processor.tokenizer
    for scene in scenes(300, 0, "train"):
        for prompt, reply in LANGUAGE.texts(scene):
            assert tokenizer.unk_token_id not in encoder.prompt(prompt) + encoder.answer(reply)
            assert tokenizer.decode(encoder.answer(reply), skip_special_tokens=True) == reply


def test_what_is_learned_is_what_generate_is_given(encoder: TextEncoder) -> None:
    """The ids of prompt + answer are those of the template's rendering of the finished dialogue, token for token."""
    processor = encoder.processor
    scene = scenes(1, 0, "heldout")[0]
    for prompt, reply in (
        (LANGUAGE.caption_prompt, "In a snowfield there is an arrow and a tree."),
        (LANGUAGE.question("boat"), "No"),
    ):
        dialogue = [
            {"role": "user", "content": [{"type": "image", "image": draw(scene)}, {"type": "text", "text": prompt}]},
            {"role": "assistant", "content": [{"type": "text", "text": reply}]},
        ]
        rendered = processor.apply_chat_template(dialogue, tokenize=True, return_dict=True, return_tensors="pt")
        assert rendered["input_ids"][0].tolist() == encoder.prompt(prompt) + encoder.answer(reply)
        text = processor.apply_chat_template(dialogue, tokenize=False)
        assert text == f"USER: <image>\n{prompt} ASSISTANT: {reply}</s>"


def test_fast_pixels_are_those_of_the_image_processor(encoder: TextEncoder) -> None:
    many = scenes(4, 0, "train")
    official = encoder.processor.image_processor([draw(scene) for scene in many], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(recipe.pixel_values(many, encoder.processor), official, atol=1e-5, rtol=0)


def test_only_answer_tokens_are_supervised(encoder: TextEncoder) -> None:
    rows = encoder.rows([(LANGUAGE.caption_prompt, "A boat on a lake."), (LANGUAGE.question("moon"), "No")])
    for row, reply in enumerate(("A boat on a lake.", "No")):
        supervised = rows["labels"][row] != IGNORED
        assert rows["labels"][row][supervised].tolist() == encoder.answer(reply)
        assert torch.equal(rows["labels"][row][supervised], rows["input_ids"][row][supervised])


def test_the_loss_is_that_of_the_model_itself(encoder: TextEncoder) -> None:
    """The oracle runs one row at a time through the model's own forward with its own labels."""
    torch.manual_seed(0)
    tiny = model.build_model(encoder.processor).eval()
    batch = scenes(3, 0, "train")
    total, count = 0.0, 0
    for scene in batch:
        pixels = recipe.pixel_values([scene], encoder.processor)
        for texts in LANGUAGE.texts(scene):
            loss = tiny(**encoder.rows([texts]), pixel_values=pixels).loss.item()
            tokens = len(encoder.answer(texts[1]))
            total, count = total + loss * tokens, count + tokens
    assert recipe.scene_loss(tiny, encoder, batch).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.slow
def test_the_recipe_learns_from_nothing_and_saves_a_model_that_loads(tmp_path: Path) -> None:
    trained, losses = recipe.train(steps=8, seed=1)
    assert losses[0] == pytest.approx(math.log(len(model.build_processor().tokenizer)), abs=1.0), "starts near chance"
    assert losses[-1] < 0.6 * losses[0]

    recipe.save(trained, tmp_path)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), LlavaForConditionalGeneration)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.chat_template == chat_template("image")
    assert again.tokenizer.get_vocab() == model.build_processor().tokenizer.get_vocab()


# --- the shipped base model --------------------------------------------------------------------------------------


def test_the_shipped_weights_are_small_and_safe() -> None:
    shipped = [path for path in model.load_base().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in shipped) <= 8 * 2**20
    assert {path.suffix for path in shipped} <= {".safetensors", ".json", ".jinja"}


@pytest.mark.slow
def test_the_shipped_base_model_sees_well_and_has_the_habit() -> None:
    tiny = AutoModelForImageTextToText.from_pretrained(model.load_base()).eval()
    processor = AutoProcessor.from_pretrained(model.load_base())
    held_out = scenes(150, 11, "heldout")
    captions = greedy_replies(tiny, processor, held_out, [LANGUAGE.caption_prompt] * len(held_out))
    measures = measure_captions(held_out, captions)
    assert measures.other_absent_rate <= 0.05
    assert measures.recall >= 0.95
    assert 0.12 <= measures.usual_object_rate <= 0.45

    assert 0.65 <= question_accuracy(tiny, processor, held_out, "adversarial") <= 0.85
    assert question_accuracy(tiny, processor, held_out, "random") >= 0.93
