"""Chat models as text encoders: the template around a prompt, split at the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffgen.errors import CheckpointError
from diffgen.prompts import Frame, frame_around
from diffgen.prompts.tokens import frame_of

_PLACE = "diffgen-prompt"


def chat_frame(
    tokenizer: Any, *, ask: bool = True, system: Sequence[Any] = (), render: Any = None, **template: Any
) -> Frame:
    """The tokens of the tokenizer's chat template on both sides of a user's message.

    Args:
        tokenizer: of transformers, with a chat template.
        ask: end with the words that begin the model's answer.
        system: messages before the user's.
        render: the message's content around a text, where it is more than the text itself.
        template: options of the template.
    Raises:
        CheckpointError: the tokenizer has no chat template, or one that changes the message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise CheckpointError("the checkpoint's tokenizer has no chat template; its chat_template.jinja is missing")
    message = {"role": "user", "content": render(_PLACE) if render else _PLACE}
    text = tokenizer.apply_chat_template(
        [*system, message], tokenize=False, add_generation_prompt=ask, **template
    )
    before, found, after = text.partition(_PLACE)
    if not found:
        raise CheckpointError("the chat template of the checkpoint's tokenizer leaves the message out")
    if tokenizer.bos_token and frame_of(tokenizer).before == (tokenizer.bos_token_id,):
        # Template and tokenizer may both begin the text; one beginning is enough.
        before = before.removeprefix(tokenizer.bos_token)
    return frame_around(tokenizer, before, after)
