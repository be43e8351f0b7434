// Asks for the token. It goes nowhere but to the controller, and is forgotten with the tab.

import { token } from "./api.js";
import { h, text } from "./dom.js";

/** begin() tries it and rejects if it is not good. */
export function login(complaint, begin) {
	const field = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", spellcheck: "false", size: 40, "aria-describedby": "login-wrong" });
	const wrong = h("p", { class: "wrong", id: "login-wrong", role: "alert" }, complaint);
	const enter = h("button", { class: "primary", type: "submit" }, "Sign in");
	const form = h(
		"form", { class: "panel login stack", "aria-labelledby": "login-title" },
		h("h1", { id: "login-title" }, "Viscum"),
		h("label", { class: "field" }, "Token", field), enter, wrong,
		h("p", { class: "muted" }, "The token is kept in this tab until it is closed. On the box itself, without one: ", h("code", {}, "ssh -L 8443:/run/viscum/api.sock root@box"), "."),
	);
	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		enter.disabled = true;
		text(wrong, "");
		token.set(field.value.trim());
		try {
			await begin();
		} catch (error) {
			token.drop();
			text(wrong, error.status === 401 ? "The controller does not know this token." : (error.words?.() ?? String(error)));
			field.select();
		}
		enter.disabled = false;
	});
	setTimeout(() => field.focus());
	return form;
}
