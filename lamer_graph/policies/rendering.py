"""How messages become the token ids that a policy reads: chat template, its arguments, tokenizer.

What must stay true: one `Renderer` gives the same ids for the same messages and date wherever prompts are rendered: to
sample, to check a log, to plan, to fit. Ids are whole and unpadded, whatever the tokenizer's files say and whatever a
caller does with the tokenizer meanwhile (a private copy encodes). The system's words reach the policy: a template that
refuses the role, or leaves it out, gets them at the head of the next user message, unless the policy was taught so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from lamer_graph.errors import ConfigError, PolicyResponseError
from lamer_graph.policies.control import OPEN_THOUGHT
from lamer_graph.policies.thoughts import MARKS, may_think
from lamer_graph.policies.tool_form import ToolForm, tool_form
from lamer_graph.text import plain
from lamer_graph.types import Message

OURS = frozenset(
    {"messages", "tools", "documents", "chat_template", "conversation", "add_generation_prompt", "strftime_now"}
    | {"continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "tokenizer_kwargs"}
)
"""Not for a policy's template arguments: what rendering itself decides."""
TEMPLATE_PLACES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
"""Files beside a tokenizer's configuration that hold chat templates."""
SystemRole = Literal["kept", "refused", "dropped"]
"""What a template does with a system message."""
AS_OF = """
{%- macro strftime_now(format) -%}
  {%- set begun = namespace(by="") -%}
  {%- for sign in format -%}
    {%- if begun.by and sign == "-" -%}{%- set begun.by = "%-" -%}
    {%- elif begun.by -%}{{- lamer_as_of.get(begun.by[1:] ~ sign, begun.by ~ sign) -}}{%- set begun.by = "" -%}
    {%- elif sign == "%" -%}{%- set begun.by = "%" -%}
    {%- else -%}{{- sign -}}{%- endif -%}
  {%- endfor -%}
{%- endmacro %}
"""
"""Before a template, and given `lamer_as_of`, makes the day that it prints another: transformers gives templates plain
data only."""
DIRECTIVES = "aAwdbBmyYHIMSfzZjpUWcxXGuVDeFhnRtT%"
"""Signs of `strftime` that such a day is written in; any other is left as it stands."""
MAX_FORMS = 64
"""System messages with tools that a renderer keeps: an agent has one, or one for each user."""
_CODE = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_STRINGS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_SYSTEM, _USER = "What the system says: 7301.", "What the user says: 7302."


class Renderer:
    """Messages to ids with `tokenizer` (transformers'), which stays as it is.

    `template_args` are arguments of the chat template, e.g. `{"enable_thinking": False}`. The system's words are folded
    into the next user message where the template refuses them; where it leaves them out, too, unless `fold_system` is
    False; with True always. Raises ConfigError for a tokenizer without a usable template, and for arguments that the
    template has not.
    """

    def __init__(
        self,
        tokenizer: Any,
        template_args: Mapping[str, Any] | None = None,
        *,
        fold_system: bool | None = None,
        name: str = "the policy",
    ) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ConfigError(no_template(name))
        template: str = tokenizer.get_chat_template()
        given = {} if template_args is None else template_args
        check_template_args(given, template, name)
        self.name = name
        self.template_args = dict(given)
        self.tokenizer = tokenizer
        self.dated = knows(template, "strftime_now")
        """Whether prompts depend on the day."""
        self._own = _whole(tokenizer)
        self._forms: dict[str, ToolForm | None] = {}
        self.folds_system = False
        self.system_role = system_role(self.text, name)
        """What the template does with a system message."""
        self.folds_system = folds(self.system_role, fold_system)

    @property
    def rendering(self) -> Rendered:
        """How it renders, as a log notes it."""
        return {"template": self.template_args, "folded": self.folds_system}

    def unfolded(self) -> Renderer:
        """The same, with the system's words as the template has them."""
        return Renderer(self.tokenizer, self.template_args, fold_system=False, name=self.name)

    @property
    def opening(self) -> str:
        """The mark of the thought that an answer begins inside of, because the prompt ends with it; '' if with none.

        It is as `decode` shows it: where marks of thoughts are left out of texts, nobody could see the thought's end.
        """
        mark = OPEN_THOUGHT.search(self.text([Message(role="user", content="?")]))
        shown = "" if mark is None else self.decode(self.plain_ids(mark[0]))
        return shown if OPEN_THOUGHT.search(shown) else ""

    @property
    def thinks(self) -> bool:
        """Whether an answer may hold thoughts (see `thoughts.may_think`)."""
        known = self.tokenizer.get_added_vocab().keys()
        template = self.tokenizer.get_chat_template()
        marked = any(mark in known or mark in template for mark in MARKS)
        return may_think(self.text([Message(role="user", content="?")]), marked)

    def text(self, messages: Sequence[Message], when: datetime | None = None) -> str:
        """The prompt, generation prefix included, as of `when` (None: now). Raises PolicyResponseError."""
        chat = fold_system(messages) if self.folds_system else list(messages)
        arguments = dict(self.template_args)
        if self.dated and when is not None:
            arguments |= {"chat_template": AS_OF + self.tokenizer.get_chat_template(), "lamer_as_of": _written(when)}
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=False, **arguments
            )
        except Exception as error:  # templates raise whatever jinja or their own rules say
            raise PolicyResponseError(f"chat template of '{self.name}' refused the messages: {error}") from error
        return plain(text)

    def tool_form(self, said: str, tools: Sequence[Mapping[str, Any]]) -> ToolForm | None:
        """How the template tells of tools; None where it does not, or not in a form that is read here."""
        if self.folds_system or not knows(self.tokenizer.get_chat_template(), "tools"):
            return None
        asked = json.dumps([said, [dict(tool) for tool in tools]], default=str)
        if asked not in self._forms:
            if len(self._forms) >= MAX_FORMS:
                self._forms.clear()
            self._forms[asked] = self._tool_form(said, tools)
        return self._forms[asked]

    def _tool_form(self, said: str, tools: Sequence[Mapping[str, Any]]) -> ToolForm | None:
        def render(messages: Sequence[Any], given: Sequence[Mapping[str, Any]] | None) -> str:
            told = None if given is None else [dict(tool) for tool in given]
            arguments = {**self.template_args, "add_generation_prompt": True, "tokenize": False}
            return str(self.tokenizer.apply_chat_template(list(messages), tools=told, **arguments))

        return tool_form(render, said, tools)

    def ids(self, messages: Sequence[Message], when: datetime | None = None) -> list[int]:
        """Token ids of `text`."""
        return self.plain_ids(self.text(messages, when))

    def plain_ids(self, text: str) -> list[int]:
        """Ids of `text` as it is: no template, no special tokens added."""
        if self._own is None:
            return list(self.tokenizer(text, add_special_tokens=False, truncation=False, padding=False).input_ids)
        ids: list[int] = self._own.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        decoder = self.tokenizer if self._own is None else self._own
        text: str = decoder.decode(list(token_ids), skip_special_tokens=True)
        return text


def _whole(tokenizer: Any) -> Any:
    """The tokenizers library's own object, None where there is none; a copy without truncation and padding.

    It is a third of the cost of the wrapper, and safe from several threads. Truncation and padding are states of it,
    which files bring along and which any call of the wrapper may set.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return None
    own = type(fast).from_str(fast.to_str())
    own.no_truncation()
    own.no_padding()
    return own


def folds(role: SystemRole, asked: bool | None) -> bool:
    """Whether the system's words are folded into the user's message, for a template that does `role` with them."""
    return role == "refused" or (role == "dropped" if asked is None else asked)


def _written(when: datetime) -> dict[str, str]:
    """What each directive of a date's format writes, also without leading zeros (%-d)."""
    return {flag + one: when.strftime(f"%{flag}{one}") for one in DIRECTIVES for flag in ("", "-")}


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The messages without a system role: its words stand before the next user's, or are a user's own."""
    folded: list[Message] = []
    words: list[str] = []
    for message in messages:
        if message["role"] == "system":
            words.append(message["content"])
            continue
        if words and message["role"] == "user":
            message = Message(role="user", content="\n\n".join([*words, message["content"]]))
            words = []
        elif words:
            folded.append(Message(role="user", content="\n\n".join(words)))
            words = []
        folded.append(message)
    if words:
        folded.append(Message(role="user", content="\n\n".join(words)))
    return folded


def system_role(render: Callable[[Sequence[Message]], str], name: str) -> SystemRole:
    """What the template behind `render` does with a system message. Raises ConfigError if it takes no user's either."""
    user = Message(role="user", content=_USER)
    try:
        text = render([Message(role="system", content=_SYSTEM), user])
    except PolicyResponseError:
        try:
            render([user])
        except PolicyResponseError as error:
            raise ConfigError(f"{name} cannot be asked anything: {error}") from None
        return "refused"
    return "kept" if _SYSTEM in text else "dropped"


def no_template(name: str) -> str:
    """What is wrong with a policy without a chat template, in one line."""
    return (
        f"the tokenizer of {name} has no chat template, and a policy answers chat messages: give it one "
        "(lamer-graph import FOLDER --chat-template FILE --out NEW)"
    )


def has_template(folder: Path) -> bool:
    """Whether the files of a model's folder have a chat template, or several."""
    if any((folder / place).exists() for place in TEMPLATE_PLACES):
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def template_text(folder: Path) -> str | None:
    """The chat template of a policy's folder as its files say; None where they do not (or it has several)."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    try:
        stored = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return stored if isinstance(stored, str) else None


def knows(template: str, argument: str) -> bool:
    """Whether a chat template's code (not its words) reads a variable of that name."""
    code = " ".join(_CODE.findall(template))
    return re.search(rf"(?<![.\w]){re.escape(argument)}\b", _STRINGS.sub("''", code)) is not None


def check_template_args(given: Mapping[str, Any], template: str | None, name: str) -> None:
    """Raises ConfigError for arguments that are not the template's (None: it is not known), or not plain data."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"template_args must be a mapping such as {{'enable_thinking': False}}, not {given!r:.100}")
    for key, value in given.items():
        if not isinstance(key, str):
            raise ConfigError(f"a template argument's name must be text, not {key!r:.100}")
        if key in OURS:
            raise ConfigError(f"template argument '{key}' is not a policy's to set: prompts are rendered by one rule")
        if template is not None and not knows(template, key):
            raise ConfigError(f"the chat template of {name} has no argument '{key}': it would do nothing")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(f"template argument '{key}' must be plain data, not {value!r:.100}") from None


class Rendered(TypedDict):
    """How a run's prompts were rendered: `template` arguments, and whether the system's words were folded."""

    template: dict[str, Any]
    folded: bool


def difference(there: Rendered, here: Rendered) -> str:
    """What differs between two ways to render, in words: `rendered with enable_thinking=false there, none here`."""
    if there["template"] != here["template"]:
        return f"rendered with {shown(there['template'])} there, {shown(here['template'])} here"
    words = {True: "in the user's message", False: "as the template has them"}
    return f"rendered with the system's words {words[there['folded']]} there, {words[here['folded']]} here"


def shown(template_args: Mapping[str, Any]) -> str:
    """Template arguments as an error names them: `enable_thinking=false`, or `none`."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(template_args.items())) or "none"
