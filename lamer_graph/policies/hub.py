"""Models by their name on Hugging Face's hub: fetched once into its cache, then a folder like any other; or pushed.

What must stay true: only weights in safetensors and what goes with them are fetched or pushed, no code; where the hub
cannot be reached, or must not be (HF_HUB_OFFLINE), the error says how to get the model here.
"""

from __future__ import annotations

import re
from pathlib import Path

from lamer_graph.errors import ConfigError
from lamer_graph.policies.shipped import shipped_policies

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
"""What of a repository is a policy."""
HUB_TIMEOUT_S = 30.0
"""For the hub to say which files there are; what it sends after that has the library's own limits."""


def is_hub_id(name: str | Path) -> bool:
    """Whether `name` is `organisation/model` and no path that is here, or whose folder is."""
    text = str(name)
    return HUB_ID.fullmatch(text) is not None and not Path(text).exists() and not Path(text).parent.exists()


def folder_of(name: str | Path) -> Path:
    """`name` as a folder: itself, a policy that ships under it, or what the hub keeps under it, fetched if it is not
    here yet. Raises ConfigError."""
    if is_hub_id(name):
        return fetched(str(name))
    place = Path(name).expanduser()
    return place if place.exists() else shipped_policies().get(str(name), place)


def fetched(hub_id: str) -> Path:
    """The folder of a model of the hub, in its cache. Raises ConfigError with what to do where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name = hub_id.partition("/")[2]
    by_hand = f"fetch it where the hub can be reached (`hf download {hub_id} --local-dir {name}`) and name that folder"
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FILES), etag_timeout=HUB_TIMEOUT_S))
    except RepositoryNotFoundError:
        raise ConfigError(
            f"the hub has no model {hub_id}, or it is not for everybody: look for its name, or log in with `hf auth "
            "login`; for a folder of yours, give a path that is there"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        from huggingface_hub.constants import HF_HUB_OFFLINE

        why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else " ".join(str(error).split())[:200]
        raise ConfigError(f"{hub_id} is neither a folder nor in the hub's cache here, and {why}: {by_hand}") from None


def check_pushable(hub_id: str) -> None:
    """Raises ConfigError for what is no name of the hub, and where it must not be reached or nobody is logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HUB_ID.fullmatch(hub_id) is None:
        raise ConfigError(f"the hub's names are OWNER/NAME, not {hub_id[:100]!r}")
    if HF_HUB_OFFLINE:
        raise ConfigError(f"HF_HUB_OFFLINE is set, so nothing can be pushed to {hub_id}: set HF_HUB_OFFLINE=0")
    if get_token() is None:
        raise ConfigError(f"nobody is logged in, so nothing can be pushed to {hub_id}: `hf auth login` first")


def push(folder: Path, hub_id: str) -> str:
    """Upload a policy's folder, to a private repository where there is none yet; its address. Raises ConfigError.

    Every request has the library's own time limits."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        where = api.create_repo(hub_id, private=True, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, allow_patterns=list(FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{folder} is whole, but was not pushed to {hub_id} ({why}): `hf upload {hub_id} {folder}`"
        ) from None
    return str(where)
