"""Chat templates that render what the families' published ones render, written again for this project.

Every template is compared in `test_tiny.py` with literal strings, and with the published text where an installed
package ships it. The published behaviour is kept with its traps, because users meet them: what is written after an
answer differs by family, some trim, some render plain-string content as nothing.

Sources (`chat_template.json`, `chat_template.jinja` or `tokenizer_config.json` of the repository on the Hugging Face
hub): llava-hf/llava-1.5-7b-hf, llava-hf/llava-v1.6-mistral-7b-hf, Qwen/Qwen2.5-VL-7B-Instruct,
HuggingFaceM4/Idefics3-8B-Llama3, google/gemma-3-4b-it, Qwen/Qwen3.5-2B and Qwen/Qwen3.5-4B.
"""

# Images of a turn first, then its texts, each followed by a space: also after an answer, and no end token anywhere.
# A system turn has no name in front. Content that is a plain string has no parts, so it renders as nothing.
LLAVA_1_5 = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() ~ ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] ~ ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# The generation prompt is the end of the question itself, so `add_generation_prompt` changes nothing. Only the first
# part of an answer or a system turn is read. (Older revisions wrote `<\s> ` after an answer, which is no token at all.)
LLAVA_NEXT_MISTRAL = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<<SYS>>\n' ~ message['content'][0]['text'] ~ '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' ~ message['content'][0]['text'] ~ '</s> ' }}"
    "{% else %}{{ raise_exception('The roles are system, user and assistant, not ' ~ message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
)

# Parts in their order; a default system turn. A part counts as an image when it merely *has* the key `image`, with
# whatever value: a table that fills missing keys with None turns its texts into images here.
QWEN2_5_VL = (
    "{% set seen = namespace(image=0, video=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set seen.image = seen.image + 1 %}"
    "{{ ('Picture ' ~ seen.image ~ ': ' if add_vision_id else '') ~ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "{% set seen.video = seen.video + 1 %}"
    "{{ ('Video ' ~ seen.video ~ ': ' if add_vision_id else '') ~ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Parts in their order. The space after a role is left out when its turn starts with an image.
IDEFICS3 = (
    "{{ '<|begin_of_text|>' }}"
    "{% for message in messages %}"
    "{{ message['role'].capitalize() ~ (':' if message['content'][0]['type'] == 'image' else ': ') }}"
    "{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' if part['type'] == 'image' else '' }}"
    "{% endfor %}"
    "{{ '<end_of_utterance>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# Parts in their order, every text trimmed (answers too); the first part of a system turn goes untrimmed in front of
# the first turn; roles must alternate.
GEMMA3 = (
    "{{ bos_token }}"
    "{% set first = messages[0] %}"
    "{% set has_system = first['role'] == 'system' %}"
    "{% for message in (messages[1:] if has_system else messages) %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('The roles must alternate: user, assistant, user, ...') }}"
    "{% endif %}"
    "{{ '<start_of_turn>' ~ ('model' if message['role'] == 'assistant' else message['role']) ~ '\n' }}"
    "{% if loop.first and has_system %}"
    "{{ (first['content'] if first['content'] is string else first['content'][0]['text']) ~ '\n\n' }}"
    "{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# No default system turn; every turn trimmed as a whole. Thoughts are dropped from the answers before the last question
# and written, even when empty, in those after it. Without the published parts for tools.
_QWEN3_5 = (
    "{% macro flat(content) %}"
    "{% if content is string %}{{ content }}"
    "{% else %}"
    "{% for part in content or [] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' or 'video' in part %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% else %}{{ raise_exception('A part must be a text, an image or a video.') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{% endmacro %}"
    "{% set last = namespace(question=-1) %}"
    "{% for message in messages if message['role'] == 'user' %}{% set last.question = loop.index0 %}{% endfor %}"
    "{% if last.question < 0 %}{{ raise_exception('There is no user turn.') }}{% endif %}"
    "{% set questions = namespace(seen=-1) %}"
    "{% for message in messages %}"
    "{% set content = flat(message['content']) | trim %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('A system turn must be the first.') }}"
    "{% elif message['role'] in ('system', 'user') %}"
    "{% if message['role'] == 'user' %}{% set questions.seen = questions.seen + 1 %}{% endif %}"
    "{{ '<|im_start|>' ~ message['role'] ~ '\n' ~ content ~ '<|im_end|>\n' }}"
    "{% elif message['role'] != 'assistant' %}"
    "{{ raise_exception('The roles are system, user and assistant, not ' ~ message['role']) }}"
    "{% else %}"
    "{% set thought = message['reasoning_content'] %}"
    "{% if thought is not string %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1] if '</think>' in content else '' %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}"
    "{% endif %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if questions.seen == last.question %}{{ '<think>\n' ~ thought | trim ~ '\n</think>\n\n' }}{% endif %}"
    "{{ content ~ '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' ~ ('<think>\n' if THINKS else '<think>\n\n</think>\n\n') }}"
    "{% endif %}"
)
# 2B and smaller: a thought is left out unless asked for.
QWEN3_5 = _QWEN3_5.replace("THINKS", "enable_thinking is defined and enable_thinking")
# 4B and larger: the prompt ends inside an open thought, whose line feed merges with the next one when an answer without
# a thought is rendered (`\n` + `\n</think>`): the prompt's ids are then no prefix of the rendering's ids.
QWEN3_5_THINKING = _QWEN3_5.replace("THINKS", "enable_thinking is not defined or enable_thinking")
