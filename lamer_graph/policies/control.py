"""Which texts a tokenizer turns into control tokens: the marks of turns, roles, tools and thoughts.

What must stay true: a text that is none of these is tokenised as what it says, so a word that a small policy's
tokenizer holds as one token (`(1, 2)`, not special) is none. `trial.quoting` keeps them out of what is quoted.
"""

from __future__ import annotations

import re
from typing import Any

_FAMILIES = {
    "chatml": "<|im_start|> <|im_sep|> <|im_end|> <|endoftext|> <|endofprompt|> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <think> </think> <tool_call> </tool_call> <tool_response> </tool_response>",
    "llama": "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|header_start|> <|header_end|> "
    "<|eot_id|> <|eot|> <|eom_id|> <|python_tag|> <|finetune_right_pad_id|>",
    "gemma": "<bos> <eos> <pad> <unk> <mask> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image>",
    "mistral": "<s> </s> [INST] [/INST] <<SYS>> <</SYS>> [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] "
    "[/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CONTENT] [CALL_ID] [ARGS] [THINK] [/THINK] "
    "[IMG] [IMG_BREAK] [IMG_END]",
    "deepseek": "<|begin_of_sentence|> <|end_of_sentence|> <|User|> <|Assistant|> <|tool_calls_begin|> "
    "<|tool_calls_end|> <|tool_call_begin|> <|tool_call_end|> <|tool_outputs_begin|> <|tool_outputs_end|> <|tool_sep|>",
    "phi, glm": "<|system|> <|user|> <|assistant|> <|tool|> <|end|> <|observation|> [gMASK] <sop>",
    "gpt-oss": "<|start|> <|message|> <|channel|> <|return|> <|call|> <|constrain|>",
    "command": "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|USER_TOKEN|> "
    "<|CHATBOT_TOKEN|>",
}
_WIDE = str.maketrans({"|": "\uff5c", "_": "\u2581"})  # DeepSeek writes its bars and underscores wide

CONTROL_TOKENS = frozenset(
    token.translate(_WIDE) if family == "deepseek" else token
    for family, tokens in _FAMILIES.items()
    for token in tokens.split()
)
"""Of the families that are served most: what a server with an unknown tokenizer may obey."""

THOUGHTS = ("think", "thinking", "thought", "reasoning", "seed:think")
"""Names of the tags that models think between; `[THINK]` and `◁think▷` are read as well."""
OPEN_THOUGHT = re.compile(rf"(?:<(?:{'|'.join(THOUGHTS)})>|\[THINK\]|◁think▷)\s*\Z")
"""How a prompt ends whose template opens a thought for the answer."""

_MARK = re.compile(r"[<\[◁]\S*[>\]▷]")


def control_tokens_of(tokenizer: Any) -> frozenset[str]:
    """Those of a loaded tokenizer (transformers): special tokens, of the others the marks that look like some and its
    chat template writes, and the template's marks of text."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    found = {token for token in CONTROL_TOKENS if token in template}
    found |= {str(token) for token in tokenizer.all_special_tokens}
    for added in tokenizer.added_tokens_decoder.values():
        token = str(added.content)
        if added.special or (_MARK.fullmatch(token) and (token.startswith("<|") or token in template)):
            found.add(token)
    return frozenset(found)
