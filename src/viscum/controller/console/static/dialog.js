// Questions before something is done. The browser's own <dialog> keeps the focus and gives it back.

import { h, text } from "./dom.js";

let serial = 0;

/** Asks; act(form) does it and may reject: then the question stays, with what went wrong.
 *
 *  sentence(form) tells what will happen, anew with each choice. Resolves to whether it was done.
 */
export function ask({ title, fields = [], sentence, label, tone = "primary", act }) {
	const id = `dialog-${++serial}`;
	const says = h("p", { id: `${id}-says`, class: "says", "aria-live": "polite" });
	const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
	const yes = h("button", { class: tone, type: "submit" }, label);
	const form = h(
		"form", { class: "stack", method: "dialog" },
		h("h2", { id: `${id}-title` }, title), fields, says, wrong,
		h("div", { class: "row end-row" }, h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"), yes),
	);
	const dialog = h("dialog", { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-says` }, form);
	const refresh = () => text(says, sentence(form));
	form.addEventListener("input", refresh);
	let done = false;
	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		yes.disabled = true;
		wrong.hidden = true;
		try {
			await act(form);
			done = true;
			dialog.close();
		} catch (error) {
			text(wrong, error.words?.() ?? String(error));
			wrong.hidden = false;
			if (!error.words) console.error(error);
		}
		yes.disabled = false;
	});
	document.body.append(dialog);
	refresh();
	dialog.showModal();
	if (!fields.length) yes.focus();
	return new Promise((resolve) =>
		dialog.addEventListener("close", () => {
			dialog.remove();
			resolve(done);
		}),
	);
}

/** Something to read. */
export function show(title, ...content) {
	const id = `dialog-${++serial}`;
	const dialog = h(
		"dialog", { "aria-labelledby": id },
		h("form", { method: "dialog", class: "stack" }, h("h2", { id }, title), content, h("div", { class: "row end-row" }, h("button", {}, "Close"))),
	);
	document.body.append(dialog);
	dialog.addEventListener("close", () => dialog.remove());
	dialog.showModal();
}

export const isOpen = () => Boolean(document.querySelector("dialog[open]"));
