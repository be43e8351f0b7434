// Elements without markup: whatever a service, a log line or an event says becomes text, never HTML.

/** Makes an element. props: attributes; `class`, `on: {event: listener}`, `data: {…}` and `vars`
 *  (CSS variables, set as properties, which the content security policy allows). */
export function h(tag, props, ...children) {
	const node = document.createElement(tag);
	for (const [key, value] of Object.entries(props ?? {})) {
		if (value === undefined || value === null || value === false) continue;
		if (key === "on") for (const [event, fn] of Object.entries(value)) node.addEventListener(event, fn);
		else if (key === "data") Object.assign(node.dataset, value);
		else if (key === "vars") for (const [name, v] of Object.entries(value)) node.style.setProperty(`--${name}`, v);
		else if (key === "class") node.className = value;
		else node.setAttribute(key, value === true ? "" : value);
	}
	node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
	return node;
}

/** Writes the text if it is another one: a quiet page keeps selections and its readers' peace. */
export function text(node, value) {
	const now = value ?? "";
	if (node.textContent !== now) node.textContent = now;
	return node;
}

export function attr(node, name, value) {
	if (value === undefined || value === null || value === false) node.removeAttribute(name);
	else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
	return node;
}

/** Makes `parent` have one child for each item, in order, and keeps those that are there.
 *  make(item) -> element; update(element, item) follows for every one. */
export function list(parent, items, key, make, update = () => {}) {
	const old = parent.items ?? new Map();
	const kept = new Map();
	let at = parent.firstChild;
	for (const item of items) {
		const k = key(item);
		const node = old.get(k) ?? make(item);
		kept.set(k, node);
		update(node, item);
		if (node === at) at = at.nextSibling;
		else parent.insertBefore(node, at);
	}
	for (const [k, node] of old) if (kept.get(k) !== node) node.remove();
	parent.items = kept;
}

/** Terms and what they are, of which the unknown ones are left out: update([[term, text]]). */
export function facts() {
	const node = h("dl", { class: "facts" });
	const make = ([term]) => h("div", { class: "pair" }, h("dt", {}, term), h("dd"));
	return {
		node,
		update: (pairs) => list(node, pairs.filter(([, value]) => value), ([term]) => term, make, (pair, [, value]) => text(pair.lastChild, value)),
	};
}

/** A word with a colour and a shape that say how good it is; "" hides it. */
export function pill() {
	const node = h("span", { class: "pill" });
	return {
		node,
		update(word, tone = "", why = "") {
			node.hidden = !word;
			text(node, word);
			node.dataset.tone = tone;
			attr(node, "title", why || null);
		},
	};
}

/** A section with a heading of its own. */
export const panel = (title, props, ...children) =>
	h("section", { ...props, class: `panel ${props?.class ?? ""}`, "aria-label": title }, h("h2", {}, title), children);

/** A view's heading with what stands beside it. */
export const heading = (title, beside, ...controls) =>
	h("div", { class: "row spread" }, h("div", { class: "row" }, h("h1", {}, title), beside), h("div", { class: "row" }, controls));

/** Says it to those who listen instead of looking; the same region for all. */
export function announce(message) {
	text(document.getElementById("announcer"), message);
}

let fading;

/** A short note at the foot of the page, for everybody. */
export function toast(message, level = "info") {
	const place = document.getElementById("toast");
	text(place, message);
	place.dataset.level = level;
	place.hidden = false;
	clearTimeout(fading);
	fading = setTimeout(() => (place.hidden = true), level === "error" ? 12000 : 5000);
}
