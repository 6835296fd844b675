"use strict";

/* Elements of the page, made by calls; text is always text. */

/** An element with attributes (a function is an event's listener) and children, which are elements or text. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name === "style") Object.assign(made.style, value); // the page's policy refuses the attribute
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat());
  return made;
}

/** A character as a reader can see it: what has no form of its own by its escape, the end (null) as <end>. */
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

/** What may be wider than the page: it then scrolls, by the keyboard too. */
function scroll(label, child) {
  const held = element("div", { class: "scroll", role: "group", "aria-label": label }, child);
  WIDTHS.observe(held);
  WIDTHS.observe(child); // which may grow
  return held;
}

const WIDTHS = new ResizeObserver((all) => {
  for (const { target } of all) {
    const held = target.closest(".scroll");
    if (held === null) continue; // it has left the page
    if (held.scrollWidth > held.clientWidth) held.setAttribute("tabindex", 0);
    else held.removeAttribute("tabindex");
  }
});
