// Elements, and text of anybody's in them. What must stay true: text from a log becomes text nodes, nothing is ever
// parsed as markup here, and what would be invisible or turn the direction of writing is shown by its name.

const SVG = new Set([
  "svg",
  "g",
  "rect",
  "circle",
  "ellipse",
  "line",
  "path",
  "polyline",
  "polygon",
  "text",
  "tspan",
  "title",
]);
const NAMESPACE = "http://www.w3.org/2000/svg";
const HIDDEN =
  /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u00AD\u061C\u180E\u200B-\u200F\u2028-\u202E\u2060-\u206F\uFE00-\uFE0F\uFEFF\uFFF9-\uFFFB]|[\u{E0000}-\u{E007F}]/gu;
const KNOWN = {
  "\u202E": "right-to-left override",
  "\u202D": "left-to-right override",
  "\u2028": "line separator",
  "\u200B": "zero-width space",
  "\uFEFF": "byte order mark",
};

export function h(tag, attributes, ...children) {
  const made = SVG.has(tag) ? document.createElementNS(NAMESPACE, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  put(made, children);
  return made;
}

function put(parent, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(plain(String(child))));
  }
  return parent;
}

export function fill(parent, ...children) {
  parent.replaceChildren();
  return put(parent, ...children);
}

const codePoint = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** A text in one piece (a title, a caption, an attribute), with what cannot be seen by its number. */
export function plain(text) {
  return text.replace(HIDDEN, (character) => (character === "\r" ? "" : `[${codePoint(character)}]`));
}

/** Text from a log: `text`, or [its beginning, how many characters are missing]. Isolated, the invisible made visible. */
export function said(text, attributes) {
  const [shown, missing] = Array.isArray(text) ? text : [text, 0];
  const box = h("bdi", { class: "said", ...attributes });
  let at = 0;
  for (const found of shown.matchAll(HIDDEN)) {
    box.append(document.createTextNode(shown.slice(at, found.index)));
    at = found.index + found[0].length;
    if (found[0] === "\r") continue;
    box.append(
      h("span", { class: "mark", title: KNOWN[found[0]] || "a character that cannot be seen" }, codePoint(found[0])),
    );
  }
  box.append(document.createTextNode(shown.slice(at)));
  if (missing) box.append(h("span", { class: "cut" }, ` … ${count(missing)} more characters are in the log`));
  return box;
}

export const textOf = (text) => (Array.isArray(text) ? text[0] : text);

/** A drawing: [tag, attributes, children], made of known elements on the server's side. */
export function drawing(tree) {
  const [tag, attributes, children] = tree;
  const { class: name, ...others } = attributes;
  const known = tag === "button" ? { type: "button", tabindex: "-1" } : {};
  const classes = (name || "")
    .split(" ")
    .filter(Boolean)
    .map((one) => "e-" + one)
    .join(" ");
  return h(
    tag,
    { ...known, ...others, class: classes || null },
    ...children.map((child) => (Array.isArray(child) ? drawing(child) : child)),
  );
}

export const count = (number) => number.toLocaleString("en-US");
/** A number that is not negative, with so many digits after its point: a half goes to the even digit, as the commands'
 * tables have it (Python's format). */
export function fixed(value, digits) {
  if (value === null || value === undefined) return "–";
  const up = value.toFixed(digits);
  const half = (value * 2 ** (digits + 1)) % 2 === 1;
  const last = Number(up.slice(-1));
  return half && last % 2 ? up.slice(0, -1) + (last - 1) : up;
}
export const percent = (value) => (value === null || value === undefined ? "–" : fixed(100 * value, 1) + "%");
export const points = (value) => sign(value) + fixed(Math.abs(100 * value), 1) + " pts";
export const whole = (value) => count(Number(fixed(value, 0)));
export function brief(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const minus = value < 0 ? "−" : "";
  if (size >= 10000) return minus + whole(size);
  if (size !== 0 && size < 0.001) return minus + size.toExponential(1);
  return minus + Number(fixed(size, size >= 100 ? 0 : size >= 1 ? 2 : 3));
}
const sign = (value) => (value > 0 ? "+" : value < 0 ? "−" : "");
export const signed = (value) =>
  value === null || value === undefined ? "–" : sign(value) + brief(Math.abs(value));
/** A name that fits a line: its beginning and its end. */
export function short(name, most = 24) {
  const letters = [...name];
  const half = Math.floor((most - 1) / 2);
  return letters.length <= most ? name : letters.slice(0, half).join("") + "…" + letters.slice(-half).join("");
}
/** Names and what is said of them, [[name, value], ..]. */
export const facts = (pairs) =>
  h(
    "dl",
    {},
    pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, said(String(value))))),
  );
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
export const link = (...parts) => "#/" + parts.map((part) => encodeURIComponent(part)).join("/");
export const busy = (what) => h("p", { class: "busy", role: "status" }, what);
