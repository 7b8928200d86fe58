"""Catalogues in WebShop's own data formats: a folder with its files, or the same structures in memory.

What must stay true: what the original would show, this shows (option values in lower case with ` | ` for `/`, a price
of 100 where none is stated, products with ids longer than ten characters or seen before left out), and a file that is
missing or was downloaded by half is reported by name, with the way to get it. Data is read as data: nothing in it is
ever a path, and wrong types become one clear error.

Files: `items_shuffle*.json` (a list of products), `items_ins_v2*.json` (attributes and synthetic instructions by
product id), `items_human_ins.json` (human instructions by product id), and, where present, `reviews.json`. The lists
are gigabytes long, so they are read piece by piece and only as far as needed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from lamer_envs.errors import EnvParameterError
from lamer_envs.webshop.catalogue import DEFAULT_PRICE, Instruction, Product, Review, indexed_text
from lamer_envs.webshop.words import title_nouns

SMALL = 1000
"""Products of the original's small files, whose names end in `_1000`."""

_CHUNK = 1 << 20
_LONGEST = 1 << 26
"""Characters of one JSON value at most: what is longer is taken for a broken file, not read to its end."""

_BLANK = re.compile(r"[\s,]*")
_PRICE = re.compile(r"[^\d.]")
_HOW = (
    "the original's setup.sh fetches it (./setup.sh -d small for 1,000 products, -d all for 1.18 million; "
    "github.com/princeton-nlp/WebShop)"
)


class OfficialCatalogue:
    """Products read from WebShop's formats, all in memory."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._products = products
        self._at = {item.asin.lower(): at for at, item in enumerate(products)}
        digest = hashlib.blake2b(digest_size=16)
        for item in products:
            digest.update(f"{item.asin}\x1f{indexed_text(item)}\x1e".encode("utf-8", "replace"))
        self.key = f"official {digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self._products)

    def product(self, at: int) -> Product:
        return self._products[at]

    def find(self, asin: str) -> int | None:
        return self._at.get(asin.strip().lower())

    def nouns(self, title: str, asin: str) -> Sequence[str]:
        return title_nouns(title)


def load_folder(folder: Path, products: int | None, human: bool) -> OfficialCatalogue:
    """The catalogue of a folder of original files; the first `products` of the list, all of them with None.

    With None and both sizes present, the small files are read. Raises EnvParameterError.
    """
    if not folder.is_dir():
        raise EnvParameterError(f"WebShop data folder '{folder}' does not exist; {_HOW}")
    small = products is None or products <= SMALL
    items = _file(folder, "items_shuffle", small)
    others = [_file(folder, stem, small) for stem in ("items_ins_v2", "items_human_ins")[: 1 + human]]
    found = read_products(islice(_array(items), products), items.name)
    add_attributes(found, _object(others[0]))
    if human:
        add_people(found, _object(others[1]))
    reviews = folder / "reviews.json"
    if reviews.is_file():
        add_reviews(found, _array(reviews))
    return OfficialCatalogue(list(found.values()))


def load_mapping(data: Mapping[str, Any], products: int | None) -> OfficialCatalogue:
    """The catalogue of `{"products": [..], "attributes": {..}, "human_instructions": {..}, "reviews": [..]}`; all but
    the first may be missing. Raises EnvParameterError."""
    known = {"products": list, "attributes": Mapping, "human_instructions": Mapping, "reviews": list}
    for key in data:
        if key not in known:
            raise EnvParameterError(f"WebShop data has no part '{str(key)[:40]}'; its parts are {', '.join(known)}")
    if "products" not in data:
        raise EnvParameterError("WebShop data lacks 'products', the list of products")
    for key, kind in known.items():
        if not isinstance(data.get(key, kind() if kind is list else {}), kind):
            wanted = "a list" if kind is list else "a mapping from product id"
            raise EnvParameterError(f"WebShop data: '{key}' must be {wanted}, not {type(data[key]).__name__}")
    found = read_products(data["products"][:products], "products")
    add_attributes(found, data.get("attributes", {}).items())
    add_people(found, data.get("human_instructions", {}).items())
    add_reviews(found, data.get("reviews", ()))
    return OfficialCatalogue(list(found.values()))


# -- products and what is said of them ------------------------------------------------------------------------------
# Each list is read once and nothing of it is kept but what a Product holds: the raw rows are several times as large.

Found = dict[str, Product]


def read_products(rows: Iterable[Any], source: str) -> Found:
    """Products by id, in order. Raises EnvParameterError for rows of another shape, or none left."""
    found: Found = {}
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("asin"), str) or not isinstance(row.get("name"), str):
            raise EnvParameterError(f"{source}: product {number} must be an object with the texts 'asin' and 'name'")
        asin = row["asin"]
        if asin == "nan" or not asin.strip() or len(asin) > 10 or asin.upper() in seen:
            continue
        seen.add(asin.upper())
        with _blamed(f"{source}: product {number} ({asin})"):
            found[asin] = _product(row)
    if not found:
        raise EnvParameterError(f"{source}: the catalogue is empty; a WebShop needs at least one product")
    return found


def add_attributes(found: Found, entries: Iterable[tuple[str, Any]]) -> None:
    """Attributes and synthetic instructions: {"attributes": [..], "instruction", "instruction_attributes": [..]}."""
    for asin, entry in entries:
        if asin in found and entry:
            with _blamed(f"attributes of product {asin}"):
                wish = entry.get("instruction")
                asked = _strings(entry.get("instruction_attributes"))
                found[asin] = replace(
                    found[asin],
                    attributes=_strings(entry.get("attributes")),
                    wish=Instruction(_string(wish), asked, ()) if wish else None,
                )


def add_people(found: Found, entries: Iterable[tuple[str, Any]]) -> None:
    """Human instructions: lists of {"instruction", "instruction_attributes": [..], "instruction_options": [..]}."""
    for asin, entry in entries:
        if asin in found and entry:
            with _blamed(f"human instructions of product {asin}"):
                people = tuple(
                    Instruction(
                        _string(each["instruction"]),
                        _strings(each.get("instruction_attributes")),
                        _strings(each.get("instruction_options")),
                    )
                    for each in entry
                )
                found[asin] = replace(found[asin], people=people)


def add_reviews(found: Found, entries: Iterable[Any]) -> None:
    """Reviews: {"asin", "average_rating", "reviews": [{"title", "score" or "stars", "body" or "review"}, ..]}."""
    for entry in entries:
        asin = entry.get("asin") if isinstance(entry, Mapping) else None
        if isinstance(asin, str) and asin in found:
            with _blamed(f"reviews of product {asin}"):
                reviews = tuple(
                    Review(
                        _string(each.get("title")),
                        _string(each.get("score", each.get("stars"))),
                        _string(each.get("body", each.get("review"))),
                    )
                    for each in entry.get("reviews") or ()
                )
                rating = _string(entry.get("average_rating")) or "N.A."
                found[asin] = replace(found[asin], rating=rating, reviews=reviews)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Turns whatever a wrong type leads to into one error that names the place."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise EnvParameterError(f"{what}: malformed: {error}") from None


def _product(row: Mapping[str, Any]) -> Product:
    asin = row["asin"]
    bullets = row.get("small_description") or []
    prices = _prices(row.get("pricing"))
    if len(prices) > 1:
        price = random.Random(f"webshop price {asin}").uniform(prices[0], prices[1])
        tag = f"${prices[0]} to ${prices[1]}"
    else:
        price, tag = prices[0], f"${prices[0]}"
    return Product(
        asin=asin.upper(),
        title=_string(row["name"]),
        category=_shared(row.get("category")),
        query=_shared(row.get("query")).lower().strip(),
        path=_shared(row.get("product_category")),
        bullets=tuple(_string(bullet) for bullet in (bullets if isinstance(bullets, list) else [bullets])),
        description=_string(row.get("full_description")),
        attributes=(),
        options=_options(row.get("customization_options") or {}),
        price=price,
        tag=tag,
        rating="N.A.",
        reviews=(),
    )


def _options(choices: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    options: dict[str, tuple[str, ...]] = {}
    for name, contents in choices.items():
        if contents is None:
            continue
        values = (_shared(_string(each["value"]).strip().replace("/", " | ").lower()) for each in contents)
        options[_shared(_string(name).lower())] = tuple(dict.fromkeys(value for value in values if value))
    return {name: values for name, values in options.items() if values}


def _prices(stated: object) -> list[float]:
    """One price, or the two ends of a range; [100.0] where none can be read."""
    if isinstance(stated, int | float) and not isinstance(stated, bool):
        return [float(stated)]
    if isinstance(stated, list):
        stated = " ".join(f"${each}" for each in stated)
    prices: list[float] = []
    for part in str(stated or "").split("$")[1:]:
        digits = _PRICE.sub("", part).strip(".")
        if digits and digits.count(".") <= 1:
            prices.append(float(digits))
    return prices[:2] or [DEFAULT_PRICE]


def _string(value: object) -> str:
    """A text field; what is missing is empty, numbers are written out, lone surrogates become question marks."""
    text = "" if value is None else value if isinstance(value, str) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def _strings(values: object) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list | tuple):
        raise TypeError(f"expected a list of texts, not {type(values).__name__}")
    return tuple(_shared(value) for value in values)


def _shared(value: object) -> str:
    """A text that many products have: kept once."""
    return sys.intern(_string(value))


# -- reading long files ---------------------------------------------------------------------------------------------


def _file(folder: Path, stem: str, small: bool) -> Path:
    """The file of this name in the folder: of the two sizes, the one asked for if it is there."""
    names = [f"{stem}_{SMALL}.json", f"{stem}.json"] if small else [f"{stem}.json", f"{stem}_{SMALL}.json"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob(f"{stem}*.json"))
    if others:
        return others[0]
    raise EnvParameterError(f"WebShop data file '{folder / names[-1 if small else 0]}' is missing; {_HOW}")


class _Reader:
    """A text file taken apart into JSON values, holding one piece of it in memory."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file, self._text, self._at, self._ended = path, file, "", 0, False
        self._decoder = json.JSONDecoder()

    def broken(self, why: str) -> EnvParameterError:
        return EnvParameterError(
            f"WebShop data file '{self._path}' {why}: the download is incomplete or not the file; delete it, and {_HOW}"
        )

    def _more(self) -> bool:
        chunk = "" if self._ended else self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + chunk, 0
        self._ended = not chunk
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is neither blank nor a comma."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise self.broken("ends too early")

    def take(self, mark: str) -> None:
        found = self.peek()
        if found != mark:
            raise self.broken(f"should have '{mark}' where it has {found!r}")
        self._at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > _LONGEST:
                    raise self.broken(f"is not JSON ({error.msg})") from None
                if not self._more():
                    raise self.broken("ends too early or is not JSON") from None
                continue
            except RecursionError:
                raise self.broken("is nested too deeply") from None
            # A number at the end of a piece may go on in the next one.
            if end < len(self._text):
                self._at = end
                return value
            if not self._more():
                self._at = len(self._text)
                return value


def _array(path: Path) -> Iterator[Any]:
    """The elements of a JSON array in a file, one at a time."""
    with _open(path) as file:
        reader = _Reader(path, file)
        reader.take("[")
        while reader.peek() != "]":
            yield reader.value()


def _object(path: Path) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object in a file, one at a time."""
    with _open(path) as file:
        reader = _Reader(path, file)
        reader.take("{")
        while reader.peek() != "}":
            key = reader.value()
            reader.take(":")
            yield key, reader.value()


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EnvParameterError(f"WebShop data file '{path}' cannot be read: {error.strerror}") from None
