"use strict";

/* Functions that create the elements of a page. Strings always become text, never markup. */

/** An HTML element with attributes (a function becomes an event listener) and children (elements or text). */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element; see element(). */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name === "style") Object.assign(made.style, value); // the page's Content-Security-Policy forbids style attributes
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat());
  return made;
}

/** A visible form of a character: an escape if it has no shape, <end> for the end of a text (null). */
function visible(char) {
  if (char === null) return "<end>";
  if (char === " ") return "␣";
  if (char === "\n") return "↵";
  return /^[\p{L}\p{N}\p{P}\p{S}]$/u.test(char) ? char : `\\u{${char.codePointAt(0).toString(16)}}`;
}

function percent(p, digits = 0) {
  const least = 10 ** -digits;
  return p > 0 && 100 * p < least / 2 ? `<${least}%` : `${(100 * p).toFixed(digits)}%`;
}

/** A box that scrolls when its content is wider than the page; it then accepts the keyboard focus. */
function scroll(label, child) {
  const held = element("div", { class: "scroll", role: "group", "aria-label": label }, child);
  WIDTHS.observe(held);
  WIDTHS.observe(child); // the content may grow
  return held;
}

const WIDTHS = new ResizeObserver((all) => {
  for (const { target } of all) {
    const held = target.closest(".scroll");
    if (held === null) continue; // the target is no longer on the page
    if (held.scrollWidth > held.clientWidth) held.setAttribute("tabindex", 0);
    else held.removeAttribute("tabindex");
  }
});
