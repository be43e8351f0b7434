// What can be done to a service, to whom it is allowed, and what it will do, said beforehand.

import { request } from "./api.js";
import { ask } from "./dialog.js";
import { h, toast } from "./dom.js";
import { plural } from "./format.js";
import * as model from "./model.js";
import { state } from "./state.js";

/** Why this page's user may not change anything; "": they may. */
const forbidden = () => (state.me?.role === "viewer" ? "your role is viewer; changing services takes an operator" : "");

const flows = ({ raw }) => plural(model.status(raw).flows ?? 0, "open flow");
const drain = ({ spec }) => (spec ? (spec.run?.drain ?? "1m") : "its drain limit");

function lasting() {
	const input = h("input", {
		name: "for", pattern: "([0-9]+(\\.[0-9]+)?(d|h|m|s|ms))+", placeholder: "10m", size: 8, autocomplete: "off",
		title: "a number and d, h, m or s, as 30s or 1h30m",
	});
	return h("label", { class: "field" }, "For how long (empty: until changed)", input);
}

/** What becomes of open flows. */
function fates(chosen) {
	const seconds = h("input", { name: "seconds", type: "number", min: 0, max: 86400, value: 30, "aria-label": "seconds until they are reset" });
	const options = [
		["stay", "stay until they end"],
		["drain", "are reset after", h("span", { class: "row" }, seconds, "s")],
		["now", "are reset at once"],
	];
	return h(
		"fieldset", {}, h("legend", {}, "Open flows"),
		options.map(([value, words, extra]) => {
			const radio = h("input", { type: "radio", name: "fate", value, checked: value === chosen });
			extra?.addEventListener("input", () => (radio.checked = true));
			return h("div", { class: "row" }, h("label", { class: "check" }, radio, words), extra);
		}),
	);
}

const back = (form) => (form.for.value ? ` It turns back by itself after ${form.for.value}.` : "");

function disabling(service, form) {
	const ends = {
		stay: model.staying(model.status(service.raw).flows ?? 0),
		drain: `Of ${flows(service)}, what is left after ${form.seconds.value} s is reset: those clients reconnect, to the cloud.`,
		now: `${flows(service)} reset at once: those clients reconnect, to the cloud.`,
	};
	return `New flows go to the cloud; the server keeps running. ${ends[form.fate.value]}${back(form)}`;
}

function body(form) {
	const made = {};
	if (form.for?.value) made.for = form.for.value;
	if (form.fate?.value === "drain") made.drain = `${Number(form.seconds.value)}s`;
	if (form.fate?.value === "now") made.now = true;
	return made;
}

const stopped = (s) => ["stopped", "draining", "removing"].includes(s.state);
const NOT_RUNNING = "it is stopped, or about to be";

// unfit(status): why it makes no sense now, or ""; sentence(service, form's elements)
const ACTIONS = [
	{
		title: "Enable", verb: "enable", key: "e", done: "enabled", fields: () => [lasting()],
		unfit: (s) => (stopped(s) ? NOT_RUNNING : s.steering === "edge" && s.turns_back_in === null ? "it is enabled already" : ""),
		sentence({ raw }, form) {
			const asked = model.status(raw).share;
			return `New flows go to the edge${asked < 100 ? `, ${asked} % of them` : ""}. Flows that are on the cloud stay there until they end.${back(form)}`;
		},
	},
	{
		title: "Disable", verb: "disable", key: "d", done: "disabled", fields: () => [fates("stay"), lasting()], sentence: disabling,
		unfit: (s) => (stopped(s) ? NOT_RUNNING : s.steering !== "edge" ? "it is disabled already" : ""),
	},
	{
		title: "Drain", verb: "disable", key: "D", done: "draining", tone: "danger", fields: () => [fates("drain"), lasting()], sentence: disabling,
		unfit: (s) => (stopped(s) ? NOT_RUNNING : ""),
	},
	{
		title: "Restart", verb: "restart", done: "restarting",
		unfit: (s) => (stopped(s) ? NOT_RUNNING : ""),
		sentence: (service) =>
			service.spec?.upgrade === "replace"
				? `This service can't run twice: new flows go to the cloud until its ${flows(service)} ended, in ${drain(service)} at most, and the new processes listen.`
				: `New processes of the same spec start beside the old ones and take new flows once they listen. The old ones keep their ${flows(service)} for ${drain(service)} at most.`,
	},
	{
		title: "Stop", verb: "stop", done: "stopping", tone: "danger",
		unfit: (s) => (stopped(s) ? NOT_RUNNING : ""),
		sentence: (service) =>
			`New flows go to the cloud. The server ends with the last of its ${flows(service)}; what is left after ${drain(service)} is reset. The spec is kept: Start begins it again.`,
	},
	{
		title: "Start", verb: "start", done: "started",
		unfit: (s) => (["stopped", "draining", "dead"].includes(s.state) ? "" : "it runs"),
		sentence: () => "The server is started. It takes new flows once it listens, unless it is disabled.",
	},
];

const why = (action, service) => forbidden() || action.unfit(model.status(service.raw));

async function perform(action, service) {
	const no = why(action, service);
	if (no) return toast(`${service.name}: ${no}`);
	const done = await ask({
		title: `${action.title} ${service.name}?`,
		label: action.title,
		tone: action.tone,
		fields: action.fields?.(),
		sentence: (form) => action.sentence(service, form.elements),
		act: (form) => request("POST", `v1/services/${encodeURIComponent(service.name)}/${action.verb}`, body(form.elements)),
	});
	if (done) toast(`${service.name}: ${action.done}`);
}

/** By keyboard: e, d or D on a service. Whether the key is one of these. */
export function byKey(key, service) {
	const action = ACTIONS.find((a) => a.key === key);
	if (!action || !service) return false;
	perform(action, service);
	return true;
}

/** The buttons of a service. What can't be done now says why when asked, and stays reachable. */
export function buttons(service) {
	const made = ACTIONS.map((action) => {
		const node = h("button", { type: "button", "aria-keyshortcuts": action.key, on: { click: () => perform(action, service) } }, action.title);
		return { action, node };
	});
	return {
		node: h("div", { class: "row actions", role: "group", "aria-label": "Actions" }, made.map((m) => m.node)),
		update() {
			for (const { action, node } of made) {
				const no = why(action, service);
				node.setAttribute("aria-disabled", Boolean(no));
				node.title = no || (action.key ? `Key: ${action.key}` : "");
			}
		},
	};
}
